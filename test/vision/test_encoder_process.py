"""An encoder in a process of its own: same numbers, and no harm to us whatever happens to it."""

from __future__ import annotations

import gc
import logging
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from nano import MODELS, ROOT, draw_scene, request_of
from s100 import use_double, write_model

from hobot_llamacpp_py.config import DecoderConfig, EncoderConfig, SamplingConfig
from hobot_llamacpp_py.engine import Engine, Turn
from hobot_llamacpp_py.errors import InferenceError, ModelFileError
from hobot_llamacpp_py.families import INTERNVL
from hobot_llamacpp_py.vision.backends import BACKENDS
from hobot_llamacpp_py.vision.encoder_peer import INTERPRETER
from hobot_llamacpp_py.vision.encoder_process import ProcessEncoder
from hobot_llamacpp_py.vision.preprocess import fit

TIMEOUT = 60  # seconds: generous, for machines that are busy with something else
PIXELS = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
S100 = EncoderConfig('bpu_s100', timeout=TIMEOUT)


@pytest.fixture(autouse=True)
def double(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    use_double(monkeypatch)
    caplog.set_level(logging.INFO, 'hobot_llamacpp_py')


class Model:
    """A model file of the S100's double that can be made to fail while it is loaded."""

    def __init__(self, folder: Path, **fault: object) -> None:
        self.trigger, self.log = folder / 'trigger', folder / 'log'
        os.mkfifo(self.log)
        self._log = os.open(self.log, os.O_RDWR | os.O_NONBLOCK)
        self.path = write_model(
            folder / 'v.hbm', **{'while': str(self.trigger), 'log': str(self.log), **fault}
        )

    def fail(self) -> None:
        self.wait_for_end()  # of the runs before
        self.trigger.touch()

    def recover(self) -> None:
        self.trigger.unlink()

    def wait_for_begin(self) -> None:
        """Wait until a run that has not been waited for begins."""
        self._wait_for(b'begin\n')

    def wait_for_end(self) -> None:
        self._wait_for(b'end\n')

    def _wait_for(self, line: bytes) -> None:
        received = b''
        while not received.endswith(line):
            assert select.select([self._log], [], [], TIMEOUT)[0], 'the model does not run'
            received += os.read(self._log, 4096)

    def close(self) -> None:
        os.close(self._log)


@pytest.fixture
def make_model(tmp_path: Path) -> Iterator[Callable[..., Model]]:
    """Return a function that writes a model with a fault, for one test."""
    models: list[Model] = []

    def make(**fault: object) -> Model:
        models.append(Model(tmp_path, **fault))
        return models[-1]

    yield make
    for model in models:
        model.close()


def child_of(encoder: ProcessEncoder) -> int:
    """Return the process id of an encoder's child."""
    assert encoder._child is not None
    return encoder._child._process.pid


def assert_ends(process: int) -> None:
    """Wait for the end of a process that is not our child."""
    try:
        descriptor = os.pidfd_open(process)
    except ProcessLookupError:
        return
    assert select.select([descriptor], [], [], TIMEOUT)[0], f'process {process} lives on'
    os.close(descriptor)


def test_same_numbers(family: str) -> None:
    """Embeddings are those of the same backend in our process, for pictures of any shape."""
    path, _, kind = MODELS[family]
    config = EncoderConfig('onnx', n_threads=1)
    inside, outside = (
        BACKENDS[config.backend].open(path, kind, config),
        ProcessEncoder(path, kind, config),
    )
    assert outside.input_size == inside.input_size
    assert (outside.n_tokens, outside.n_embd) == (inside.n_tokens, inside.n_embd)
    for size in ((320, 240), (240, 320), (100, 50), (224, 224)):
        fitted = fit(draw_scene(1, size)[1], inside.input_size, 'letterbox')
        np.testing.assert_array_equal(outside.encode(fitted), inside.encode(fitted))
    flipped = fitted[:, ::-1]  # strides of its own
    np.testing.assert_array_equal(outside.encode(flipped), inside.encode(flipped))
    outside.close()


def test_results_do_not_change_later(make_model: Callable[..., Model]) -> None:
    """What was returned belongs to the caller: the next picture does not overwrite it."""
    encoder = ProcessEncoder(make_model().path, INTERNVL, S100)
    first = encoder.encode(PIXELS)
    kept = first.copy()
    encoder.encode(255 - PIXELS)
    np.testing.assert_array_equal(first, kept)
    encoder.close()


@pytest.mark.parametrize(('name', 'content'), [('none.onnx', None), ('bad.onnx', b'hello')])
def test_error_at_start(tmp_path: Path, name: str, content: bytes | None) -> None:
    """A model that cannot be loaded gives the same error as in our own process."""
    path = tmp_path / name
    if content:
        path.write_bytes(content)
    with pytest.raises(ModelFileError) as inside:
        BACKENDS['onnx'].open(path, INTERNVL, EncoderConfig('onnx'))
    with pytest.raises(ModelFileError) as outside:
        ProcessEncoder(path, INTERNVL, EncoderConfig('onnx'))
    assert str(outside.value) == str(inside.value)


def test_interpreter_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A process that cannot be started is an error with the command."""
    monkeypatch.setenv(INTERPRETER, '/nowhere/python')
    with pytest.raises(ModelFileError, match='cannot be started with /nowhere/python'):
        ProcessEncoder(tmp_path / 'v.hbm', INTERNVL, S100)


def test_crash_at_start(tmp_path: Path) -> None:
    """A model whose loading crashes is told, with how and with the process's last words."""
    with pytest.raises(
        ModelFileError, match=r'v\.hbm.* ended while it loaded it: signal SIGSEGV; .*about to fail'
    ):
        ProcessEncoder(write_model(tmp_path / 'v.hbm', crash=True), INTERNVL, S100)


def test_slow_start(tmp_path: Path) -> None:
    """A model that never gets ready does not keep us waiting."""
    path, config = (
        write_model(tmp_path / 'v.hbm', seconds=600),
        EncoderConfig('bpu_s100', timeout=1),
    )
    with pytest.raises(ModelFileError, match='the model is not loaded after 1 s'):
        ProcessEncoder(path, INTERNVL, config, start_timeout=1)


def test_error_of_the_backend(make_model: Callable[..., Model]) -> None:
    """An error of one picture is told, and the same process encodes the next."""
    model = make_model(fail='hbUCPMallocCached failed')
    encoder = ProcessEncoder(model.path, INTERNVL, S100)
    child = child_of(encoder)
    model.fail()
    with pytest.raises(InferenceError, match='hbUCPMallocCached failed'):
        encoder.encode(PIXELS)
    model.recover()
    assert encoder.encode(PIXELS).shape == (4, 3)
    assert child_of(encoder) == child
    encoder.close()


def test_crash(make_model: Callable[..., Model], caplog: pytest.LogCaptureFixture) -> None:
    """A crash fails one picture; what the process said is in our log; the next one works."""
    model = make_model(crash=True, says='  what():  something that was caught')
    encoder = ProcessEncoder(model.path, INTERNVL, S100)
    before = encoder.encode(PIXELS)
    model.fail()
    with pytest.raises(InferenceError, match=r'v\.hbm: .* ended: signal SIGSEGV.*about to fail'):
        encoder.encode(PIXELS)
    assert 'encoder process: the driver is about to fail' in caplog.messages
    model.recover()
    assert encoder.restarts == 0
    np.testing.assert_array_equal(encoder.encode(PIXELS), before)
    assert encoder.restarts == 1
    encoder.close()


def test_abort(make_model: Callable[..., Model]) -> None:
    """Where a library ends the process, the error says what it threw; the next picture works.

    It does so also where a long stack is printed afterwards.
    """
    stack = ''.join(f'\n#{number} 0x7f in libdnn.so' for number in range(50))
    model = make_model(abort='UCP Error (code: -4) hbUCPSubmitTask failed' + stack)
    encoder = ProcessEncoder(model.path, INTERNVL, S100)
    model.fail()
    thrown = r'SIGABRT; its last words were: what\(\):  UCP Error \(code: -4\) hbUCPSubmitTask'
    with pytest.raises(InferenceError, match=thrown):
        encoder.encode(PIXELS)
    model.recover()
    assert encoder.encode(PIXELS).shape == (4, 3)
    encoder.close()


def test_repeated_crashes(make_model: Callable[..., Model]) -> None:
    """After repeated crashes an error says when the next start is due; then all is well again."""
    model = make_model(crash=True)
    encoder = ProcessEncoder(model.path, INTERNVL, S100)
    model.fail()
    for _ in range(2):
        with pytest.raises(InferenceError, match='SIGSEGV'):
            encoder.encode(PIXELS)
    with pytest.raises(
        InferenceError, match='2 times in a row; it is started again in .* SIGSEGV'
    ):
        encoder.encode(PIXELS)
    model.recover()
    for _ in range(10**9):
        try:
            embeddings = encoder.encode(PIXELS)
            break
        except InferenceError:
            pass
    assert embeddings.shape == (4, 3)
    encoder.close()


def test_timeout(make_model: Callable[..., Model]) -> None:
    """A hung encoder is ended after encoder_timeout; the next picture gets a new one."""
    model = make_model(seconds=600)
    encoder = ProcessEncoder(model.path, INTERNVL, EncoderConfig('bpu_s100', timeout=0.5))
    child = child_of(encoder)
    model.fail()
    with pytest.raises(InferenceError, match='no answer within 0.5 s; its process') as caught:
        encoder.encode(PIXELS)
    assert caught.value.setting == 'EncoderConfig.timeout'
    assert_ends(child)
    model.recover()
    encoder._timeout = TIMEOUT
    assert encoder.encode(PIXELS).shape == (4, 3)
    encoder.close()


def test_killed_while_idle(
    make_model: Callable[..., Model], caplog: pytest.LogCaptureFixture
) -> None:
    """A process that dies between two pictures costs a warning and no picture."""
    encoder = ProcessEncoder(make_model().path, INTERNVL, S100)
    before, child = encoder.encode(PIXELS), child_of(encoder)
    os.kill(child, signal.SIGKILL)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    np.testing.assert_array_equal(encoder.encode(PIXELS), before)
    assert 'its process ended: signal SIGKILL' in caplog.text
    encoder.close()


def test_close_while_encoding(make_model: Callable[..., Model]) -> None:
    """Closing from another thread ends a picture that would have taken minutes."""
    model = make_model(seconds=600)
    encoder = ProcessEncoder(model.path, INTERNVL, EncoderConfig('bpu_s100', timeout=600))
    child = child_of(encoder)
    model.fail()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(encoder.encode, PIXELS)
        model.wait_for_begin()
        encoder.close()
        with pytest.raises(InferenceError, match='the encoder was closed'):
            running.result(TIMEOUT)
    assert_ends(child)
    with pytest.raises(InferenceError, match='the encoder is closed'):
        encoder.encode(PIXELS)
    encoder.close()


def test_an_error_holds_nothing(make_model: Callable[..., Model]) -> None:
    """Whoever keeps the errors of processes that died keeps none of their descriptors."""
    model = make_model(crash=True)
    errors: list[InferenceError] = []
    encoder = ProcessEncoder(model.path, INTERNVL, S100)
    encoder.encode(PIXELS)
    before = len(os.listdir('/proc/self/fd'))
    for _ in range(3):
        model.fail()
        with pytest.raises(InferenceError) as caught:
            encoder.encode(PIXELS)
        errors.append(caught.value)
        model.recover()
        encoder.encode(PIXELS)
    assert len(os.listdir('/proc/self/fd')) == before
    encoder.close()


def test_nothing_is_left(make_model: Callable[..., Model]) -> None:
    """After closing there are no more threads, children or open files than before."""

    def held() -> tuple[int, int]:
        gc.collect()  # what earlier tests have left in cycles
        return len(os.listdir('/proc/self/fd')), threading.active_count()

    model = make_model()
    ProcessEncoder(model.path, INTERNVL, S100).close()
    before = held()
    for _ in range(5):
        encoder = ProcessEncoder(model.path, INTERNVL, S100)
        encoder.encode(PIXELS)
        child = child_of(encoder)
        encoder.close()
        encoder.close()
        assert not os.path.exists(f'/proc/{child}')
    assert held() == before


@pytest.mark.parametrize('busy', [False, True], ids=['idle', 'busy'])
@pytest.mark.parametrize('end', ['kill', 'exit'])
def test_ends_with_us(make_model: Callable[..., Model], end: str, busy: bool) -> None:
    """However we end, the child ends with us, even while native code runs; no memory stays."""
    model = make_model(seconds=600)
    script = f"""
import os, sys, threading, numpy as np
from hobot_llamacpp_py.config import EncoderConfig
from hobot_llamacpp_py.families import INTERNVL
from hobot_llamacpp_py.vision.encoder_process import ProcessEncoder
encoder = ProcessEncoder({str(model.path)!r}, INTERNVL, EncoderConfig('bpu_s100', timeout=600))
print(encoder._child._process.pid, flush=True)
sys.stdin.readline()
picture = np.zeros((8, 8, 3), np.uint8)
if {busy}: threading.Thread(target=encoder.encode, args=[picture], daemon=True).start()
sys.stdin.readline()
"""
    with subprocess.Popen(
        [sys.executable, '-c', script],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdin and parent.stdout
        child = int(parent.stdout.readline())
        mapped = Path(f'/proc/{child}/maps').read_text()
        assert '/memfd:encoder' in mapped
        assert '/dev/shm' not in mapped  # nothing that has a name could be left
        model.fail()
        parent.stdin.write('\n')
        parent.stdin.flush()
        if busy:
            model.wait_for_begin()
        if end == 'kill':
            parent.kill()
        else:
            parent.stdin.write('\n')
            parent.stdin.flush()
        parent.wait(TIMEOUT)
        assert_ends(child)


def test_decoder_works_meanwhile(make_model: Callable[..., Model], family: str) -> None:
    """While the encoder's process holds its GIL, the decoder gives a whole answer."""
    model = make_model(seconds=600)
    encoder = ProcessEncoder(model.path, INTERNVL, EncoderConfig('bpu_s100', timeout=600))
    model.fail()
    config = DecoderConfig(n_threads=1)
    with Engine.open(MODELS[family][1], config=config) as engine, ThreadPoolExecutor(1) as pool:
        running = pool.submit(encoder.encode, PIXELS)
        model.wait_for_begin()
        request = request_of(Turn('Hello'), max_tokens=20, sampling=SamplingConfig(0))
        assert ''.join(engine.generate(request))
        assert not running.done()
        encoder.close()
        assert running.exception(TIMEOUT)


STRAY = [b'xyz\n', b'{}\n', b'[1]\n', b'{"number": 1}\n', b'{"error": 1}\n', b'{"number": 9}\n']


@pytest.mark.parametrize('line', STRAY, ids=repr)
def test_a_stray_line_is_no_reply(family: str, line: bytes) -> None:
    """Something else on the channel fails a picture at most; none gets another's embeddings."""
    path, _, kind = MODELS[family]
    encoder = ProcessEncoder(path, kind, EncoderConfig('onnx', n_threads=1))
    pictures = [fit(draw_scene(seed)[1], encoder.input_size, 'letterbox') for seed in range(3)]
    expected = [encoder.encode(picture) for picture in pictures]
    assert encoder._child is not None
    encoder._child._received = line  # as if it had just come
    with pytest.raises(InferenceError, match='which is no reply to request 4'):
        encoder.encode(pictures[0])
    for picture, embeddings in zip(pictures, expected, strict=True):
        np.testing.assert_array_equal(encoder.encode(picture), embeddings)
    encoder.close()


@pytest.mark.parametrize('shape', [(225, 224, 3), (224, 225, 3), (0, 0, 3), (8, 8, 4)])
def test_a_picture_that_does_not_fit(shape: tuple[int, ...]) -> None:
    """A picture larger than the input, or an empty one, is refused in one line."""
    path, _, kind = MODELS['internvl']
    encoder = ProcessEncoder(path, kind, EncoderConfig('onnx', n_threads=1))
    with pytest.raises(InferenceError, match='does not fit 224 x 224'):
        encoder.encode(np.zeros(shape, np.uint8))
    encoder.close()
