"""What is the S100's own: scales, strides, scheduling, and inferences that end the process."""

from __future__ import annotations

import logging
import zipfile
from pathlib import Path

import numpy as np
import pytest
from emulated import (
    Model,
    assert_fed,
    assert_refused,
    encode_all,
    expected,
    run_on,
    use_board,
    write_model,
)
from nano import ROOT

from hobot_llamacpp_py.config import EncoderConfig
from hobot_llamacpp_py.errors import InferenceError, ModelFileError
from hobot_llamacpp_py.families import INTERNVL
from hobot_llamacpp_py.vision.open import open_encoder
from hobot_llamacpp_py.vision.preprocess import normalise
from hobot_llamacpp_py.vision.tensors import input_spec

PIXELS = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
SPEC = input_spec([1, 3, 8, 8], INTERNVL, '')
VALUES = normalise(PIXELS, SPEC)


@pytest.fixture(autouse=True)
def board(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    use_board(monkeypatch, 's100')
    caplog.set_level(logging.INFO, 'hobot_llamacpp_py')


def encoded(path: Path) -> np.ndarray:
    encoder = open_encoder(path, INTERNVL)
    assert (encoder.input_size, encoder.n_tokens, encoder.n_embd) == ((8, 8), 4, 6)
    embeddings = encoder.encode(PIXELS)
    encoder.close()
    return embeddings


# -- what it is fed, what it gives ---------------------------------------------------------------


def scaled(scale: list[float], zero: list[int], axis: int) -> np.ndarray:
    """Return the pixel values as integers, by plain arithmetic."""
    shape = [1, 1, 1, 1]
    shape[axis] = len(scale)
    integers = VALUES / np.reshape(scale, shape) + np.reshape(zero, shape)
    return np.rint(integers)


def test_inputs(tmp_path: Path) -> None:
    """Each kind of input gets its numbers, padded or not: floats, scaled integers, pixels."""
    values = {
        'i f32 valid=1,3,8,8 stride=1024,320,40,4': VALUES,
        'i f16 valid=1,3,8,8': VALUES.astype(np.float16),
        'i f16 valid=1,3,8,8 stride=512,160,20,2': VALUES.astype(np.float16),
        'i s16 valid=1,3,8,8 scale=0.001': scaled([0.001], [0], 0),
        'i s16 valid=1,3,8,8 stride=512,160,20,2 scale=0.001 zero=7': scaled([0.001], [7], 0),
        'i s8 valid=1,3,8,8 scale=0.03,0.04,0.05 zero=1,2,3 axis=1': scaled(
            [0.03, 0.04, 0.05], [1, 2, 3], 1
        ),
        'i u8 valid=1,8,8,3': PIXELS[:, :, ::-1],
        'i u8 valid=1,3,8,8': PIXELS[:, :, ::-1].transpose(2, 0, 1),
    }
    assert_fed('s100', tmp_path, values, PIXELS)


def test_outputs(tmp_path: Path) -> None:
    """Padding is left out, and integers become numbers by their scale and zero point."""
    steps = {
        'o f32 valid=1,4,6 stride=256,64,4': (None, 0),
        'o f32 valid=4,6': (None, 0),
        'o f32 valid=1,1,4,6': (None, 0),
        'o f16 valid=1,4,6 stride=64,16,2': (None, 0),
        'o s16 valid=1,4,6 scale=0.5 zero=3': (0.5, 3),
        'o s32 valid=1,4,6 scale=0.5 zero=-3': (0.5, -3),
        'o s8 valid=1,4,6 stride=64,16,1 scale=0.5 zero=3': (0.5, 3),
        'o s16 valid=1,4,6 stride=128,32,2 scale=0.5,2,4,1 axis=1': ([0.5, 2, 4, 1], 0),
    }
    models = [([], {'output': output}) for output in steps]
    found = encode_all('s100', tmp_path, models, PIXELS)
    for (output, (step, zero)), embeddings in zip(steps.items(), found, strict=True):
        values = expected(VALUES, (4, 6))
        if step is not None:
            integers = np.trunc(values)
            if ' s8 ' in output:  # the simulated BPU keeps the low byte
                integers = integers.astype(np.int64).astype(np.int8).astype(np.float64)
            values = (integers - zero) * np.reshape(step, (-1, 1))
        tolerance = dict(rtol=1e-3, atol=0.1) if ' f16 ' in output else dict(atol=0.01)
        np.testing.assert_allclose(embeddings, values, err_msg=output, **tolerance)


@pytest.mark.parametrize(
    ('core', 'mask'), [(0, '0x80'), (1, '0x1'), (2, '0x2'), (3, '0x4'), (4, '0x8')]
)
def test_core_and_priority(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    core: int,
    mask: str,
) -> None:
    """bpu_core and bpu_priority reach the library; its cores count from 0, ours from 1."""
    monkeypatch.setenv('BPUSIM_LOG', '1')
    config = EncoderConfig(bpu_core=core, bpu_priority=200)
    open_encoder(write_model(tmp_path / 'v.hbm'), INTERNVL, config).close()
    assert f'encoder process: [bpusim] priority 200 cores {mask}' in caplog.messages


# -- what cannot be used -------------------------------------------------------------------------


def test_refused(tmp_path: Path) -> None:
    """A model that is no vision encoder is told with its path and what was expected."""
    cases: list[tuple[dict[str, str], list[str], str]] = [
        (dict(inputs='a f32 valid=1,4,8,8'), [], r'expected \[1, 3, H, W\]'),
        (dict(inputs='a s16 valid=1,3,8,8'), [], 'has type S16; expected F32'),
        (dict(inputs='a f64 valid=1,3,8,8'), [], 'has type F64; expected F32'),
        (dict(inputs='a s8 valid=1,3,8,8 scale=1,2 axis=1'), [], '2 scales and 1 zero points'),
        (dict(output='a s16 valid=1,4,6'), [], 'type S16 without a scale'),
        (dict(output='a f64 valid=1,4,6'), [], 'type F64 without a scale'),
        (dict(output='a f32 valid=2,4,6'), [], r'expected \[1, n_tokens, n_embd\]'),
        (dict(), ['input more f32 valid=1,3,8,8'], 'expected one input, found images, more'),
        (dict(), ['output more f32 valid=1,4,6'], 'expected one output, found tokens, more'),
    ]
    models = [(lines, changes) for changes, lines, _ in cases]
    assert_refused(encode_all('s100', tmp_path, models, PIXELS), [words for *_, words in cases])


@pytest.mark.parametrize('name', ['v.model', 'v.HBM', 'v'])
def test_suffix(tmp_path: Path, name: str) -> None:
    """A file with another suffix, which the library would refuse, is told as such."""
    path = write_model(tmp_path / name)
    with pytest.raises(ModelFileError, match=rf'{name}: .* suffix \.hbm only: rename it'):
        open_encoder(path, INTERNVL, EncoderConfig('bpu_s100'))


def test_other_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A binding for another Python, which is installed, is not told to be installed."""
    package = Path(
        run_on('s100', '-c', 'import hbm_runtime; print(*hbm_runtime.__path__)').strip()
    )
    (wheel,) = (package.parent.parent / 'wheels').glob('*.whl')
    with zipfile.ZipFile(wheel) as file:  # as published: for 3.10
        file.extractall(tmp_path)
    monkeypatch.setenv('BPU_SIM_SITE', str(tmp_path))
    words = 'compiled for Python 3.10, .*3.11.*: start the node with the Python that hbm-runtime'
    with pytest.raises(ModelFileError, match=words):
        open_encoder(write_model(tmp_path / 'v.hbm'), INTERNVL)


def test_core_that_is_not_there(tmp_path: Path) -> None:
    """A core that the board lacks is refused at the start, in the library's words and ours."""
    path = write_model(tmp_path / 'v.hbm')
    with pytest.raises(ModelFileError, match=r'refuses bpu_core 7.*the cores 1 to 4') as caught:
        open_encoder(path, INTERNVL, EncoderConfig(bpu_core=7))
    assert 'valid range: [0, 3]' in str(caught.value)


def test_failing_load(tmp_path: Path) -> None:
    """Whatever call fails while a model is loaded, the error names the file and the reason."""
    calls = [
        *('InitializeFromFiles', 'GetModelNameList', 'GetModelHandle', 'GetInputCount'),
        *('GetOutputCount', 'GetInputName', 'GetOutputName', 'GetInputTensorProperties'),
        *('GetOutputTensorProperties', 'GetInputDesc', 'GetOutputDesc', 'GetModelDesc'),
        'GetHBMDesc',
    ]
    models: list[Model] = [([f'fail {call} -77'], {}) for call in calls]
    words = 'cannot load it: .*code: -77.*ION'
    assert_refused(encode_all('s100', tmp_path, models, PIXELS), [words] * len(calls))


# -- what goes wrong while it runs ---------------------------------------------------------------


@pytest.mark.parametrize(
    ('call', 'words'),
    [
        ('MallocCached', r'BPU failed: .*code: -77.*hbUCPMallocCached.*Likely causes: too little'),
        ('MemFlush', r'BPU failed: .*code: -77.*Likely causes'),
        ('GetInputTensorProperties', r'BPU failed: .*code: -77.*tensor properties.* images'),
        ('GetOutputTensorProperties', r'BPU failed: .*code: -77.*tensor properties.* tokens'),
        # These end the process.
        ('InferV2', r'SIGABRT; its last words were: what\(\): .*code: -77.*hbDNNInferV2 failed'),
        ('SubmitTask', r'SIGABRT; .* what\(\): .*code: -77.*hbUCPSubmitTask failed'),
        ('WaitTaskDone', r'SIGABRT; .* what\(\): .*code: -77.*hbUCPWaitTaskDone failed'),
        (
            'GetTaskOutputTensorProperties',
            r'SIGABRT; .* what\(\): .*code: -77.*hbDNNGetTaskOutputTensorProperties failed',
        ),
    ],
)
def test_failing_inference(tmp_path: Path, call: str, words: str) -> None:
    """The error says what the library said, also where that ended the process; the next works."""
    trigger = tmp_path / 'trigger'
    path = write_model(tmp_path / 'v.hbm', f'fail {call} -77', f'while {trigger}')
    encoder = open_encoder(path, INTERNVL)
    before = encoder.encode(PIXELS)
    trigger.touch()
    with pytest.raises(InferenceError, match=words) as caught:
        encoder.encode(PIXELS)
    assert str(path) in str(caught.value)
    trigger.unlink()
    np.testing.assert_array_equal(encoder.encode(PIXELS), before)
    encoder.close()


def test_nothing_is_held(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When a picture is done the library holds its input and output, and no more."""
    monkeypatch.setenv('BPUSIM_LOG', '1')
    encoder = open_encoder(write_model(tmp_path / 'v.hbm'), INTERNVL)
    for _ in range(20):
        encoder.encode(PIXELS)
    encoder.close()
    held = [message for message in caplog.messages if message.endswith(' held')]
    assert len(held) == 21
    assert set(held) == {'encoder process: [bpusim] 2 memories, 0 tasks held'}


@pytest.mark.parametrize('call', ['ReleaseTask', 'Free', 'Release'])
def test_what_may_fail(tmp_path: Path, call: str) -> None:
    """Where only cleaning up fails, pictures are encoded all the same."""
    found = encoded(write_model(tmp_path / 'v.hbm', f'fail {call} -77'))
    np.testing.assert_allclose(found, expected(VALUES, (4, 6)), atol=0.01)


@pytest.mark.parametrize('call', ['InferV2', 'MallocCached'])
def test_failing_check(tmp_path: Path, call: str) -> None:
    """A model that does not even work at the start is refused then, with the library's words."""
    path = write_model(tmp_path / 'v.hbm', f'fail {call} -77')
    with pytest.raises((ModelFileError, InferenceError), match=r'v\.hbm: .*code: -77'):
        open_encoder(path, INTERNVL)


def test_embeddings_stay(tmp_path: Path) -> None:
    """Embeddings are those of their picture after later pictures, and when the model is freed."""
    script = f"""
import gc, sys, numpy as np
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from hobot_llamacpp_py.families import INTERNVL
from hobot_llamacpp_py.vision.bpu_s100 import BpuS100Encoder
encoder = BpuS100Encoder(Path({str(write_model(tmp_path / 'v.hbm'))!r}), INTERNVL)
found = [encoder.encode(np.full((8, 8, 3), level, np.uint8)) for level in range(5)]
copies = [embeddings.copy() for embeddings in found]
encoder.encode(np.zeros((8, 8, 3), np.uint8))
encoder.close()
del encoder
gc.collect()
for embeddings, copy in zip(found, copies, strict=True):
    print(np.array_equal(embeddings, copy), embeddings.sum())
"""
    right = [
        expected(normalise(np.full((8, 8, 3), level, np.uint8), SPEC), (4, 6)).sum()
        for level in range(5)
    ]
    lines = [line.split() for line in run_on('s100', '-c', script).splitlines()]
    assert [same for same, _ in lines] == ['True'] * 5
    np.testing.assert_allclose([float(total) for _, total in lines], right, rtol=1e-4)


# -- the binding, as our double has it -----------------------------------------------------------


def test_what_the_double_takes_for_granted(tmp_path: Path) -> None:
    """The real binding takes scheduling beforehand only, refuses a Path, and gives views."""
    path = write_model(tmp_path / 'v.hbm')
    script = f"""
import pathlib, numpy as np, hbm_runtime
runtime = hbm_runtime.HB_HBMRuntime({str(path)!r})
x = np.ones((1, 3, 8, 8), np.float32)

def of(call, *arguments, **options):
    try:
        call(*arguments, **options)
    except Exception as error:
        return type(error).__name__ + ': ' + str(error).splitlines()[0]

print(of(runtime.run, x, priority={{'vit': 1}}))
print(of(runtime.run, x.astype(np.float64)))
print(of(hbm_runtime.HB_HBMRuntime, pathlib.Path({str(path)!r})))
print(of(hbm_runtime.HB_HBMRuntime, {str(Path(__file__))!r}))
print(of(hbm_runtime.HB_HBMRuntime, 'none.hbm'))
print(of(runtime.set_scheduling_params, priority={{'vit': 300}}))
first = runtime.run({{'vit': {{'images': x}}}})['vit']['tokens']
print(first.flags.owndata, first.sum() == runtime.run(x)['vit']['tokens'].sum())
"""
    assert run_on('s100', '-c', script).splitlines() == [
        'RuntimeError: Unsupported type in kwargs: priority',
        "RuntimeError: Data type mismatch for input tensor 'images' in model 'vit':"
        " expected numpy dtype format 'f', but received 'd'",
        'TypeError: __init__(): incompatible constructor arguments. The following argument types'
        ' are supported:',
        'RuntimeError: Invalid model file extension. Only .hbm supported.',
        'RuntimeError: The input hbm model none.hbm does not exist.',
        'RuntimeError: Priority value for model "vit" is out of valid range [0, 255]: 300',
        'False True',
    ]


def test_the_gil_is_held(tmp_path: Path) -> None:
    """While a picture is inferred no other thread of the process runs."""
    log = tmp_path / 'log'
    path = write_model(tmp_path / 'v.hbm', 'sleep_ms 1000', f'log {log}')
    script = f"""
import os, select, threading, numpy as np, hbm_runtime
os.mkfifo({str(log)!r})
log = os.open({str(log)!r}, os.O_RDWR)
runtime = hbm_runtime.HB_HBMRuntime({str(path)!r})

def watch():
    assert os.read(log, 6) == b'begin\\n'
    # Without the GIL this line is not reached before the end of the run.
    print('ended' if select.select([log], [], [], 0)[0] else 'running')

watching = threading.Thread(target=watch)
watching.start()
runtime.run(np.ones((1, 3, 8, 8), np.float32))
watching.join()
"""
    assert run_on('s100', '-c', script) == 'ended\n'
