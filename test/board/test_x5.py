"""What is the X5's own: its binding's forms of input and output, and its traps."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from emulated import assert_fed, assert_refused, encode_all, expected, use_board, write_model
from wheels import download_wheel

from hobot_llamacpp_py.config import EncoderConfig
from hobot_llamacpp_py.errors import InferenceError, ModelFileError
from hobot_llamacpp_py.families import INTERNVL
from hobot_llamacpp_py.vision.open import open_encoder
from hobot_llamacpp_py.vision.preprocess import normalise
from hobot_llamacpp_py.vision.tensors import input_spec, nv12

PIXELS = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
RGB = PIXELS[:, :, ::-1]


@pytest.fixture(autouse=True)
def board(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    use_board(monkeypatch, 'x5')
    caplog.set_level(logging.INFO, 'hobot_llamacpp_py')


def assert_gives(path: Path, values: np.ndarray, pixels: np.ndarray = PIXELS) -> None:
    """Assert that a model is fed these values when it is given a picture."""
    encoder = open_encoder(path, INTERNVL)
    assert (encoder.input_size, encoder.n_tokens, encoder.n_embd) == ((8, 8), 4, 6)
    np.testing.assert_allclose(encoder.encode(pixels), expected(values, (4, 6)), atol=0.01)
    encoder.close()


def test_pixel_input(tmp_path: Path) -> None:
    """A model that normalises by itself gets pixels in its order, or NV12."""
    values = {
        'images u8 nhwc valid=1,8,8,3': RGB,
        'images u8 nchw valid=1,3,8,8': RGB.transpose(2, 0, 1),
        'images bgr nhwc valid=1,8,8,3': PIXELS,
        'images nv12 nchw valid=1,3,8,8': nv12(PIXELS, input_spec([1, 3, 8, 8], INTERNVL, '')),
        'images nv12 nhwc valid=1,8,8,3': nv12(PIXELS, input_spec([1, 3, 8, 8], INTERNVL, '')),
    }
    assert_fed('x5', tmp_path, values, PIXELS)


def test_output_types(tmp_path: Path) -> None:
    """Scaled integers become numbers; axes of length one may stand anywhere."""
    steps = {
        's16 nchw valid=1,4,6,1 scale=0.5': 0.5,
        's32 nhwc valid=1,4,6,1 scale=0.5,0.5,0.25,0.25': (0.5, 0.5, 0.25, 0.25),
        'f32 nhwc valid=1,1,4,6': None,
    }
    models = [([], {'output': f'tokens {output}'}) for output in steps]
    found = encode_all('x5', tmp_path, models, PIXELS)
    values = expected(normalise(PIXELS, input_spec([1, 3, 8, 8], INTERNVL, '')), (4, 6))
    for (output, step), embeddings in zip(steps.items(), found, strict=True):
        right = values if step is None else np.trunc(values) * np.reshape(step, (-1, 1))
        np.testing.assert_allclose(embeddings, right, atol=0.01, err_msg=output)


def test_core_and_priority(tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch) -> None:
    """bpu_core and bpu_priority reach the library, and its output reaches our log."""
    monkeypatch.setenv('BPUSIM_LOG', '1')
    config = EncoderConfig(bpu_core=2, bpu_priority=200)
    open_encoder(write_model(tmp_path / 'v.bin'), INTERNVL, config).close()
    assert 'encoder process: [bpusim] Infer vit core 2 priority 200' in caplog.text


OLDER_BUILD = """
import numpy as np
from hobot_dnn_rdkx5 import pyeasy_dnn as newer

class Model:
    def __init__(self, model):
        self.model = model
    def __getattr__(self, name):
        return getattr(self.model, name)
    def forward(self, array, core_id=0, priority=0):
        if array.dtype != np.float32:
            raise TypeError('expected float32')
        return self.model.forward(array.view(np.uint8), core_id=core_id, priority=priority)

def load(path):
    print('an older build')
    return [Model(model) for model in newer.load(path)]
"""


def test_older_convention(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A build that takes arrays as they are is noticed; the system image's build comes first."""
    (tmp_path / 'hobot_dnn').mkdir()
    (tmp_path / 'hobot_dnn/__init__.py').touch()
    (tmp_path / 'hobot_dnn/pyeasy_dnn.py').write_text(OLDER_BUILD)
    monkeypatch.setenv('BPU_SIM_PYTHONPATH', str(tmp_path))
    values = normalise(PIXELS, input_spec([1, 3, 8, 8], INTERNVL, ''))
    assert_gives(write_model(tmp_path / 'v.bin'), values)
    assert 'encoder process: an older build' in caplog.messages


def test_refused(tmp_path: Path) -> None:
    """What cannot give right numbers is told with its path, what was expected, and the cause."""
    cases: list[tuple[dict[str, str], list[str], str]] = [
        (dict(output='t f32 nchw valid=1,4,6,1 aligned=1,4,8,1'), [], 'padded to 1 x 4 x 8 x 1'),
        (dict(output='t f32 nchw valid=1,4,6'), [], 'float32 1 x 4 x 6, .*expected four axes'),
        (dict(output='t f16 nchw valid=1,4,6,1'), [], 'output is float16 1 x 4 x 6 x 1, which'),
        (dict(output='t s16 nchw valid=1,4,6,1'), [], 'with 0 scales; expected one'),
        (dict(output='t f32 nchw valid=2,4,6,1'), [], r'expected \[1, n_tokens, n_embd\]'),
        (dict(inputs='i f16 nchw valid=1,3,8,8'), [], 'expected one input, .*; found float16'),
        (dict(inputs='i nv12_separate nchw valid=1,3,8,8'), [], 'found NV12_SEPARATE'),
        (dict(inputs='i rgb nhwc valid=1,8,8,3'), [], 'RGB input does not arrive on the BPU as'),
        (dict(inputs='i f32 nchw valid=1,4,8,8'), [], r'expected \[1, 3, H, W\]'),
        (dict(inputs='i nv12 nchw valid=1,3,8,7'), [], 'width and height must be even'),
        (dict(), ['input more f32 nchw valid=1,3,8,8'], 'found float32, float32'),
        (dict(), ['output more f32 nchw valid=1,4,6,1'], 'expected one output, .*tokens, more'),
        (dict(), ['fail alloc_in'], 'prepare_model_tensor failed.* too little ION memory'),
        (dict(), ['nonsense'], 'hbDNNInitializeFromFiles failed; .*a model for another board'),
    ]
    models = [(lines, changes) for changes, lines, _ in cases]
    assert_refused(encode_all('x5', tmp_path, models, PIXELS), [words for *_, words in cases])


def test_numpy_2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With numpy 2, which breaks the binding's import, the error says which numpy to install."""
    download_wheel('numpy==2.2.6', '3.11', 'manylinux2014_aarch64', tmp_path)
    monkeypatch.setenv('BPU_SIM_PYTHONPATH', str(tmp_path))
    with pytest.raises(ModelFileError, match=r"breaks with numpy 2\.2\.6: pip3 install 'numpy>=1"):
        open_encoder(write_model(tmp_path / 'v.bin'), INTERNVL)


@pytest.mark.parametrize('fault', ['fail infer', 'fail wait'])
def test_failing_inference(tmp_path: Path, fault: str) -> None:
    """An inference that the library refuses is told with its causes; the next one works."""
    trigger = tmp_path / 'trigger'
    encoder = open_encoder(write_model(tmp_path / 'v.bin', fault, f'while {trigger}'), INTERNVL)
    before = encoder.encode(PIXELS)
    trigger.touch()
    words = 'BPU failed: forward execution failed.* Likely causes: too little ION'
    with pytest.raises(InferenceError, match=words):
        encoder.encode(PIXELS)
    trigger.unlink()
    np.testing.assert_array_equal(encoder.encode(PIXELS), before)
    encoder.close()
    with pytest.raises(InferenceError, match=r'v\.bin: '):
        open_encoder(write_model(tmp_path / 'v.bin', fault), INTERNVL)


def test_core_that_is_not_there(tmp_path: Path) -> None:
    """A core that the board lacks is named among the likely causes."""
    config = EncoderConfig(bpu_core=7)
    with pytest.raises(InferenceError, match=r'core_id 7.*a bpu_core that the board lacks'):
        open_encoder(write_model(tmp_path / 'v.bin'), INTERNVL, config)
