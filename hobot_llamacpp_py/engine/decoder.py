"""The text decoder: tokens and embeddings in, logits out, over llama.cpp's C API.

One model, one context. Sequence 0 of its KV cache is the conversation; others exist from when
they are reserved. What each holds is `KvCache`'s to know: here each call is told the position that
it begins at. Not thread-safe; only a `CancelToken` may be set from any thread at any time.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hobot_llamacpp_py.config import DecoderConfig, SamplingConfig
from hobot_llamacpp_py.engine.batch import FLOAT_P, INT8_P, INT32_P, Owners, Rows, Step, pointer
from hobot_llamacpp_py.engine.cancel import CancelToken
from hobot_llamacpp_py.engine.context import load_model, make_context, metadata, padded
from hobot_llamacpp_py.engine.governed import Governed
from hobot_llamacpp_py.engine.sampler import Sampler, logits_of
from hobot_llamacpp_py.engine.speculation import MAX_DRAFT
from hobot_llamacpp_py.engine.threads import MOST, usable_cores
from hobot_llamacpp_py.engine.vocabulary import Vocabulary
from hobot_llamacpp_py.errors import CancelledError, InferenceError, ModelFileError
from hobot_llamacpp_py.gguf_header import check_magic
from hobot_llamacpp_py.health.free_memory import Free, MemoryGuard, free_memory
from hobot_llamacpp_py.llama_api import llama_cpp
from hobot_llamacpp_py.llama_log import Reason, on_llama_log

__all__ = ['Decoder', 'Segment']

# What `prefill` takes: token ids, or image embeddings float32 [n_tokens, n_embd].
Segment = Sequence[int] | npt.NDArray[np.float32]

_ABORTED = 2  # llama_decode's return code

# llama.cpp asks `bool callback(void *data)` between any two operations whether to stop. The C
# library's strlen answers that: non-zero if and only if the first byte at `data` is set. No
# Python runs inside a decode, so the question costs nothing and never waits for the GIL.
_abort_if_set = ctypes.cast(ctypes.CDLL(None).strlen, llama_cpp.ggml_abort_callback)


class Decoder:
    """A GGUF model with a llama.cpp context.

    Args:
        path: the GGUF file.
        config: context size, threads and cache type.
        beside: bytes of memory that the encoder will take.

    Raises:
        ModelFileError: the file is no GGUF text model that llama.cpp can load, or too large.
    """

    def __init__(
        self, path: str | Path, config: DecoderConfig = DecoderConfig(), beside: int = 0
    ) -> None:
        self._model: Any = None
        self.context: Any = None
        """llama.cpp's own handle."""
        self._reason = Reason()
        self._n_sequences, self._n_extra = 1, 0
        self.path, self.config = Path(path), config
        self.n_threads = min(config.n_threads or MOST, usable_cores())
        """Threads at the most."""
        adapts = config.n_threads == 0 and self.n_threads > 1
        self._governed = Governed(self.n_threads) if adapts else None
        llama_cpp.llama_log_set(on_llama_log, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        try:
            self._load_model(beside)
            self.renew()
        except BaseException:
            self.close()
            raise

    def _load_model(self, beside: int) -> None:
        check_magic(self.path)
        guard = MemoryGuard(self.path, self.config, beside, _free())
        self._model = load_model(self.path)
        self.vocabulary: Vocabulary = Vocabulary(self._model)
        self.n_embd: int = llama_cpp.llama_model_n_embd(self._model)
        self.can_trim: bool = not (
            llama_cpp.llama_model_is_recurrent(self._model)
            or llama_cpp.llama_model_is_hybrid(self._model)
        )
        """Whether the memory can drop a tail; else `trim` empties it."""
        self.has_window: bool = llama_cpp.llama_model_n_swa(self._model) > 0
        """Whether attention slides: what a sequence has left behind its window may be taken by
        another one, and it cannot go back there any more."""
        if not llama_cpp.llama_model_has_decoder(self._model) or not self.vocabulary.n_tokens:
            raise ModelFileError(f'{self.path} is a GGUF file, but not of a text decoder')
        guard.check(lambda key: metadata(self._model, key), self.vocabulary.n_tokens)

    def renew(self) -> None:
        """Make the context anew, with an empty KV cache, which takes a while."""
        if self.context:
            llama_cpp.llama_free(self.context)
            self.context = None
        config = self.config
        with Reason() as reason:
            self.context = make_context(
                self._model, config, self.n_threads, self._n_sequences, self._n_extra
            )
        if not self.context:
            raise ModelFileError(
                f'llama.cpp cannot make a context of n_ctx {config.n_ctx} for {self.path}:'
                f' {reason}'
            )
        if self._governed:
            self._governed.begin_anew()
        self._memory: Any = llama_cpp.llama_get_memory(self.context)
        self.n_ctx: int = llama_cpp.llama_n_ctx(self.context) - self._n_extra
        """Positions that the conversation may take, whatever other sequences do."""
        self.cancel_on(CancelToken())

        self._positions: npt.NDArray[np.int32] = np.arange(self.n_ctx, dtype=np.int32)
        self._no_logits: npt.NDArray[np.int8] = np.zeros(self.n_ctx, np.int8)
        self._step = Step(self._positions, 1 + MAX_DRAFT)

    def reserve(self, n_sequences: int, n_positions: int) -> bool:
        """See to it that there are so many sequences, and room for those besides the conversation.

        Returns whether the context had to be made anew for that: then it is empty.

        Args:
            n_positions: that the others than the conversation may take together.

        Raises:
            InferenceError: llama.cpp cannot make such a context; it is as it was then, but empty.
        """
        if n_sequences <= self._n_sequences and n_positions <= self._n_extra:
            return False
        before = self._n_sequences, self._n_extra
        self._n_sequences = max(n_sequences, self._n_sequences)
        self._n_extra = max(padded(n_positions), self._n_extra)
        try:
            self.renew()
        except ModelFileError as error:
            self._n_sequences, self._n_extra = before
            self.renew()
            raise InferenceError(f'no room for more than the conversation: {error}') from None
        return True

    def prefill(
        self, segment: Segment, at: int, *, logits: bool = True, sequence: int = 0
    ) -> None:
        """Decode a segment at the positions from `at` on.

        Its last position yields logits for `Sampler.sample`, none does without `logits`. If this
        raises, some of its positions may have been decoded: `trim` them.

        Raises:
            CancelledError: the token of `cancel_on` was set.
            InferenceError: llama.cpp failed, or the segment does not fit the context.
        """
        n = len(segment)
        self._check_room(n, at)
        if isinstance(segment, np.ndarray):
            if segment.shape != (n, self.n_embd):
                raise InferenceError(
                    f'the image embeddings have shape {segment.shape}, the decoder takes'
                    f' ({n}, {self.n_embd})'
                )
            data = np.ascontiguousarray(segment, np.float32)
            batch = llama_cpp.llama_batch(n_tokens=n, embd=pointer(data, FLOAT_P))
        else:
            ids = (ctypes.c_int32 * n)(*segment)
            batch = llama_cpp.llama_batch(n_tokens=n, token=ids)
        batch.pos = pointer(self._positions[at:], INT32_P)
        if not logits:
            # Without flags llama.cpp computes the last position's logits: a whole output layer.
            batch.logits = pointer(self._no_logits, INT8_P)
        if sequence:
            owners = Owners([sequence] * n)
            owners.put_into(batch)
        self._decode(batch)

    def decode_rows(self, rows: Rows) -> None:
        """Decode tokens of several sequences in one batch; `logits(row)` are the wanted ones'.

        Raises:
            CancelledError, InferenceError: as `prefill`; the sequences hold some of it then.
        """
        self._decode(rows.batch)

    def logits(self, row: int) -> npt.NDArray[np.float32]:
        """Return the logits [n_vocab] of a row of the last batch, as `logits_of` does."""
        return logits_of(self.context, self.vocabulary.n_tokens, row)

    def copy(self, source: int, target: int, n_positions: int) -> None:
        """Let a sequence hold what another one does, and nothing else; no numbers are copied.

        Args:
            n_positions: how many of the first positions.
        """
        llama_cpp.llama_memory_seq_rm(self._memory, target, -1, -1)
        llama_cpp.llama_memory_seq_cp(self._memory, source, target, 0, n_positions)

    def decode(
        self, token: int, draft: Sequence[int], at: int, wanted: Sequence[bool] | None = None
    ) -> None:
        """Decode one sampled token, and a draft of up to `MAX_DRAFT` tokens that may follow it.

        `Sampler.sample(i)` then picks what follows the token and i tokens of the draft. Those that
        it does not pick have to be dropped with `trim`; so has what was decoded if this raises.

        Args:
            at: the token's position.
            wanted: of which tokens of the batch the logits are; None: of all.

        Raises:
            CancelledError: the token of `cancel_on` was set.
            InferenceError: llama.cpp failed, or the context is full.
        """
        self._check_room(1 + len(draft), at)
        self._decode(self._step.of(token, draft, at, wanted))

    def _check_room(self, n: int, at: int) -> None:
        if at + n > self.n_ctx:
            raise InferenceError(
                f'{n} more positions do not fit the context ({at} of {self.n_ctx} used)'
            )

    @property
    def n_threads_now(self) -> tuple[int, int]:
        """The threads that a decode and a prefill are computed with, at the moment."""
        return self._governed.n_threads_now if self._governed else (self.n_threads,) * 2

    @property
    def encoder_threads(self) -> Callable[[], int] | None:
        """Tells how many threads an encoder on the CPU may take now; None: its own stay."""
        return self._governed.share if self._governed else None

    def _decode(self, batch: Any) -> None:
        with self._reason:
            if self._governed:
                code = self._governed.decode(self.context, batch)
            else:
                code = int(llama_cpp.llama_decode(self.context, batch))
        if code == _ABORTED:
            raise CancelledError('the request was cancelled')
        if code:
            raise InferenceError(f'llama_decode failed with code {code}: {self._reason}')

    def trim(self, n_keep: int, sequence: int = 0) -> int:
        """Drop all positions of a sequence from `n_keep` on; return how many are kept.

        With a recurrent or hybrid model, which cannot drop a tail, all of them are instead.
        """
        if not self.context:
            return 0
        if llama_cpp.llama_memory_seq_rm(self._memory, sequence, n_keep, -1):
            return n_keep
        llama_cpp.llama_memory_seq_rm(self._memory, sequence, -1, -1)
        return 0

    def cancel_on(self, token: CancelToken) -> None:
        """Make decodes raise `CancelledError` from when the token is set."""
        if not self.context:  # it could not be made anew
            raise InferenceError('llama.cpp has no context any more: restart')
        self._cancel = token  # llama.cpp keeps only a pointer to its flag
        llama_cpp.llama_set_abort_callback(self.context, _abort_if_set, token.flag)

    def sampler(self, config: SamplingConfig) -> Sampler:
        """Make a sampler chain for this decoder; the caller closes it."""
        return Sampler(self.context, self.vocabulary.n_tokens, self.n_ctx, config)

    def close(self) -> None:
        """Free context and model; closing again does no harm."""
        if self.context:
            llama_cpp.llama_free(self.context)
            self.context = None
        if self._model:
            llama_cpp.llama_model_free(self._model)
            self._model = None

    def __enter__(self) -> Decoder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _free() -> Free | None:
    # With a GPU nobody knows beforehand what lies where.
    return None if llama_cpp.llama_supports_gpu_offload() else free_memory()
