"""The S100 backend, on a double of the runtime, which is held against the real one's stubs."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import numpy as np
import pytest
from nano import MODELS, draw_scene
from s100 import DOUBLES, use_double, write_model, write_nano
from wheels import download_wheel

from hobot_llamacpp_py.config import EncoderConfig
from hobot_llamacpp_py.errors import InferenceError, ModelFileError
from hobot_llamacpp_py.vision.bpu_s100 import BpuS100Encoder
from hobot_llamacpp_py.vision.encoder import open_backend, open_encoder
from hobot_llamacpp_py.vision.preprocess import fit, normalise
from hobot_llamacpp_py.vision.tensors import input_spec

PIXELS = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
SPEC = input_spec([1, 3, 8, 8], 0, 'vit.hbm')
# What the double gives for PIXELS: the number's place plus the mean of the input.
EXPECTED = np.arange(12).reshape(4, 3) + normalise(PIXELS, SPEC).mean()
BLACK = np.zeros((8, 8, 3), np.uint8)


@pytest.fixture(autouse=True)
def double(monkeypatch: pytest.MonkeyPatch) -> None:
    use_double(monkeypatch)


def tensor(shape: list[int], dtype: str = 'F32', **quant: object) -> dict[str, object]:
    return dict(shape=shape, dtype=dtype, **quant)


@pytest.mark.parametrize('shape', [[1, 4, 3], [1, 4, 3, 1], [1, 1, 4, 3], [4, 3]])
def test_reads_the_model(tmp_path: Path, shape: list[int]) -> None:
    """Size and output come from the runtime's metadata, whatever axes of length one it has."""
    encoder = BpuS100Encoder(write_model(tmp_path / 'v.hbm', outputs={'o': tensor(shape)}), 0)
    assert (encoder.input_size, encoder.n_tokens, encoder.n_embd) == ((8, 8), 4, 3)
    np.testing.assert_allclose(encoder.encode(PIXELS), EXPECTED, rtol=1e-5)


def test_pixels_come_in_rgb_order(tmp_path: Path) -> None:
    """A model with pixels as input gets them as RGB and does the normalisation itself."""
    path = write_model(tmp_path / 'v.hbm', inputs={'i': tensor([1, 8, 8, 3], 'U8')})
    expected = np.arange(12).reshape(4, 3) + PIXELS.mean()
    np.testing.assert_allclose(BpuS100Encoder(path, 0).encode(PIXELS), expected, rtol=1e-5)


@pytest.mark.parametrize(
    'quant',
    [
        dict(dtype='S16', scale=[0.001]),
        dict(dtype='S8', scale=[0.1], zero_point=[-20]),
        dict(dtype='S16', scale=[0.001, 0.002, 0.003], zero_point=[5, -5, 0], axis=2),
    ],
    ids=str,
)
def test_quantised_output(tmp_path: Path, quant: dict) -> None:
    """Integers become numbers by the scale and zero point of their axis."""
    path = write_model(tmp_path / 'v.hbm', outputs={'o': tensor([1, 4, 3], **quant)})
    error = np.abs(BpuS100Encoder(path, 0).encode(PIXELS) - EXPECTED).max()
    assert error <= max(quant['scale']) / 2 + 1e-6


@pytest.mark.parametrize(
    'quant',
    [
        dict(dtype='S16', scale=[0.001]),
        dict(dtype='S8', scale=[0.02, 0.03, 0.04], zero_point=[1, 2, 3], axis=1),
    ],
    ids=str,
)
def test_quantised_input(tmp_path: Path, quant: dict) -> None:
    """A model with integer input gets the nearest integers to the pixel values."""
    path = write_model(tmp_path / 'v.hbm', inputs={'i': tensor([1, 3, 8, 8], **quant)})
    error = np.abs(BpuS100Encoder(path, 0).encode(PIXELS) - EXPECTED).max()
    assert error <= max(quant['scale']) / 2 + 1e-5


def test_embeddings_outlive_the_next_run(tmp_path: Path) -> None:
    """What was returned does not change when the next picture is encoded."""
    encoder = BpuS100Encoder(write_model(tmp_path / 'v.hbm'), 0)
    first = encoder.encode(PIXELS)
    encoder.encode(BLACK)
    np.testing.assert_allclose(first, EXPECTED, rtol=1e-5)


@pytest.mark.parametrize(('core', 'cores'), [(0, [0]), (1, [0]), (2, [1]), (4, [3])])
def test_core_and_priority(tmp_path: Path, core: int, cores: list[int]) -> None:
    """bpu_core and bpu_priority reach the runtime; its cores count from 0, ours from 1."""
    encoder = BpuS100Encoder(write_model(tmp_path / 'v.hbm'), 0, core, 200)
    scheduling = encoder._runtime.sched_params['vit']
    assert (scheduling.bpu_cores, scheduling.priority) == (cores, 200)


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        (
            dict(inputs={'a': tensor([1, 3, 8, 8]), 'b': tensor([1])}),
            'expected one input, found a',
        ),
        (dict(inputs={'a': tensor([1, 4, 8, 8])}), r'expected \[1, 3, H, W\]'),
        (dict(inputs={'a': tensor([1, 3, 8, 8], 'S16')}), 'has type S16; expected F32'),
        (dict(inputs={'a': tensor([1, 3, 8, 8], 'F64')}), 'has type .*F64; expected F32'),
        (dict(outputs={'a': tensor([1, 4]), 'b': tensor([1, 4])}), 'expected one output'),
        (dict(outputs={'a': tensor([1, 4, 3], 'S16')}), 'type S16 without a scale'),
        (
            dict(outputs={'a': tensor([1, 4, 3], 'S8', scale=[1, 2])}),
            '2 scales and 1 zero points along',
        ),
        (dict(outputs={'a': tensor([2, 4, 3])}), r'expected \[1, n_tokens, n_embd\]'),
    ],
)
def test_refused(tmp_path: Path, changes: dict, words: str) -> None:
    """A model that is no vision encoder is told with its path and what was expected."""
    path = write_model(tmp_path / 'v.hbm', **changes)
    with pytest.raises(ModelFileError, match=words) as caught:
        BpuS100Encoder(path, 0)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ('changes', 'core', 'words'),
    [
        (dict(fail='hbUCPSubmitTask failed'), 0, 'BPU failed: hbUCPSubmitTask failed'),
        (dict(nan=True), 0, 'NaN or infinity'),
        (dict(), 7, 'Expected 0~3.*a bpu_core that the board lacks'),
    ],
)
def test_failing_inference(tmp_path: Path, changes: dict, core: int, words: str) -> None:
    """A model that cannot run is told when it is loaded, with the likely causes."""
    path = write_model(tmp_path / 'v.hbm', **changes)
    with pytest.raises(InferenceError, match=words) as caught:
        BpuS100Encoder(path, 0, core)
    assert str(path) in str(caught.value)


def test_damaged_file(tmp_path: Path) -> None:
    """A file that is no model is told with its path and the likely causes."""
    path = tmp_path / 'v.hbm'
    path.write_text('hello')
    with pytest.raises(ModelFileError, match=r'v\.hbm: .* wrong|for another board') as caught:
        open_encoder(path, 0)
    assert 'ION memory' in str(caught.value)


def test_without_the_runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the runtime is not installed the error names it, the file and what to do."""
    monkeypatch.setitem(sys.modules, 'hbm_runtime', None)
    with pytest.raises(ModelFileError, match=r'v\.hbm needs .* hbm_runtime, which cannot be'):
        BpuS100Encoder(write_model(tmp_path / 'v.hbm'), 0)


def test_nano_model(tmp_path: Path, family: str) -> None:
    """The built-in encoder on the double gives exactly what it gives on ONNX Runtime."""
    encoder, _, model_type = MODELS[family]
    reference = open_backend(encoder, model_type, EncoderConfig('onnx'))
    tested = open_encoder(write_nano(tmp_path / 'v.hbm', family), model_type)
    fitted = fit(draw_scene(3)[1], reference.input_size)
    np.testing.assert_array_equal(tested.encode(fitted), reference.encode(fitted))
    tested.close()


# -- the double itself ---------------------------------------------------------------------------


@pytest.fixture(scope='module')
def stubs(tmp_path_factory: pytest.TempPathFactory) -> ast.Module:
    """Return the type stubs of the real wheel, from PyPI; a machine without network skips."""
    folder = tmp_path_factory.mktemp('wheel')
    download_wheel('hbm-runtime==0.1.0.post1', '3.10', 'manylinux_2_34_aarch64', folder)
    return ast.parse((folder / 'hbm_runtime' / 'HB_HBMRuntime.pyi').read_text('utf-8'))


def test_double_has_the_real_interface(stubs: ast.Module) -> None:
    """Every class, attribute, method and parameter of the stubs is there in the double."""
    import hbm_runtime

    assert Path(hbm_runtime.__file__).is_relative_to(DOUBLES)
    classes = [node for node in stubs.body if isinstance(node, ast.ClassDef)]
    assert {node.name for node in classes} == set(hbm_runtime.__all__)
    has_values = dict(
        HB_HBMRuntime=lambda: hbm_runtime.HB_HBMRuntime([]),
        QuantParams=lambda: hbm_runtime.QuantParams({}),
        SchedParam=hbm_runtime.SchedParam,
    )
    for node in classes:
        double = has_values.get(node.name, lambda node=node: getattr(hbm_runtime, node.name))()
        for member in node.body:
            if isinstance(member, ast.AnnAssign):
                assert hasattr(double, member.target.id), (node.name, member.target.id)
            elif isinstance(member, ast.FunctionDef):
                assert hasattr(double, member.name), (node.name, member.name)
    given = next(
        node
        for node in ast.walk(stubs)
        if isinstance(node, ast.FunctionDef) and node.name == 'set_scheduling_params'
    )
    names = {argument.arg for argument in given.args.args} - {'self'}
    code = hbm_runtime.HB_HBMRuntime.set_scheduling_params.__code__
    assert names == set(code.co_varnames[1 : code.co_argcount])


def test_double_runs_all_documented_forms(tmp_path: Path) -> None:
    """An array, inputs by name and inputs by model and name give the same nested result."""
    import hbm_runtime

    runtime = hbm_runtime.HB_HBMRuntime(str(write_model(tmp_path / 'v.hbm')))
    values = normalise(PIXELS, SPEC)
    for form in (values, {'pixels': values}, {'vit': {'pixels': values}}):
        output = runtime.run(form, priority={'vit': 1}, bpu_cores={'vit': [0]})
        np.testing.assert_allclose(output['vit']['tokens'][0], EXPECTED, rtol=1e-5)
    with pytest.raises(ValueError, match='Data type mismatch'):
        runtime.run(values.astype(np.float64))
    with pytest.raises(ValueError, match='Mismatch in tensor dimensions'):
        runtime.run(values[0])
    with pytest.raises(ValueError, match=r'Only \.hbm supported'):
        hbm_runtime.HB_HBMRuntime('v.bin')
