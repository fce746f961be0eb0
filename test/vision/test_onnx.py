"""The ONNX backend reads size and layout from the file and refuses what is no encoder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from nano import MODELS, draw_scene
from onnx import TensorProto, helper, numpy_helper

from hobot_llamacpp_py.engine import Engine
from hobot_llamacpp_py.errors import InferenceError, ModelFileError
from hobot_llamacpp_py.families import FAMILIES, INTERNVL, SMOLVLM2
from hobot_llamacpp_py.vision.backends import backend_of
from hobot_llamacpp_py.vision.open import open_encoder
from hobot_llamacpp_py.vision.preprocess import fit


def write_model(
    path: Path,
    shape: list[int | str],
    output: np.ndarray,
    inputs: int = 1,
    dtype: int = TensorProto.FLOAT,
) -> Path:
    """Write a model that gives `output` for any picture."""
    names = [f'picture{i}' for i in range(inputs)]
    graph = helper.make_graph(
        [helper.make_node('Identity', ['output'], ['tokens'])],
        'test',
        [helper.make_tensor_value_info(name, dtype, shape) for name in names],
        [helper.make_tensor_value_info('tokens', TensorProto.FLOAT, output.shape)],
        [numpy_helper.from_array(output, 'output')],
    )
    opset = helper.make_opsetid('', 17)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=8), path)
    return path


EMBEDDINGS = np.arange(12, dtype=np.float32).reshape(1, 4, 3)


@pytest.mark.parametrize('shape', [[1, 3, 48, 64], [1, 48, 64, 3], ['batch', 3, 48, 64]])
@pytest.mark.parametrize('dtype', [TensorProto.FLOAT, TensorProto.FLOAT16])
def test_reads_the_input(tmp_path: Path, shape: list, dtype: int) -> None:
    """Size, layout and number type come from the file."""
    path = write_model(tmp_path / 'vit.onnx', shape, EMBEDDINGS, dtype=dtype)
    encoder = open_encoder(path, INTERNVL)
    assert encoder.input_size == (64, 48)
    assert (encoder.n_tokens, encoder.n_embd) == (4, 3)
    np.testing.assert_array_equal(encoder.encode(np.zeros((48, 48, 3), np.uint8)), EMBEDDINGS[0])


@pytest.mark.parametrize('shape', [(4, 3), (1, 4, 3), (1, 4, 3, 1)])
def test_output_shapes(tmp_path: Path, shape: tuple) -> None:
    """Tokens may come with or without the axes of length one that exporters leave."""
    path = write_model(tmp_path / 'vit.onnx', [1, 3, 8, 8], EMBEDDINGS.reshape(shape))
    embeddings = open_encoder(path, SMOLVLM2).encode(np.zeros((8, 8, 3), np.uint8))
    np.testing.assert_array_equal(embeddings, EMBEDDINGS[0])


@pytest.mark.parametrize(
    ('shape', 'output', 'words'),
    [
        ([1, 3, 'h', 'w'], EMBEDDINGS, 'is not fixed'),
        ([1, 4, 8, 8], EMBEDDINGS, r'expected \[1, 3, H, W\]'),
        ([2, 3, 8, 8], EMBEDDINGS, r'expected \[1, 3, H, W\]'),
        ([3, 8, 8], EMBEDDINGS, r'expected \[1, 3, H, W\]'),
        ([1, 3, 8, 8], EMBEDDINGS.reshape(2, 2, 3), r'expected \[1, n_tokens, n_embd\]'),
        ([1, 3, 8, 8], EMBEDDINGS.ravel(), r'expected \[1, n_tokens, n_embd\]'),
    ],
)
def test_refused(tmp_path: Path, shape: list, output: np.ndarray, words: str) -> None:
    """A model that is no vision encoder is told with its path and what was expected."""
    path = write_model(tmp_path / 'vit.onnx', shape, output)
    with pytest.raises(ModelFileError, match=words) as caught:
        open_encoder(path, INTERNVL)
    assert str(path) in str(caught.value)


def test_two_inputs_are_refused(tmp_path: Path) -> None:
    """A model with a second input is not guessed at."""
    path = write_model(tmp_path / 'vit.onnx', [1, 3, 8, 8], EMBEDDINGS, inputs=2)
    with pytest.raises(ModelFileError, match='expected one float input, a picture; found'):
        open_encoder(path, INTERNVL)


def test_nan_is_refused(tmp_path: Path) -> None:
    """Embeddings that are no numbers never reach the decoder."""
    path = write_model(tmp_path / 'vit.onnx', [1, 3, 8, 8], EMBEDDINGS * np.nan)
    with pytest.raises(InferenceError, match='NaN or infinity'):
        open_encoder(path, INTERNVL)


@pytest.mark.parametrize('content', [b'', b'hello', b'\x08\x08'])
def test_damaged_file(tmp_path: Path, content: bytes) -> None:
    """A file that is no ONNX model is told with its path."""
    path = tmp_path / 'vit.onnx'
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=r'vit\.onnx'):
        open_encoder(path, INTERNVL)


def test_missing_file(tmp_path: Path) -> None:
    """A missing file is told as such."""
    with pytest.raises(ModelFileError, match='no such file'):
        open_encoder(tmp_path / 'none.onnx', INTERNVL)


def test_width_must_be_the_decoders(tmp_path: Path, family: str) -> None:
    """An encoder of another width than the decoder's is refused, with both widths."""
    _, decoder, kind = MODELS[family]
    path = write_model(tmp_path / 'vit.onnx', [1, 3, 8, 8], EMBEDDINGS)
    with pytest.raises(ModelFileError, match=r'tokens of width 3, but nano_\w+\.gguf takes 128'):
        Engine.open(decoder, path, family=kind)


def test_normalisation_matters(family: str) -> None:
    """Each family has a normalisation of its own: the other's gives other embeddings."""
    path, _, kind = MODELS[family]
    another = next(other for other in FAMILIES.values() if other != kind)
    own, other = open_encoder(path, kind), open_encoder(path, another)
    fitted = fit(draw_scene(1)[1], own.input_size, 'letterbox')
    difference = own.encode(fitted) - other.encode(fitted)
    assert np.abs(difference).max() > 0.1


@pytest.mark.parametrize(
    ('name', 'backend'),
    [('a.bin', 'bpu_x5'), ('a.HBM', 'bpu_s100'), ('a.onnx', 'onnx'), ('mmproj-a.gguf', 'mmproj')],
)
def test_suffix_chooses_the_backend(name: str, backend: str) -> None:
    """The file's suffix chooses, unless a backend is asked for."""
    assert backend_of(name) == backend
    assert backend_of(name, 'onnx') == 'onnx'
    with pytest.raises(ModelFileError, match="no encoder backend for the suffix '.pt'"):
        backend_of('a.pt')
