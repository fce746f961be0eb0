"""The X5 backend on the real binding, in its process, on an emulated board."""

from __future__ import annotations

import logging
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from nano import MODELS, ROOT, answer, draw_scene
from wheels import download_wheel
from x5 import BOARD, expected, nano_model, require_board, use_board, write_model

from hobot_llamacpp_py.config import DecoderConfig, EncoderConfig, SamplingConfig
from hobot_llamacpp_py.engine import Engine, Request, Turn
from hobot_llamacpp_py.errors import InferenceError, ModelFileError
from hobot_llamacpp_py.vision.encoder import VisionEncoder, open_encoder
from hobot_llamacpp_py.vision.preprocess import normalise
from hobot_llamacpp_py.vision.tensors import input_spec, nv12

PIXELS = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
SMALL = np.random.default_rng(1).integers(0, 256, (5, 8, 3), dtype=np.uint8)
RGB = PIXELS[:, :, ::-1]


@pytest.fixture(scope='session', autouse=True)
def built() -> None:
    require_board()


@pytest.fixture(autouse=True)
def board(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    use_board(monkeypatch)
    caplog.set_level(logging.INFO, 'hobot_llamacpp_py')


def child_of(encoder: VisionEncoder) -> int:
    return encoder._child._process.pid


def assert_gives(path: Path, values: np.ndarray, pixels: np.ndarray = PIXELS) -> None:
    """Assert that a model is fed these values when it is given a picture."""
    encoder = open_encoder(path, 0)
    assert (encoder.input_size, encoder.n_tokens, encoder.n_embd) == ((8, 8), 4, 6)
    np.testing.assert_allclose(encoder.encode(pixels), expected(values, (4, 6)), atol=0.01)
    encoder.close()


# -- what it is fed, what it gives ---------------------------------------------------------------


@pytest.mark.parametrize('pixels', [PIXELS, SMALL], ids=['whole', 'padded'])
@pytest.mark.parametrize('layout', ['nchw valid=1,3,8,8', 'nhwc valid=1,8,8,3'])
def test_float_input(tmp_path: Path, layout: str, pixels: np.ndarray) -> None:
    """A float32 model gets the normalised picture, whole, in the order of its axes."""
    shape = [int(length) for length in layout.split('=')[1].split(',')]
    values = normalise(pixels, input_spec(shape, 0, ''))
    assert_gives(write_model(tmp_path / 'v.bin', inputs=f'images f32 {layout}'), values, pixels)


@pytest.mark.parametrize(
    ('inputs', 'values'),
    [
        ('u8 nhwc valid=1,8,8,3', RGB),
        ('u8 nchw valid=1,3,8,8', RGB.transpose(2, 0, 1)),
        ('bgr nhwc valid=1,8,8,3', PIXELS),
        ('nv12 nchw valid=1,3,8,8', nv12(PIXELS, input_spec([1, 3, 8, 8], 0, ''))),
        ('nv12 nhwc valid=1,8,8,3', nv12(PIXELS, input_spec([1, 3, 8, 8], 0, ''))),
    ],
)
def test_pixel_input(tmp_path: Path, inputs: str, values: np.ndarray) -> None:
    """A model that normalises by itself gets pixels in its order, or NV12."""
    assert_gives(write_model(tmp_path / 'v.bin', inputs=f'images {inputs}'), values)


@pytest.mark.parametrize(
    ('output', 'step'),
    [
        ('s16 nchw valid=1,4,6,1 scale=0.5', 0.5),
        ('s32 nhwc valid=1,4,6,1 scale=0.5,0.5,0.25,0.25', (0.5, 0.5, 0.25, 0.25)),
        ('f32 nhwc valid=1,1,4,6', None),
    ],
)
def test_output_types(tmp_path: Path, output: str, step: float | tuple | None) -> None:
    """Scaled integers become numbers; axes of length one may stand anywhere."""
    encoder = open_encoder(write_model(tmp_path / 'v.bin', output=f'tokens {output}'), 0)
    values = expected(normalise(PIXELS, input_spec([1, 3, 8, 8], 0, '')), (4, 6))
    if step is not None:
        values = np.trunc(values) * np.reshape(step, (-1, 1))
    np.testing.assert_allclose(encoder.encode(PIXELS), values, atol=0.01)
    encoder.close()


def test_core_and_priority(tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch) -> None:
    """bpu_core and bpu_priority reach the library, and its output reaches our log."""
    monkeypatch.setenv('BPUSIM_LOG', '1')
    config = EncoderConfig(bpu_core=2, bpu_priority=200)
    open_encoder(write_model(tmp_path / 'v.bin'), 0, config).close()
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
    values = normalise(PIXELS, input_spec([1, 3, 8, 8], 0, ''))
    assert_gives(write_model(tmp_path / 'v.bin'), values)
    assert 'encoder process: an older build' in caplog.messages


# -- what cannot be used -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('changes', 'lines', 'words'),
    [
        (dict(output='t f32 nchw valid=1,4,6,1 aligned=1,4,8,1'), [], 'padded to 1 x 4 x 8 x 1'),
        (dict(output='t f32 nchw valid=1,4,6'), [], 'float32 1 x 4 x 6, .*expected four axes'),
        (
            dict(output='t f16 nchw valid=1,4,6,1'),
            [],
            'output is float16 1 x 4 x 6 x 1, which the',
        ),
        (dict(output='t s16 nchw valid=1,4,6,1'), [], 'with 0 scales; expected one'),
        (dict(output='t f32 nchw valid=2,4,6,1'), [], r'expected \[1, n_tokens, n_embd\]'),
        (dict(inputs='i f16 nchw valid=1,3,8,8'), [], 'expected one input, .*; found float16'),
        (dict(inputs='i nv12_separate nchw valid=1,3,8,8'), [], 'found NV12_SEPARATE'),
        (
            dict(inputs='i rgb nhwc valid=1,8,8,3'),
            [],
            'RGB input does not arrive on the BPU as it',
        ),
        (dict(inputs='i f32 nchw valid=1,4,8,8'), [], r'expected \[1, 3, H, W\]'),
        (dict(inputs='i nv12 nchw valid=1,3,8,7'), [], 'width and height must be even'),
        (dict(), ['input more f32 nchw valid=1,3,8,8'], 'found float32, float32'),
        (dict(), ['output more f32 nchw valid=1,4,6,1'], 'expected one output, .*tokens, more'),
        (dict(), ['fail alloc_in'], 'prepare_model_tensor failed.* too little ION memory'),
        (dict(), ['nonsense'], 'hbDNNInitializeFromFiles failed; .*a model for another board'),
    ],
)
def test_refused(tmp_path: Path, changes: dict, lines: list[str], words: str) -> None:
    """What cannot give right numbers is told with its path, what was expected, and the cause."""
    path = write_model(tmp_path / 'v.bin', *lines, **changes)
    with pytest.raises(ModelFileError, match=words) as caught:
        open_encoder(path, 0)
    assert str(path) in str(caught.value)


def test_missing_file(tmp_path: Path) -> None:
    """A missing file is told as such."""
    with pytest.raises(ModelFileError, match=r'none\.bin: no such file'):
        open_encoder(tmp_path / 'none.bin', 0)


@pytest.mark.parametrize(
    ('variable', 'words'),
    [
        ('BPU_SIM_LIBRARIES', r'lib\w+\.so: .*libraries are missing: sudo apt install hobot-dnn'),
        ('BPU_SIM_SITE', "No module named 'hobot_dnn'.*: pip3 install hobot-dnn-rdkx5"),
    ],
)
def test_board_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, words: str
) -> None:
    """Without the vendor's library, or its binding, the error says what to install."""
    monkeypatch.setenv(variable, '')
    with pytest.raises(ModelFileError, match=words):
        open_encoder(write_model(tmp_path / 'v.bin'), 0)


def test_numpy_2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With numpy 2, which breaks the binding's import, the error says which numpy to install."""
    download_wheel('numpy==2.2.6', '3.11', 'manylinux2014_aarch64', tmp_path)
    monkeypatch.setenv('BPU_SIM_PYTHONPATH', str(tmp_path))
    with pytest.raises(ModelFileError, match=r"breaks with numpy 2\.2\.6: pip3 install 'numpy>=1"):
        open_encoder(write_model(tmp_path / 'v.bin'), 0)


# -- what goes wrong while it runs ---------------------------------------------------------------


def open_faulty(folder: Path, fault: str, timeout: float = 60) -> tuple[VisionEncoder, Path]:
    """Open a model that goes wrong as soon as the file exists that is returned with it."""
    trigger = folder / 'trigger'
    path = write_model(folder / 'v.bin', fault, f'while {trigger}')
    return open_encoder(path, 0, EncoderConfig(timeout=timeout)), trigger


@pytest.mark.parametrize(
    ('fault', 'timeout', 'words'),
    [
        ('fail infer', 60, 'BPU failed: forward execution failed.* Likely causes: too little ION'),
        ('fail wait', 60, 'BPU failed: forward execution failed'),
        ('nan', 60, 'the output holds NaN or infinity'),
        ('crash', 60, 'its process ended: signal SIGSEGV'),
        ('sleep_ms 600000', 2, r'no answer within 2 s \(encoder_timeout\)'),
    ],
)
def test_failing_picture(tmp_path: Path, fault: str, timeout: float, words: str) -> None:
    """Whatever happens to one picture is told in a line, and the next one is encoded again."""
    encoder, trigger = open_faulty(tmp_path, fault, timeout)
    before = encoder.encode(PIXELS)
    trigger.touch()
    with pytest.raises(InferenceError, match=words) as caught:
        encoder.encode(PIXELS)
    assert 'v.bin: ' in str(caught.value)
    trigger.unlink()
    encoder._timeout = 60
    np.testing.assert_array_equal(encoder.encode(PIXELS), before)
    encoder.close()


@pytest.mark.parametrize('fault', ['fail infer', 'nan', 'crash'])
def test_failing_check(tmp_path: Path, fault: str) -> None:
    """A model that does not even work at the start is refused then."""
    path = write_model(tmp_path / 'v.bin', fault)
    with pytest.raises((ModelFileError, InferenceError), match=r'v\.bin: '):
        open_encoder(path, 0)


def test_core_that_is_not_there(tmp_path: Path) -> None:
    """A core that the board lacks is named among the likely causes."""
    config = EncoderConfig(bpu_core=7)
    with pytest.raises(InferenceError, match=r'core_id 7.*a bpu_core that the board lacks'):
        open_encoder(write_model(tmp_path / 'v.bin'), 0, config)


def test_killed_parent(tmp_path: Path) -> None:
    """After kill -9 of the parent the emulated process ends too, also in the midst of forward."""
    encoder, trigger = open_faulty(tmp_path, 'sleep_ms 600000')
    encoder.close()
    script = f"""
import sys, numpy as np
from hobot_llamacpp_py.vision.encoder import open_encoder
encoder = open_encoder({str(tmp_path / 'v.bin')!r}, 0)
open({str(trigger)!r}, 'w').close()
print(encoder._child._process.pid, flush=True)
encoder.encode(np.zeros((8, 8, 3), np.uint8))
"""
    command = [sys.executable, '-c', script]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        descriptor = os.pidfd_open(int(parent.stdout.readline()))
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    assert select.select([descriptor], [], [], 60)[0]
    os.close(descriptor)


def test_on_the_board_itself(tmp_path: Path) -> None:
    """On the board, without OpenCV, both processes work: the one that asks and the encoder's."""
    path = write_model(tmp_path / 'v.bin')
    script = f"""
import sys, numpy as np
sys.path.insert(0, {str(ROOT)!r})
from hobot_llamacpp_py.vision.encoder import open_encoder
encoder = open_encoder({str(path)!r}, 0)
print(encoder.encode(np.full((8, 8, 3), 7, np.uint8)).sum())
encoder.close()
"""
    command = ['bash', str(BOARD / 'run.sh'), '-c', script]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    picture = np.full((8, 8, 3), 7, np.uint8)
    values = expected(normalise(picture, input_spec([1, 3, 8, 8], 0, '')), (4, 6))
    assert float(result.stdout) == pytest.approx(values.sum(), rel=1e-4)


def resident_kilobytes(process: int) -> int:
    return int(Path(f'/proc/{process}/statm').read_text().split()[1]) * 4


def test_thousand_pictures(tmp_path: Path) -> None:
    """A thousand pictures are all encoded rightly, and nothing grows."""
    encoder = open_encoder(write_model(tmp_path / 'v.bin'), 0)
    rng, spec = np.random.default_rng(0), input_spec([1, 3, 8, 8], 0, '')
    before = files = 0
    for number in range(1100):
        pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        embeddings = encoder.encode(pixels)
        np.testing.assert_allclose(
            embeddings, expected(normalise(pixels, spec), (4, 6)), atol=0.01
        )
        if number == 100:
            before, files = resident_kilobytes(child_of(encoder)), len(os.listdir('/proc/self/fd'))
    assert resident_kilobytes(child_of(encoder)) - before < 1000
    assert len(os.listdir('/proc/self/fd')) == files
    encoder.close()


# -- the whole job -------------------------------------------------------------------------------


def test_answers(tmp_path: Path, family: str) -> None:
    """Questions about 60 pictures get the same answers by way of the BPU as with ONNX Runtime."""
    path, decoder, model_type = MODELS[family]
    scenes = [draw_scene(seed) for seed in range(60)]
    questions = ['Describe the image.', '有几个图形？']
    decoding, sampling = DecoderConfig(n_threads=1), SamplingConfig(temperature=0)

    def answers(encoder: Path) -> list[str]:
        with Engine.open(decoder, encoder, model_type=model_type, config=decoding) as engine:
            return [
                ''.join(engine.generate(Request((Turn(question, picture),), sampling=sampling)))
                for picture in (engine.picture(bgr) for _, bgr in scenes)
                for question in questions
            ]

    with nano_model(tmp_path, family) as model:
        found = answers(model)
    assert found == answers(path)
    right = [answer(scene, question) for scene, _ in scenes for question in questions]
    assert sum(map(str.__eq__, found, right)) >= 0.99 * len(right)
