"""What both boards promise: the real binding, in its process, on an emulated board."""

from __future__ import annotations

import logging
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from emulated import BOARDS, SUFFIXES, expected, nano_model, run_on, use_board, write_model
from nano import MODELS, ROOT, answer, draw_scene, request_of

from hobot_llamacpp_py.config import DecoderConfig, EncoderConfig, SamplingConfig
from hobot_llamacpp_py.engine import Engine, Turn
from hobot_llamacpp_py.errors import InferenceError, ModelFileError
from hobot_llamacpp_py.families import INTERNVL, SMOLVLM2, ModelFamily
from hobot_llamacpp_py.vision.encoder import VisionEncoder
from hobot_llamacpp_py.vision.open import open_encoder
from hobot_llamacpp_py.vision.preprocess import normalise
from hobot_llamacpp_py.vision.tensors import input_spec

PIXELS = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
SMALL = np.random.default_rng(1).integers(0, 256, (5, 8, 3), dtype=np.uint8)


@pytest.fixture(autouse=True, params=BOARDS)
def board(
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> str:
    """Both boards, one after the other."""
    use_board(monkeypatch, request.param)
    caplog.set_level(logging.INFO, 'hobot_llamacpp_py')
    return str(request.param)


@pytest.fixture
def model(tmp_path: Path, board: str) -> Callable[..., Path]:
    """Return a function that writes a model of the board."""
    path = tmp_path / f'v{SUFFIXES[board]}'
    return lambda *lines, **tensors: write_model(path, *lines, **tensors)


def child_of(encoder: VisionEncoder) -> int:
    return encoder._child._process.pid


# -- what it is fed, what it gives ---------------------------------------------------------------


@pytest.mark.parametrize('pixels', [PIXELS, SMALL], ids=['whole', 'padded'])
@pytest.mark.parametrize('layout', ['nchw valid=1,3,8,8', 'nhwc valid=1,8,8,3'])
def test_float_input(model: Callable[..., Path], layout: str, pixels: np.ndarray) -> None:
    """A float32 model gets the normalised picture, whole, in the order of its axes."""
    shape = [int(length) for length in layout.split('=')[1].split(',')]
    values = normalise(pixels, input_spec(shape, INTERNVL, ''))
    encoder = open_encoder(model(inputs=f'images f32 {layout}'), INTERNVL)
    assert (encoder.input_size, encoder.n_tokens, encoder.n_embd) == ((8, 8), 4, 6)
    np.testing.assert_allclose(encoder.encode(pixels), expected(values, (4, 6)), atol=0.01)
    encoder.close()


@pytest.mark.parametrize(
    ('size', 'n_tokens', 'n_embd', 'kind'),
    [(448, 256, 896, INTERNVL), (512, 64, 576, SMOLVLM2)],
    ids=['InternVL', 'SmolVLM2'],
)
def test_published_shapes(
    model: Callable[..., Path], size: int, n_tokens: int, n_embd: int, kind: ModelFamily
) -> None:
    """Models of the published sizes get the whole picture and give all of their tokens."""
    path = model(
        inputs=f'images f32 nchw valid=1,3,{size},{size}',
        output=f'tokens f32 nchw valid=1,{n_tokens},{n_embd},1',
    )
    pixels = np.random.default_rng(2).integers(0, 256, (size, size, 3), dtype=np.uint8)
    values = normalise(pixels, input_spec([1, 3, size, size], kind, ''))
    encoder = open_encoder(path, kind)
    np.testing.assert_allclose(
        encoder.encode(pixels), expected(values, (n_tokens, n_embd)), rtol=1e-5
    )
    encoder.close()


def test_the_library_is_heard(model: Callable[..., Path], caplog, monkeypatch) -> None:
    """What the library writes stands in our log."""
    monkeypatch.setenv('BPUSIM_LOG', '1')
    open_encoder(model(), INTERNVL).close()
    assert 'encoder process: [bpusim] ' in caplog.text


# -- what cannot be used -------------------------------------------------------------------------


def test_missing_file(tmp_path: Path, board: str) -> None:
    """A missing file is told as such."""
    with pytest.raises(ModelFileError, match=r'none\.\w+: no such file'):
        open_encoder(tmp_path / f'none{SUFFIXES[board]}', INTERNVL)


def test_no_model(model: Callable[..., Path]) -> None:
    """A file that is no model is told with its path and the likely causes."""
    path = model('nonsense')
    with pytest.raises(ModelFileError, match=r'a model for another board .*ION memory') as caught:
        open_encoder(path, INTERNVL)
    assert str(path) in str(caught.value)


def test_board_without_libraries(model: Callable[..., Path], monkeypatch) -> None:
    """Without the vendor's libraries the error says what to install."""
    monkeypatch.setenv('BPU_SIM_LIBRARIES', '')
    with pytest.raises(ModelFileError, match=r'lib\w+\.so: .*missing: sudo apt install hobot-dnn'):
        open_encoder(model(), INTERNVL)


def test_board_without_binding(model: Callable[..., Path], board: str, monkeypatch) -> None:
    """Without the binding the error says what to install."""
    monkeypatch.setenv('BPU_SIM_SITE', '')
    package = {'x5': 'hobot-dnn-rdkx5', 's100': 'hbm-runtime'}[board]
    with pytest.raises(ModelFileError, match=f'No module named .*: pip3 install {package}'):
        open_encoder(model(), INTERNVL)


# -- what goes wrong while it runs ---------------------------------------------------------------


@pytest.mark.parametrize(
    ('fault', 'timeout', 'words'),
    [
        ('nan', 60, 'the output holds NaN or infinity'),
        ('crash', 60, 'its process ended: signal SIGSEGV'),
        ('sleep_ms 600000', 2, 'no answer within 2 s; its process was ended'),
    ],
)
def test_failing_picture(
    model: Callable[..., Path], tmp_path: Path, fault: str, timeout: float, words: str
) -> None:
    """Whatever happens to one picture is told in a line, and the next one is encoded again."""
    trigger = tmp_path / 'trigger'
    config = EncoderConfig(timeout=timeout)
    encoder = open_encoder(model(fault, f'while {trigger}'), INTERNVL, config)
    before = encoder.encode(PIXELS)
    trigger.touch()
    with pytest.raises(InferenceError, match=words) as caught:
        encoder.encode(PIXELS)
    assert '/v.' in str(caught.value)
    trigger.unlink()
    encoder._timeout = 60
    np.testing.assert_array_equal(encoder.encode(PIXELS), before)
    encoder.close()


@pytest.mark.parametrize('fault', ['nan', 'crash'])
def test_failing_check(model: Callable[..., Path], fault: str) -> None:
    """A model that does not even work at the start is refused then."""
    with pytest.raises((ModelFileError, InferenceError), match=r'/v\.\w+: '):
        open_encoder(model(fault), INTERNVL)


def test_killed_parent(model: Callable[..., Path], tmp_path: Path) -> None:
    """After kill -9 of the parent the emulated process ends too, in the midst of a picture."""
    trigger = tmp_path / 'trigger'
    path = model('sleep_ms 600000', f'while {trigger}')
    script = f"""
import sys, numpy as np
from hobot_llamacpp_py.families import INTERNVL
from hobot_llamacpp_py.vision.open import open_encoder
encoder = open_encoder({str(path)!r}, INTERNVL)
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


def test_on_the_board_itself(model: Callable[..., Path], board: str) -> None:
    """On the board, without OpenCV, both processes work: the one that asks and the encoder's."""
    script = f"""
import os, sys, numpy as np
sys.path.insert(0, {str(ROOT)!r})
os.environ['HOBOT_LLAMACPP_ENCODER_PYTHON'] = os.environ['BPU_SIM_PYTHON']
from hobot_llamacpp_py.families import INTERNVL
from hobot_llamacpp_py.vision.open import open_encoder
encoder = open_encoder({str(model())!r}, INTERNVL)
print(encoder.encode(np.full((8, 8, 3), 7, np.uint8)).sum())
encoder.close()
"""
    picture = np.full((8, 8, 3), 7, np.uint8)
    values = expected(normalise(picture, input_spec([1, 3, 8, 8], INTERNVL, '')), (4, 6))
    assert float(run_on(board, '-c', script)) == pytest.approx(values.sum(), rel=1e-4)


def test_needs_nothing_but_numpy(
    model: Callable[..., Path], tmp_path: Path, board: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that an encoder's process imports is Python's own, ours, numpy and the binding."""
    names = tmp_path / 'names'
    (tmp_path / 'sitecustomize.py').write_text(f"""
import atexit, sys
def write():
    files = [name for name, module in sys.modules.items() if getattr(module, '__file__', None)]
    open({str(names)!r}, 'w').write(' '.join(files))
atexit.register(write)
""")
    monkeypatch.setenv('BPU_SIM_PYTHONPATH', str(tmp_path))
    encoder = open_encoder(model(), INTERNVL)
    encoder.encode(PIXELS)
    encoder.close()
    imported = {name.split('.')[0] for name in names.read_text().split()}
    bindings = {'x5': 'hobot_dnn_rdkx5', 's100': 'hbm_runtime'}
    assert imported - sys.stdlib_module_names - {'hobot_llamacpp_py', 'sitecustomize'} == {
        'numpy',
        bindings[board],
    }


def resident_kilobytes(process: int) -> int:
    return int(Path(f'/proc/{process}/statm').read_text().split()[1]) * 4


THREADS = """
import threading
def resident():
    return int(open('/proc/self/statm').read().split()[1]) * 4
for number in range(201):
    thread = threading.Thread(target=int)
    thread.start()
    thread.join()
    if number == 100:
        before = resident()
print((resident() - before) / 100)
"""


def test_hundreds_of_pictures(model: Callable[..., Path], board: str) -> None:
    """Hundreds of pictures are all encoded rightly, and nothing grows."""
    # The S100's binding starts a thread for each picture, and the emulator leaks at each thread.
    leak = float(run_on(board, '-c', THREADS)) if board == 's100' else 0.0
    # Large enough that one array left behind by each picture would exceed what is allowed below.
    size, shape = (32, 32, 3), (64, 48)
    path = model(
        inputs='images f32 nchw valid=1,3,32,32', output='tokens f32 nchw valid=1,64,48,1'
    )
    encoder = open_encoder(path, INTERNVL)
    rng, spec = np.random.default_rng(0), input_spec([1, 3, 32, 32], INTERNVL, '')
    before = files = 0
    for number in range(401):
        pixels = rng.integers(0, 256, size, dtype=np.uint8)
        embeddings = encoder.encode(pixels)
        np.testing.assert_allclose(embeddings, expected(normalise(pixels, spec), shape), atol=0.1)
        if number == 100:
            before, files = resident_kilobytes(child_of(encoder)), len(os.listdir('/proc/self/fd'))
    assert resident_kilobytes(child_of(encoder)) - before < 1000 + 300 * leak * 1.01
    assert len(os.listdir('/proc/self/fd')) == files
    encoder.close()


# -- the whole job -------------------------------------------------------------------------------


def test_answers(tmp_path: Path, family: str, board: str) -> None:
    """Questions about 60 pictures get the same answers by way of the BPU as with ONNX Runtime."""
    path, decoder, kind = MODELS[family]
    scenes = [draw_scene(seed) for seed in range(60)]
    questions = ['Describe the image.', '有几个图形？']
    decoding, sampling = DecoderConfig(n_threads=1), SamplingConfig(temperature=0)

    def answers(encoder: Path) -> list[str]:
        with Engine.open(decoder, encoder, family=kind, config=decoding) as engine:
            return [
                ''.join(engine.generate(request_of(Turn(question, picture), sampling=sampling)))
                for picture in (engine.picture(bgr) for _, bgr in scenes)
                for question in questions
            ]

    with nano_model(tmp_path, family, board) as model:
        found = answers(model)
    assert found == answers(path)
    right = [answer(scene, question) for scene, _ in scenes for question in questions]
    assert sum(map(str.__eq__, found, right)) >= 0.99 * len(right)
