"""The protocol of the encoder process, with nonsense from either side."""

from __future__ import annotations

import json
import os
import pickle
import select
import shlex
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from fuzz.target import Target, is_clear
from hypothesis import strategies as st
from nano import MODELS

from hobot_llamacpp_py.config import EncoderConfig
from hobot_llamacpp_py.errors import InferenceError, ModelFileError
from hobot_llamacpp_py.families import INTERNVL
from hobot_llamacpp_py.vision import encoder_peer, encoder_process
from hobot_llamacpp_py.vision.backends import BACKENDS
from hobot_llamacpp_py.vision.encoder_peer import INTERPRETER
from hobot_llamacpp_py.vision.encoder_process import ProcessEncoder
from hobot_llamacpp_py.vision.shared_arrays import SharedArrays

__all__ = ['Children', 'Parents']

PATH = MODELS['internvl'][0]
CONFIG = EncoderConfig('onnx', n_threads=1, timeout=1.0)
PIXELS = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=6,
)
_SIZES = st.sampled_from([0, 1, -1, 224, 2**31, 2**62, 2**64, 1.5, True, None, 'x', [1]])


def _line(content: Any) -> bytes:
    return json.dumps(content).encode() + b'\n'


# A child, rogue from its first word or its second one on: of the standard library only, so that
# it starts fast. Its plan: (kind, bytes) each.
_ROGUE = """
import json, os, socket, sys, time
job = json.loads(sys.argv[-1])
channel = socket.socket(fileno=job['channel'])
plan = eval(os.environ['FUZZ_PLAN'])
for kind, data in plan:
    if kind == 'say':
        channel.sendall(data)
    elif kind == 'read':
        channel.recv(1 << 16)
    elif kind == 'truncate':
        try:
            os.ftruncate(job['memory'], len(data))
        except OSError:
            pass
    elif kind == 'print':
        os.write(1, data)
    elif kind == 'close':
        channel.shutdown(socket.SHUT_RDWR)
        channel.close()
        time.sleep(100)
    elif kind == 'exit':
        os._exit(len(data))
    elif kind == 'kill':
        os.kill(os.getpid(), 1 + len(data) % 15)
    elif kind == 'hang':
        time.sleep(100)
channel.recv(1 << 16)
time.sleep(0.2)
"""


class Children(Target):
    """A child that sends nonsense: one error, no hang, and the next child encodes right."""

    seconds = 120.0
    _ready = st.builds(
        lambda number, properties: _line({'number': number, 'properties': properties}),
        st.sampled_from([0, 0, 0, 1, '0', None]),
        st.one_of(
            st.tuples(st.tuples(_SIZES, _SIZES), _SIZES, _SIZES),
            st.just(((224, 224), 64, 160)),
            _JSON,
        ),
    )
    _reply = st.fixed_dictionaries(
        {'number': st.sampled_from([1, 1, 0, 2, None, '1', 1.0])},
        optional={
            'error': st.sampled_from(['InferenceError', 'VlmError', 'Exception', 'logging'])
            | _JSON,
            'text': st.just('it failed') | _JSON,
            'setting': st.sampled_from(['EncoderConfig.timeout', 'family', 'nonsense']) | _JSON,
            'value': _JSON,
        },
    ).map(_line)
    _say = st.one_of(
        _ready,
        _reply,
        _JSON.map(_line),
        st.binary(max_size=30),
        st.sampled_from(
            [b'\n', b'{}\n', b'{"number": 1}\n{"number": 2}\n', b'[' * 5000 + b'\n', b'\xff\n']
        )
        | st.sampled_from([b'x' * (1 << 20) + b'xx', b'{"number": 0', b'9' * 9999 + b'\n']),
    ).map(lambda data: ('say', data))
    _other = st.tuples(
        st.sampled_from(['read', 'read', 'truncate', 'print', 'close', 'exit', 'kill', 'hang']),
        st.binary(max_size=5),
    )
    inputs = st.tuples(
        st.booleans(), st.lists(st.one_of(_say, _say, _other), min_size=1, max_size=4)
    )

    def __enter__(self) -> Children:
        inside = BACKENDS['onnx'].open(PATH, INTERNVL, CONFIG)
        self._expected = inside.encode(PIXELS)
        inside.close()
        self._properties = (inside.input_size, inside.n_tokens, inside.n_embd)
        script = Path(tempfile.mkdtemp()) / 'rogue.py'
        script.write_text(_ROGUE)
        self._rogue = shlex.join([sys.executable, '-S', '-E', str(script)])
        encoder_process.START_TIMEOUT = 1.0
        return self

    def check(self, value: tuple[bool, list[tuple[str, bytes]]]) -> None:
        is_ready, plan = value
        if is_ready:  # it loads well, and is rogue when it has a picture
            hello = _line({'number': 0, 'properties': self._properties})
            plan = [('say', hello), ('read', b''), *plan]
        os.environ[INTERPRETER], os.environ['FUZZ_PLAN'] = self._rogue, repr(plan)
        encoder = None
        try:
            encoder = ProcessEncoder(PATH, INTERNVL, CONFIG, start_timeout=1.0)
            encoder.encode(PIXELS)
        except (ModelFileError, InferenceError) as error:
            is_clear(error)
        except Exception as error:
            is_clear(error)  # of our own kinds it may say whatever it likes
        finally:
            del os.environ[INTERPRETER]
            try:
                self._check_next(encoder)
            finally:
                if encoder is not None:
                    encoder.close()

    def _check_next(self, encoder: ProcessEncoder | None) -> None:
        """A true child follows, where the rogue one was taken for one at first."""
        if encoder is None:
            return
        fits = (encoder.input_size, encoder.n_tokens, encoder.n_embd) == self._properties
        encoder._timeout = encoder._start_timeout = 60
        if encoder._child is not None:
            encoder._child.kill()
        for _ in range(100):
            try:
                np.testing.assert_array_equal(encoder.encode(PIXELS), self._expected)
                assert fits
                return
            except InferenceError as error:
                is_clear(error, str(PATH))
                if not fits:
                    return
                time.sleep(0.1)
        raise AssertionError('it does not encode again')


class Parents(Target):
    """A parent that sends nonsense: the child ends or answers, and never hangs."""

    seconds = 120.0
    _numbers = _SIZES | st.integers(-5, 300)
    inputs = st.lists(
        st.one_of(
            st.tuples(_numbers, _numbers, _numbers, _numbers).map(_line),
            st.just(_line((1, 90, 120, 1))),
            _JSON.map(_line),
            st.binary(max_size=30),
            st.sampled_from(
                [b'\n', b'[1, 90', b'\xff\n', b'[' * 5000 + b'\n', b'[1, 1e999, 1, 1]\n']
            ),
        ),
        min_size=1,
        max_size=4,
    )

    def __enter__(self) -> Parents:
        inside = BACKENDS['onnx'].open(PATH, INTERNVL, CONFIG)
        self._expected = inside.encode(PIXELS)
        self._properties = (inside.input_size, inside.n_tokens, inside.n_embd)
        inside.close()
        self._process: Any = None
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def check(self, value: list[bytes]) -> None:
        if self._process is None:
            self._start()
        data = b''.join(value)
        self._channel.sendall(data if data.endswith(b'\n') else data + b'\n')
        self._shared.picture(90, 120)[...] = PIXELS
        number = 987_654_321
        try:
            self._channel.sendall(_line((number, 90, 120, 1)))
            while True:
                reply = self._reply()
                if reply is None:
                    break
                assert isinstance(reply, dict), reply
                if 'text' in reply:
                    assert len(str(reply['text']).splitlines()) == 1, reply
                if reply.get('number') == number:
                    assert 'error' not in reply, reply
                    np.testing.assert_array_equal(self._shared.embeddings, self._expected)
                    return
        except ConnectionError:
            pass
        # It has hung up: with status 1, and one line that says why.
        status, words = self._process.wait(60), self._process.stdout.read().decode()
        self._end()
        assert status == 1, (status, words)
        lines = words.strip().splitlines()
        assert len(lines) == 1, words

    def _start(self) -> None:
        self._channel, theirs = socket.socketpair()
        self._channel.settimeout(60)
        reader, self._lifeline = os.pipe()
        self._memory = os.memfd_create('encoder')
        model = pickle.dumps((PATH, INTERNVL, CONFIG)).hex()
        handed = {'channel': theirs.fileno(), 'lifeline': reader, 'memory': self._memory}
        self._process = subprocess.Popen(
            [
                *(sys.executable, '-c', encoder_peer._BOOT, str(encoder_peer._ROOT)),
                json.dumps({'model': model, **handed}),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=handed.values(),
        )
        theirs.close()
        os.close(reader)
        self._received = b''
        assert self._reply() == {
            'number': 0,
            'properties': json.loads(json.dumps(self._properties)),
        }
        self._shared = SharedArrays(self._memory, *self._properties)

    def _reply(self) -> Any:
        """Return the next reply; None: it has hung up."""
        while b'\n' not in self._received:
            assert select.select([self._channel], [], [], 60)[0], 'the child hangs'
            data = self._channel.recv(1 << 16)
            if not data:
                return None
            self._received += data
        line, _, self._received = self._received.partition(b'\n')
        return json.loads(line)

    def _end(self) -> None:
        if self._process is None:
            return
        self._channel.close()
        self._process.wait(60)
        self._process.stdout.close()
        os.close(self._lifeline)
        os.close(self._memory)
        self._process = None
