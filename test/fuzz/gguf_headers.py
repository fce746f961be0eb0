"""GGUF and mmproj files with a hostile header: loaded, or one line that says why not."""

from __future__ import annotations

import math
import os
import signal
import struct
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from fuzz.target import Target, is_clear
from hypothesis import strategies as st
from nano import CONFIG, MODELS, request_of

from hobot_llamacpp_py.config import DecoderConfig, EncoderConfig
from hobot_llamacpp_py.engine import Engine, Turn
from hobot_llamacpp_py.errors import InferenceError, ModelFileError, VlmError
from hobot_llamacpp_py.families import SMOLVLM2
from hobot_llamacpp_py.gguf_header import GgufHeader
from hobot_llamacpp_py.vision.mmproj_header import mmproj_sizes
from hobot_llamacpp_py.vision.open import open_encoder

__all__ = ['Decoders', 'Encoders']

_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_NUMBERS = st.sampled_from(
    [0, 1, 2, 3, 8, 9, 13, 31, 32, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63]
    + [2**64 - 1, 2**64 - 32, 2**61 + 1]
) | st.integers(0, 2**64 - 1)


@dataclass(frozen=True)
class _Layout:
    """Where a file has its numbers: those of its own, and those within arrays."""

    data: bytes
    fields: list[tuple[int, int]]
    """Offset and size of each."""
    header_size: int
    n_values: int

    @classmethod
    def of(cls, path: Path) -> _Layout:
        data, fields, at = path.read_bytes(), [(4, 4), (8, 8), (16, 8)], 24

        def number(form: str) -> int:
            nonlocal at
            size = struct.calcsize(form)
            fields.append((at, size))
            (value,) = struct.unpack_from(f'<{form}', data, at)
            at += size
            return int(value)

        def skip_text() -> None:
            nonlocal at
            size = number('Q')
            fields.append((at, min(8, size)))
            at += size

        n_tensors, n_values = struct.unpack_from('<QQ', data, 8)
        for _ in range(n_values):
            skip_text()
            kind = number('I')
            if kind == 8:
                skip_text()
            elif kind == 9:
                item, count = number('I'), number('Q')
                if item != 8:
                    at += count * _SIZES[item]
                for _ in range(count if item == 8 else 0):
                    at += 8 + struct.unpack_from('<Q', data, at)[0]
            else:
                fields.append((at, _SIZES[kind]))
                at += _SIZES[kind]
        for _ in range(n_tensors):
            skip_text()
            for _ in range(number('I')):
                number('Q')
            number('I')
            number('Q')
        return cls(data, fields, at, n_values)

    def changed(self, edits: list[tuple[Any, ...]]) -> bytes:
        """Return the file with a changed header."""
        header, cut = bytearray(self.data[: self.header_size]), None
        added = b''
        n_added = 0
        for kind, *arguments in edits:
            if kind == 'number':  # one of the header's, by its place of a million
                place, value = arguments
                at, size = self.fields[place * len(self.fields) // 1_000_000]
                header[at : at + size] = (value % 2**64).to_bytes(8, 'little')[:size]
            elif kind == 'byte':
                place, value = arguments
                header[place * len(header) // 1_000_000] ^= value
            elif kind == 'value':
                key, value = arguments
                added += _text(key) + _value(value)
                n_added += 1
            elif kind == 'cut':
                cut = arguments[0] * len(self.data) // 1_000_000
        if n_added:
            (n_values,) = struct.unpack_from('<Q', header, 16)
            header[16:24] = ((n_values + n_added) % 2**64).to_bytes(8, 'little')
        whole = bytes(header[:24]) + added + bytes(header[24:])
        start = -(-self.header_size // 32) * 32
        return (whole + bytes(-len(whole) % 32) + self.data[start:])[:cut]


def _text(text: bytes) -> bytes:
    return struct.pack('<Q', len(text)) + text


def _value(value: Any) -> bytes:
    """Write a value with its type: a text, a whole number, a fraction, or arrays in arrays."""
    if isinstance(value, bytes):
        return struct.pack('<I', 8) + _text(value)
    if isinstance(value, bool):
        return struct.pack('<IB', 7, value)
    if isinstance(value, int):
        return struct.pack('<IQ', 10, value)
    if isinstance(value, float):
        return struct.pack('<If', 6, value)
    depth, item, count = value
    return (
        struct.pack('<I', 9) + struct.pack('<IQ', 9, 1) * depth + struct.pack('<IQ', item, count)
    )


_KEYS = st.sampled_from(
    [b'general.alignment', b'general.architecture', b'general.file_type', b'', b'x', b'\xff\0\n']
    + [b'qwen2.block_count', b'llama.block_count', b'qwen2.embedding_length', b'split.count']
    + [b'qwen2.attention.head_count', b'qwen2.context_length', b'tokenizer.ggml.tokens']
    + [b'tokenizer.ggml.model', b'tokenizer.ggml.eos_token_id', b'tokenizer.chat_template']
    + [b'clip.vision.image_size', b'clip.vision.patch_size', b'clip.vision.block_count']
    + [b'clip.projector_type', b'clip.vision.projector.scale_factor', b'clip.vision.image_mean']
    + [b'clip.vision.attention.head_count', b'clip.has_vision_encoder', b'clip.vision.preproc_max']
)
_ARRAYS = st.tuples(st.integers(0, 3) | st.just(3000), st.integers(0, 13), _NUMBERS)
_VALUES = st.one_of(st.binary(max_size=12), st.booleans(), _NUMBERS, st.floats(width=32), _ARRAYS)
_PLACES = st.integers(0, 999_999)
_EDITS = st.lists(
    st.one_of(
        st.tuples(st.just('number'), _PLACES, _NUMBERS),
        st.tuples(st.just('number'), _PLACES, st.integers(0, 300)),
        st.tuples(st.just('byte'), _PLACES, st.integers(1, 255)),
        st.tuples(st.just('value'), _KEYS, _VALUES),
        st.tuples(st.just('cut'), _PLACES),
    ),
    max_size=4,
)


class Decoders(Target):
    """The header of a decoder, read by us and then by llama.cpp."""

    inputs = st.tuples(st.sampled_from(sorted(MODELS)), _EDITS)

    def __enter__(self) -> Decoders:
        os.environ['GGML_NO_BACKTRACE'] = '1'  # which takes longer than all the rest
        self._layouts = {name: _Layout.of(MODELS[name][1]) for name in MODELS}
        self._path = Path(tempfile.mkdtemp()) / 'llm.gguf'
        return self

    def check(self, value: tuple[str, list[tuple[Any, ...]]]) -> None:
        name, edits = value
        self._path.write_bytes(self._layouts[name].changed(edits))
        try:
            header = GgufHeader.read(self._path)
        except ModelFileError as error:
            is_clear(error, str(self._path))
        else:
            assert all(math.prod(shape) >= 0 for shape in header.shapes.values())
        self._check_loading()

    def _check_loading(self) -> None:
        """Load it in a process of its own: what llama.cpp does to that is seen here."""
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            signal.alarm(int(self.seconds) // 2)
            for output in (1, 2):
                os.dup2(os.open(os.devnull, os.O_WRONLY), output)
            os.write(writer, _loaded(self._path).encode('utf-8', 'replace')[:60_000])
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader, 'rb') as pipe:
            said = pipe.read().decode()
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status == 1:  # what it has not expected, it gives up itself
            return
        assert status == 0, f'llama.cpp ends the process: {status}'
        assert said == 'answered' or said.startswith('refused'), said


def _loaded(path: Path) -> str:
    """Load a decoder and have it answer; tell how that went."""
    try:
        with Engine.open(path, config=DecoderConfig(n_ctx=256, n_threads=1)) as engine:
            answer = engine.generate(request_of(Turn('Hi'), max_tokens=2))
            assert len(''.join(answer)) >= 0
            return 'answered'
    except VlmError as error:
        try:
            is_clear(error, size=2000)
        except AssertionError as unclear:
            return f'{unclear}'
        return f'refused: {error}'
    except BaseException as error:
        return f'{type(error).__name__}: {error}'


class Encoders(Target):
    """The header of an mmproj file, read by us and then by libmtmd, in its process."""

    memory = 2 << 30

    inputs = _EDITS

    def __enter__(self) -> Encoders:
        self._layout = _Layout.of(CONFIG / 'mmproj-nano_smolvlm.gguf')
        self._path = Path(tempfile.mkdtemp()) / 'mmproj.gguf'
        return self

    def check(self, value: list[tuple[Any, ...]]) -> None:
        self._path.write_bytes(self._layout.changed(value))
        try:
            size, n_tokens, n_embd = mmproj_sizes(self._path, SMOLVLM2)
        except ModelFileError as error:
            is_clear(error, str(self._path), size=2000)
            return
        try:
            encoder = open_encoder(self._path, SMOLVLM2, EncoderConfig(n_threads=1))
        except ModelFileError as error:
            is_clear(error, str(self._path))
            return
        try:
            assert (encoder.input_size, encoder.n_tokens) == ((size, size), n_tokens)
            embeddings = encoder.encode(np.zeros((8, 8, 3), np.uint8))
            assert embeddings.shape == (n_tokens, n_embd)
        except InferenceError as error:
            is_clear(error, str(self._path))
        finally:
            encoder.close()
