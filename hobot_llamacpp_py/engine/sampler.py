"""The sampler chain: it picks the next token from the logits of a decoded position."""

from __future__ import annotations

import ctypes
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from hobot_llamacpp_py.config import SamplingConfig
from hobot_llamacpp_py.engine.matcher import Matcher
from hobot_llamacpp_py.errors import InferenceError, LogitsError
from hobot_llamacpp_py.llama_api import llama_cpp

__all__ = ['Sampler', 'logits_of']

_CANDIDATE = np.dtype([('id', np.int32), ('logit', np.float32), ('p', np.float32)])


class Sampler:
    """A sampler chain in llama.cpp: made once for a configuration, then called for each token.

    The constraint is no part of it: a `Matcher` says which tokens may be picked.
    """

    def __init__(self, context: Any, n_vocab: int, n_ctx: int, config: SamplingConfig) -> None:
        self.config = config
        self._context, self._n_vocab = context, n_vocab
        self._is_plain_greedy = config.temperature <= 0 and config.repeat_penalty == 1.0
        self.chain: Any = llama_cpp.llama_sampler_chain_init(
            llama_cpp.llama_sampler_chain_default_params()
        )
        """llama.cpp's own handle."""
        if config.repeat_penalty != 1.0 and config.repeat_last_n != 0:
            # llama.cpp takes -1 for none at all, and not, as its users do, for the whole context.
            # And it allocates what it is told: no more than there can be.
            last_n = n_ctx if config.repeat_last_n < 0 else min(config.repeat_last_n, n_ctx)
            self._add(
                llama_cpp.llama_sampler_init_penalties(
                    n_vocab, last_n, config.repeat_penalty, 0.0, 0.0
                )
            )
        if config.temperature <= 0:
            self._add(llama_cpp.llama_sampler_init_greedy())
            return
        self._add(llama_cpp.llama_sampler_init_top_k(config.top_k))
        self._add(llama_cpp.llama_sampler_init_top_p(config.top_p, 1))
        self._add(llama_cpp.llama_sampler_init_min_p(config.min_p, 1))
        self._add(llama_cpp.llama_sampler_init_temp(config.temperature))
        self._add(llama_cpp.llama_sampler_init_dist(config.seed & 0xFFFFFFFF))

    def _add(self, link: Any) -> None:
        llama_cpp.llama_sampler_chain_add(self.chain, link)

    def sample(self, row: int = -1) -> int:
        """Pick the next token from the logits of a row of the last decode, and accept it.

        Raises:
            LogitsError: they are no numbers.
        """
        self._logits(row)
        return int(llama_cpp.llama_sampler_sample(self.chain, self._context, row))

    def sample_allowed(self, matcher: Matcher, row: int = -1) -> int:
        """Pick a token that a matcher allows, and have both accept it.

        Where only one token may follow nothing is picked: whether such tokens are decoded one by
        one or together, the same random numbers are drawn.

        Raises:
            InferenceError: nothing may follow.
        """
        if forced := matcher.forced():
            token = forced[0]
            self.accept(token)
        elif self._is_plain_greedy and matcher.allows(token := self.most_likely(row)):
            pass  # the most likely of all is that of the allowed ones: no mask is needed
        else:
            logits = self._logits(row)
            if (few := matcher.few()) is not None:
                token = self._pick(few, logits[few])
            else:
                matcher.mask(logits)  # in place, in llama.cpp's own memory
                token = self.sample(row)
        matcher.accept(token)
        return token

    def most_likely(self, row: int = -1) -> int:
        """Return the most likely token, without a pick."""
        return int(self._logits(row).argmax())

    def accept(self, token: int) -> None:
        """Take a token that was not picked here."""
        llama_cpp.llama_sampler_accept(self.chain, token)

    def _logits(self, row: int) -> npt.NDArray[np.float32]:
        return logits_of(self._context, self._n_vocab, row)

    def _pick(self, tokens: npt.NDArray[np.int32], logits: npt.NDArray[np.float32]) -> int:
        """Have the chain pick one of a few tokens."""
        candidates = np.zeros(len(tokens), _CANDIDATE)
        candidates['id'], candidates['logit'] = tokens, logits
        data = candidates.ctypes.data_as(ctypes.POINTER(llama_cpp.llama_token_data))
        array = llama_cpp.llama_token_data_array(data=data, size=len(tokens), selected=-1)
        llama_cpp.llama_sampler_apply(self.chain, ctypes.byref(array))
        if array.selected < 0:
            raise InferenceError('the model has no token that the constraint allows here')
        token = int(array.data[array.selected].id)
        self.accept(token)
        return token

    def reset(self) -> None:
        """Forget accepted tokens and start the random numbers again from the seed."""
        llama_cpp.llama_sampler_reset(self.chain)

    def close(self) -> None:
        """Free the chain; closing again does no harm."""
        if self.chain:
            llama_cpp.llama_sampler_free(self.chain)
            self.chain = None


def logits_of(context: Any, n_vocab: int, row: int) -> npt.NDArray[np.float32]:
    """Return the logits [n_vocab] of a row of the last decode, in llama.cpp's own memory.

    Raises:
        InferenceError: there are none.
        LogitsError: one of them is no number, or infinite. (A mask may have made some -inf.)
    """
    pointer = llama_cpp.llama_get_logits_ith(context, row)
    if not pointer:
        raise InferenceError(f'there are no logits of row {row}')
    logits = np.ctypeslib.as_array(pointer, (n_vocab,))
    if not math.isfinite(logits[logits.argmax()]):  # the first that is no number, if there is one
        raise LogitsError
    return logits
