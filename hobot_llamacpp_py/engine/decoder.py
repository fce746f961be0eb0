"""The text decoder: tokens and embeddings in, logits out, over llama.cpp's C API.

One model, one context, one sequence. Not thread-safe; only a `CancelToken` may be set, and a
grammar checked, from any thread at any time.
"""

from __future__ import annotations

import ctypes
import os
import re
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import numpy.typing as npt

from hobot_llamacpp_py.config import DecoderConfig, SamplingConfig
from hobot_llamacpp_py.engine.prompt_format import Special, Text
from hobot_llamacpp_py.engine.sampler import Sampler, grammar_sampler
from hobot_llamacpp_py.engine.speculation import MAX_DRAFT
from hobot_llamacpp_py.errors import CancelledError, InferenceError, ModelFileError, ParameterError
from hobot_llamacpp_py.llama_log import Reason, on_llama_log

__all__ = ['CancelToken', 'Decoder', 'Segment']

# What `prefill` takes: token ids, or image embeddings float32 [n_tokens, n_embd].
Segment = Sequence[int] | npt.NDArray[np.float32]

KV_CACHE_TYPES = {
    'f32': llama_cpp.GGML_TYPE_F32,
    'f16': llama_cpp.GGML_TYPE_F16,
    'q8_0': llama_cpp.GGML_TYPE_Q8_0,
    'q4_0': llama_cpp.GGML_TYPE_Q4_0,
}
FLASH_ATTN_TYPES = {
    'auto': llama_cpp.LLAMA_FLASH_ATTN_TYPE_AUTO,
    'on': llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED,
    'off': llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED,
}
_ABORTED = 2  # llama_decode's return code
_NOT_PLAIN = llama_cpp.LLAMA_TOKEN_ATTR_CONTROL | llama_cpp.LLAMA_TOKEN_ATTR_USER_DEFINED
_INT32_P = ctypes.POINTER(ctypes.c_int32)
_INT8_P = ctypes.POINTER(ctypes.c_int8)
_FLOAT_P = ctypes.POINTER(ctypes.c_float)

# llama.cpp asks `bool callback(void *data)` between any two operations whether to stop. The C
# library's strlen answers that: non-zero if and only if the first byte at `data` is set. No
# Python runs inside a decode, so the question costs nothing and never waits for the GIL.
_abort_if_set = ctypes.cast(ctypes.CDLL(None).strlen, llama_cpp.ggml_abort_callback)


class CancelToken:
    """Cancels one request: within a token, also in the middle of a prefill, from any thread."""

    def __init__(self) -> None:
        self.flag = ctypes.create_string_buffer(2)

    def set(self) -> None:
        """Cancel the request."""
        self.flag[0] = b'\x01'

    def is_set(self) -> bool:
        """Tell whether the request was cancelled."""
        return self.flag[0] != b'\x00'


class Decoder:
    """A GGUF model with a llama.cpp context whose KV cache holds one sequence.

    Args:
        path: the GGUF file.
        config: context size, threads and cache type.

    Raises:
        ModelFileError: the file is no GGUF text model that llama.cpp can load.
    """

    def __init__(self, path: str | Path, config: DecoderConfig = DecoderConfig()) -> None:
        self._model = self._context = None
        self._vocabulary_lock = threading.Lock()
        self._reason = Reason()
        self.path = Path(path)
        self.n_threads = min(config.n_threads, len(os.sched_getaffinity(0)))
        llama_cpp.llama_log_set(on_llama_log, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        try:
            self._load_model()
            self._open_context(config)
        except BaseException:
            self.close()
            raise
        self.n_past = 0
        """Positions that the KV cache holds."""
        self._pieces: dict[int, bytes] = {}
        self._buffer = ctypes.create_string_buffer(1024)

    def _load_model(self) -> None:
        try:
            with self.path.open('rb') as file:
                magic = file.read(4)
        except OSError as error:
            raise ModelFileError(f'{self.path}: {error.strerror}') from None
        if magic != b'GGUF':
            raise ModelFileError(
                f'{self.path} is not a GGUF file (it starts with {magic!r});'
                ' download it again, a git-lfs pointer or an error page may stand in its place'
            )
        params = llama_cpp.llama_model_default_params()
        with Reason() as reason:
            self._model = llama_cpp.llama_model_load_from_file(os.fsencode(self.path), params)
        if not self._model:
            raise ModelFileError(f'llama.cpp cannot load {self.path}: {reason}')
        self._vocab: Any = llama_cpp.llama_model_get_vocab(self._model)
        self.n_vocab: int = llama_cpp.llama_vocab_n_tokens(self._vocab)
        self.n_embd: int = llama_cpp.llama_model_n_embd(self._model)
        self.can_trim: bool = not (
            llama_cpp.llama_model_is_recurrent(self._model)
            or llama_cpp.llama_model_is_hybrid(self._model)
        )
        """Whether the memory can drop a tail; else `trim` empties it."""
        if not llama_cpp.llama_model_has_decoder(self._model) or not self.n_vocab:
            raise ModelFileError(f'{self.path} is a GGUF file, but not of a text decoder')

    def _open_context(self, config: DecoderConfig) -> None:
        params = llama_cpp.llama_context_default_params()
        # llama.cpp rounds n_ctx up like this, but not n_batch, and aborts when a batch is larger.
        n_ctx = -(-config.n_ctx // 256) * 256
        params.n_ctx = params.n_batch = n_ctx
        params.n_ubatch = min(config.n_ubatch, n_ctx)
        params.n_threads = params.n_threads_batch = self.n_threads
        params.flash_attn_type = FLASH_ATTN_TYPES[config.flash_attn]
        params.type_k = params.type_v = KV_CACHE_TYPES[config.kv_cache_type]
        params.no_perf = True
        params.swa_full = True  # else a tail could be dropped, but what it had pushed out is gone
        with Reason() as reason:
            self._context = llama_cpp.llama_init_from_model(self._model, params)
        if not self._context:
            raise ModelFileError(
                f'llama.cpp cannot make a context of n_ctx {config.n_ctx} for {self.path}:'
                f' {reason}'
            )
        self._memory: Any = llama_cpp.llama_get_memory(self._context)
        self.n_ctx: int = llama_cpp.llama_n_ctx(self._context)
        self.cancel_on(CancelToken())

        # Prepared once, so that a decode step only writes a few integers.
        self._positions: npt.NDArray[np.int32] = np.arange(self.n_ctx, dtype=np.int32)
        self._positions_at: int = self._positions.ctypes.data
        self._no_logits: npt.NDArray[np.int8] = np.zeros(self.n_ctx, np.int8)
        self._tokens: Any = (ctypes.c_int32 * (1 + MAX_DRAFT))()
        self._step: Any = llama_cpp.llama_batch(
            token=self._tokens,
            pos=(ctypes.c_int32 * (1 + MAX_DRAFT))(),
            logits=(ctypes.c_int8 * (1 + MAX_DRAFT))(*[1] * (1 + MAX_DRAFT)),
        )

    # -- vocabulary ------------------------------------------------------------------------------

    @property
    def chat_template(self) -> str | None:
        """The Jinja chat template in the GGUF's metadata, if any."""
        text: bytes | None = llama_cpp.llama_model_chat_template(self._model, None)
        return text.decode() if text else None

    @property
    def bos(self) -> str:
        """Text of the beginning-of-sequence token, empty if there is none."""
        return self._text_or_empty(llama_cpp.llama_vocab_bos(self._vocab))

    @property
    def eos(self) -> str:
        """Text of the end-of-sequence token, empty if there is none."""
        return self._text_or_empty(llama_cpp.llama_vocab_eos(self._vocab))

    @property
    def bos_id(self) -> int | None:
        """The token that every prompt of this model must begin with, or None."""
        if not llama_cpp.llama_vocab_get_add_bos(self._vocab):
            return None
        return int(llama_cpp.llama_vocab_bos(self._vocab))

    def special_id(self, text: str) -> int | None:
        """Return the id of the special token whose text is exactly this, or None."""
        ids = self._tokenize(text, parse_special=True)
        if len(ids) != 1 or not self._is_special(ids[0]):
            return None
        return ids[0]

    def tokenize(self, text: str) -> list[int]:
        """Tokenise plain text: no part of it becomes a special token, whatever it contains."""
        ids = self._tokenize(text, parse_special=False)
        specials: set[str] = set()
        # llama.cpp matches USER_DEFINED tokens even without parse_special: cut through them all.
        while new := {self._token_text(t) for t in set(ids) if self._is_special(t)} - specials:
            specials |= new
            cuts = {0, len(text)}
            for special in specials:
                if len(special) > 1 and not special.isspace():
                    found = re.finditer(f'(?={re.escape(special)})', text)
                    cuts |= {match.start() + 1 for match in found}
            ends = sorted(cuts)
            ids = []
            for start, end in zip(ends, ends[1:], strict=False):
                ids += self._tokenize(text[start:end], parse_special=False)
        return ids

    def split_special(self, text: str) -> list[Special | Text]:
        """Split a trusted text, such as a rendered template, at its special tokens."""
        parts: list[Special | Text] = []
        for token in self._tokenize(text, parse_special=True):
            special = self._token_text(token) if self._is_special(token) else ''
            head, found, tail = text.partition(special) if special else ('', '', '')
            if found:
                parts += [Text(head), Special(special)]
                text = tail
        return [*parts, Text(text)]

    def piece(self, token: int) -> bytes:
        """Return the bytes of a token as text; empty for a control token."""
        piece = self._pieces.get(token)
        if piece is None:
            piece = self._pieces[token] = self._to_piece(token, special=False)
        return piece

    def special_piece(self, token: int) -> bytes:
        """Return the bytes of a token as text, those of a control token too."""
        return self._to_piece(token, special=True)

    def is_end(self, token: int) -> bool:
        """Tell whether a token ends generation."""
        return bool(llama_cpp.llama_vocab_is_eog(self._vocab, token))

    def _tokenize(self, text: str, *, parse_special: bool) -> list[int]:
        data = text.encode('utf-8', 'replace')
        size = len(data) + 8
        ids = (ctypes.c_int32 * size)()
        n = llama_cpp.llama_tokenize(self._vocab, data, len(data), ids, size, False, parse_special)
        if n < 0:
            raise InferenceError(f'llama.cpp cannot tokenise {text[:40]!r}')
        return ids[:n]

    def _is_special(self, token: int) -> bool:
        return bool(llama_cpp.llama_vocab_get_attr(self._vocab, token) & _NOT_PLAIN)

    def _token_text(self, token: int) -> str:
        return self._to_piece(token, special=True).decode('utf-8', 'replace')

    def _text_or_empty(self, token: int) -> str:
        # llama.cpp names a token of its own choice where the GGUF names none.
        return self._token_text(token) if token >= 0 and self._is_special(token) else ''

    def _to_piece(self, token: int, *, special: bool) -> bytes:
        buffer = self._buffer
        n = llama_cpp.llama_token_to_piece(self._vocab, token, buffer, len(buffer), 0, special)
        if n < 0:
            buffer = ctypes.create_string_buffer(-n)
            n = llama_cpp.llama_token_to_piece(self._vocab, token, buffer, -n, 0, special)
        return buffer.raw[:n]

    # -- KV cache --------------------------------------------------------------------------------

    def prefill(self, segment: Segment, *, logits: bool = True) -> None:
        """Decode a segment at the positions that follow what the KV cache holds.

        Its last position yields logits for `Sampler.sample`, none does without `logits`. If this
        raises, the KV cache holds what it held before.

        Raises:
            CancelledError: the token of `cancel_on` was set.
            InferenceError: llama.cpp failed, or the segment does not fit the context.
        """
        n = len(segment)
        self._check_room(n)
        if isinstance(segment, np.ndarray):
            if segment.shape != (n, self.n_embd):
                raise InferenceError(
                    f'the image embeddings have shape {segment.shape}, the decoder takes'
                    f' ({n}, {self.n_embd})'
                )
            data = np.ascontiguousarray(segment, np.float32)
            batch = llama_cpp.llama_batch(n_tokens=n, embd=_pointer(data, _FLOAT_P))
        else:
            ids = (ctypes.c_int32 * n)(*segment)
            batch = llama_cpp.llama_batch(n_tokens=n, token=ids)
        batch.pos = _pointer(self._positions[self.n_past :], _INT32_P)
        if not logits:
            # Without flags llama.cpp computes the last position's logits: a whole output layer.
            batch.logits = _pointer(self._no_logits, _INT8_P)
        self._decode(batch)

    def decode(self, token: int, draft: Sequence[int] = ()) -> None:
        """Decode one sampled token and a draft of up to `MAX_DRAFT` tokens that may follow it.

        `Sampler.sample(i)` then picks what follows the token and i tokens of the draft. Those that
        it does not pick have to be dropped with `trim`.

        Raises:
            CancelledError: the token of `cancel_on` was set.
            InferenceError: llama.cpp failed, or the context is full.
        """
        n = 1 + len(draft)
        self._check_room(n)
        self._tokens[0] = token
        if draft:
            self._tokens[1:n] = draft
        ctypes.memmove(self._step.pos, self._positions_at + 4 * self.n_past, 4 * n)
        self._step.n_tokens = n
        self._decode(self._step)

    def _check_room(self, n: int) -> None:
        if self.n_past + n > self.n_ctx:
            raise InferenceError(
                f'{n} more positions do not fit the context ({self.n_past} of {self.n_ctx} used)'
            )

    def _decode(self, batch: Any) -> None:
        with self._reason:
            code = llama_cpp.llama_decode(self._context, batch)
        if code == 0:
            self.n_past += batch.n_tokens
            return
        # Some of the batch may have been processed: forget it, so that n_past stays the truth.
        self.trim(self.n_past)
        if code == _ABORTED:
            raise CancelledError('the request was cancelled')
        raise InferenceError(f'llama_decode failed with code {code}: {self._reason}')

    def trim(self, n_keep: int) -> int:
        """Drop all positions from `n_keep` on; return how many are dropped.

        The memory of a recurrent or hybrid model, which cannot drop a tail, is emptied instead:
        look at `n_past` for what is left. (A sliding window is kept whole by `swa_full`.)
        """
        before, n_keep = self.n_past, max(0, n_keep)
        if llama_cpp.llama_memory_seq_rm(self._memory, 0, n_keep, -1):
            self.n_past = min(before, n_keep)
        else:
            llama_cpp.llama_memory_clear(self._memory, True)
            self.n_past = 0
        return before - self.n_past

    def logits(self) -> npt.NDArray[np.float32]:
        """Copy the logits of the last decoded position, float32 [n_vocab]."""
        pointer = llama_cpp.llama_get_logits_ith(self._context, -1)
        return np.ctypeslib.as_array(pointer, shape=(self.n_vocab,)).copy()

    def cancel_on(self, token: CancelToken) -> None:
        """Make decodes raise `CancelledError` from when the token is set."""
        self._cancel = token  # llama.cpp keeps only a pointer to its flag
        llama_cpp.llama_set_abort_callback(self._context, _abort_if_set, token.flag)

    # -- lifetime --------------------------------------------------------------------------------

    def check_grammar(self, grammar: str) -> None:
        """Check that llama.cpp can use a GBNF grammar; from any thread.

        Raises:
            ParameterError: it cannot, and why.
        """
        with self._vocabulary_lock:  # against `close` in another thread
            if not self._model:
                raise ParameterError('the model is closed')
            llama_cpp.llama_sampler_free(grammar_sampler(self._vocab, grammar))

    def sampler(self, config: SamplingConfig) -> Sampler:
        """Make a sampler chain for this decoder; the caller closes it."""
        return Sampler(self._context, self._vocab, self.n_ctx, config)

    def close(self) -> None:
        """Free context and model; closing again does no harm."""
        if self._context:
            llama_cpp.llama_free(self._context)
            self._context = None
        with self._vocabulary_lock:
            if self._model:
                llama_cpp.llama_model_free(self._model)
                self._model = None

    def __enter__(self) -> Decoder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _pointer(array: npt.NDArray[Any], kind: Any) -> Any:
    """Return a C pointer to an array's data; the array must outlive its use."""
    return array.ctypes.data_as(kind)
