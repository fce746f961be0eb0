"""What is fuzzed: a way to make inputs, and what must hold for each of them."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from hobot_llamacpp_py.errors import VlmError

__all__ = ['CORPUS', 'Bytes', 'Target', 'corpus_of', 'edited', 'is_clear', 'mutated']

CORPUS = Path(__file__).with_name('corpus')
"""A folder a target, of files that each hold an input as a Python literal."""

Bytes = st.SearchStrategy[bytes]
MB = 1 << 20


class Target:
    """One thing that is fuzzed; used as a context manager, which makes what all inputs share.

    Attributes:
        inputs: makes them; they are Python literals.
        seconds: that an input may take, on a busy machine.
        memory: bytes that all may take beyond what is taken when the target is ready.
    """

    inputs: st.SearchStrategy[Any]
    seconds = 60.0
    memory = 1024 * MB

    def __enter__(self) -> Target:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def check(self, value: Any) -> None:
        """Feed it with an input; raise whatever is not as it should be."""
        raise NotImplementedError


def corpus_of(name: str) -> dict[str, Any]:
    """Return a target's kept inputs by their files' names."""
    paths = sorted((CORPUS / name).glob('*.txt'))
    return {path.stem: ast.literal_eval(path.read_text('utf-8')) for path in paths}


def is_clear(error: Exception, *words: str, size: int = 0) -> None:
    """Check that an error is one of ours, and one line that holds some words.

    Args:
        size: of the input, of which the line may tell.
    """
    if not isinstance(error, VlmError):
        raise error
    text = str(error)
    assert text.strip(), 'an error without a word'
    assert len(text.splitlines()) == 1, f'more than one line: {text!r}'
    assert len(text) < 2000 + 2 * size, f'a line of {len(text)} characters: {text[:200]!r}'
    assert text.isprintable(), f'unprintable: {text!r}'
    for word in words:
        assert word in text, f'{word!r} is not in {text!r}'


def edited(data: bytes, edits: list[tuple[int, int, bytes]]) -> bytes:
    """Return bytes with some replaced: at a place (of a million), so many, by others."""
    for place, size, instead in edits:
        at = place * (len(data) + 1) // 1_000_000
        data = data[:at] + instead + data[at + size :]
    return data


_EDITS = st.lists(
    st.tuples(st.integers(0, 999_999), st.integers(0, 40), st.binary(max_size=20)),
    min_size=1,
    max_size=6,
)


def mutated(whole: Bytes, parts: Bytes | None = None) -> Bytes:
    """Return a strategy of inputs with a few places changed.

    Args:
        parts: what may be put in besides random bytes.
    """
    edits = _EDITS
    if parts is not None:
        edit = st.tuples(st.integers(0, 999_999), st.integers(0, 12), parts)
        edits = _EDITS | st.lists(edit, min_size=1, max_size=4)
    return st.builds(edited, whole, edits)
