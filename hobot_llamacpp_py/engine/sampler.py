"""The sampler chain: it picks the next token from the logits of a decoded position."""

from __future__ import annotations

import ctypes
import math
from typing import Any

import llama_cpp
import numpy as np
import numpy.typing as npt

from hobot_llamacpp_py.config import SamplingConfig
from hobot_llamacpp_py.engine.grammar import check_grammar_text
from hobot_llamacpp_py.errors import ConstraintError, InferenceError
from hobot_llamacpp_py.llama_log import Reason

__all__ = ['Sampler', 'grammar_sampler']

_CANDIDATE = np.dtype([('id', np.int32), ('logit', np.float32), ('p', np.float32)])


class Sampler:
    """A sampler chain in llama.cpp: made once for a configuration, then called for each token.

    Raises:
        ConstraintError: the grammar is none.
    """

    def __init__(self, context: Any, vocab: Any, n_ctx: int, config: SamplingConfig) -> None:
        self.config = config
        self._context = context
        self.chain = self._grammar = None
        n_vocab = llama_cpp.llama_vocab_n_tokens(vocab)
        if config.grammar:
            self._grammar = grammar_sampler(vocab, config.grammar)
            self._candidates: npt.NDArray[Any] = np.zeros(n_vocab, _CANDIDATE)
            self._ids: npt.NDArray[np.int32] = np.arange(n_vocab, dtype=np.int32)
        self.chain = llama_cpp.llama_sampler_chain_init(
            llama_cpp.llama_sampler_chain_default_params()
        )
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
        """Pick the next token from the logits of a row of the last decode, and accept it."""
        if self._grammar:
            return self._sample_allowed(row)
        return self.sample_free(row)

    def sample_free(self, row: int = -1) -> int:
        """Pick a token as `sample` does, but without the grammar: what it is to follow comes."""
        return int(llama_cpp.llama_sampler_sample(self.chain, self._context, row))

    def sample_unless(self, opening: int | None, row: int = -1) -> int:
        """Pick a token as `sample` does, or freely if that picks the one that opens a thought."""
        if not self._grammar:
            return self.sample_free(row)
        return self._sample_allowed(row, opening)

    def _sample_allowed(self, row: int, opening: int | None = None) -> int:
        """Pick a token that the grammar allows; llama.cpp ends the process over any other.

        To ask the grammar about a whole vocabulary takes as long as to decode a token. So it is
        asked about the chain's pick first; only where that is not allowed it comes first in the
        chain, before all other samplers.
        """
        self._fill(row)
        chosen = self._pick()
        if chosen is not None and chosen.id == opening:
            llama_cpp.llama_sampler_accept(self.chain, chosen.id)
            return int(chosen.id)
        if chosen is not None and not self._is_allowed(chosen.id):
            self._fill(row)
            array = _array(self._candidates)
            llama_cpp.llama_sampler_apply(self._grammar, ctypes.byref(array))
            chosen = self._pick()
        if chosen is None or not self._is_allowed(chosen.id):
            raise InferenceError('the model has no token that the grammar allows here')
        llama_cpp.llama_sampler_accept(self._grammar, chosen.id)
        llama_cpp.llama_sampler_accept(self.chain, chosen.id)
        return int(chosen.id)

    def _fill(self, row: int) -> None:
        logits = llama_cpp.llama_get_logits_ith(self._context, row)
        self._candidates['id'], self._candidates['p'] = self._ids, 0
        self._candidates['logit'] = np.ctypeslib.as_array(logits, self._ids.shape)

    def _pick(self) -> Any:
        """Apply the chain to the candidates; return the one that it selects, if any."""
        array = _array(self._candidates)
        llama_cpp.llama_sampler_apply(self.chain, ctypes.byref(array))
        return array.data[array.selected] if array.selected >= 0 else None

    def _is_allowed(self, token: int) -> bool:
        candidate = np.array([(token, 1.0, 0.0)], _CANDIDATE)
        array = _array(candidate)
        llama_cpp.llama_sampler_apply(self._grammar, ctypes.byref(array))
        return math.isfinite(candidate[0]['logit'])

    def reset(self) -> None:
        """Forget accepted tokens and start the random numbers again from the seed."""
        llama_cpp.llama_sampler_reset(self.chain)
        if self._grammar:
            llama_cpp.llama_sampler_reset(self._grammar)

    def close(self) -> None:
        """Free the chain; closing again does no harm."""
        for sampler in (self.chain, self._grammar):
            if sampler:
                llama_cpp.llama_sampler_free(sampler)
        self.chain = self._grammar = None


def _array(candidates: npt.NDArray[Any]) -> Any:
    """Wrap candidates for llama.cpp; they must outlive the array."""
    data = candidates.ctypes.data_as(ctypes.POINTER(llama_cpp.llama_token_data))
    return llama_cpp.llama_token_data_array(data=data, size=len(candidates), selected=-1)


def grammar_sampler(vocab: Any, grammar: str) -> Any:
    """Make llama.cpp's sampler of a GBNF grammar; the caller frees it.

    Raises:
        ConstraintError: it is no grammar.
    """
    check_grammar_text(grammar)
    with Reason() as reason:
        sampler = llama_cpp.llama_sampler_init_grammar(vocab, grammar.encode(), b'root')
    if not sampler:
        raise ConstraintError(
            f'the grammar is no GBNF with a rule named root: {reason}; where llama.cpp'
            ' knows more, it is on stderr'
        )
    return sampler
