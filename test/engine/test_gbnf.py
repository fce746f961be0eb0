"""GBNF keeps its meaning: what llama.cpp's own grammars allow, and nothing else."""

from __future__ import annotations

import ctypes
import random
from collections.abc import Iterator
from typing import Any

import llama_cpp
import numpy as np
import pytest
from vocabularies import open_vocabulary

from hobot_llamacpp_py.engine import constraint_compiler
from hobot_llamacpp_py.engine.constraint_compiler import ConstraintCompiler
from hobot_llamacpp_py.engine.constraints import grammar
from hobot_llamacpp_py.engine.matcher import Matcher

_CANDIDATE = np.dtype([('id', np.int32), ('logit', np.float32), ('p', np.float32)])
_TEXTS = [
    *('"a"', '"ab"', r'"b\n"', '[ab]', '[^ab]', '[a-c]', r'"\u00e9"', '"é"', '"\\\\"', r'"\x41"'),
    *(r'[\x61-\x63é-ü]', r'"\""', r'[\]a-]', r'[^\n]', '"/"', r'[/\[]', '[-a]', '.'),
]
_COUNTS = ['*', '+', '?', '{2}', '{1,2}', '{0,2}', '{2,}', ' {0,0}']


@pytest.fixture(scope='module')
def vocab() -> Iterator[Any]:
    with open_vocabulary('internvl') as vocab:
        yield vocab


def random_grammar(rnd: random.Random) -> str:
    names = ['root', *(f'a-{i}' for i in range(1, rnd.randint(2, 5)))]

    def expression(i: int, depth: int) -> str:
        kind = rnd.random()
        if depth <= 0 or kind < 0.3:
            return rnd.choice(_TEXTS)
        if kind < 0.45:
            return rnd.choice([*names[i + 1 :], '"c"'])
        left, right = expression(i, depth - 1), expression(i, depth - 1)
        if kind < 0.6:
            return f'{left} {right}'
        if kind < 0.8:
            return f'( {left} | # or\n {right} )'
        return f'({left}){rnd.choice(_COUNTS)}'

    return '\n'.join(f'{name} ::= {expression(i, 3)}' for i, name in enumerate(names))


def llama_cpp_allows(sampler: Any, tokens: list[int]) -> set[int]:
    """Return which of the tokens llama.cpp's grammar allows next."""
    candidates = np.zeros(len(tokens), _CANDIDATE)
    candidates['id'] = tokens
    data = candidates.ctypes.data_as(ctypes.POINTER(llama_cpp.llama_token_data))
    array = llama_cpp.llama_token_data_array(data=data, size=len(tokens), selected=-1)
    llama_cpp.llama_sampler_apply(sampler, ctypes.byref(array))
    return {int(token) for token, logit, _ in candidates if np.isfinite(logit)}


def test_grammars_mean_what_they_mean_to_llama_cpp(
    vocab: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Along random texts of random grammars both allow the same characters, and the same ends."""
    monkeypatch.setattr(constraint_compiler, 'check', lambda constraint: None)
    compiler, rnd = ConstraintCompiler(vocab), random.Random(11)
    Matcher(compiler.start(grammar('root ::= "a"')).result(), compiler)
    decode = compiler._tokenizer.decode_bytes
    single = {t: decode([t]) for t in range(compiler.n_vocab) if len(decode([t])) == 1}
    # llama.cpp takes bytes for characters that are none.
    tokens = [t for t, byte in single.items() if 0 < byte[0] < 128 or byte[0] in b'\xc3\xa9\xbc']
    end = llama_cpp.llama_vocab_eos(vocab)
    compared = 0
    for _ in range(150):
        text = random_grammar(rnd)
        reference = llama_cpp.llama_sampler_init_grammar(vocab, text.encode(), b'root')
        if not reference:  # it has repeated what may be empty, which llama.cpp calls a recursion
            continue
        matcher = Matcher(compiler.start(grammar(text)).result(), compiler)
        for _ in range(12):
            expected = llama_cpp_allows(reference, [*tokens, end])
            # Not by the mask: it has the words of the vocabulary, which forced text is made of.
            found = {t for t in tokens if matcher._matcher.validate_tokens([t])}
            found |= {end} if matcher._matcher.is_accepting() else set()
            assert expected == found, text
            compared += 1
            if not expected - {end}:
                break
            token = rnd.choice(sorted(expected - {end}))
            llama_cpp.llama_sampler_accept(reference, token)
            assert matcher._matcher.consume_token(token)
        llama_cpp.llama_sampler_free(reference)
    assert compared > 400
    compiler.close()
