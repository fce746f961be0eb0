"""What the KV cache holds, what a prompt needs, and where the two part.

Both are lists of elements: text tokens and whole images. A cut never falls inside an image.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from hobot_llamacpp_py.vision.picture import Picture

__all__ = [
    'Element',
    'ImageSpan',
    'common_prefix',
    'count_positions',
    'element_ids',
    'grouped',
]


@dataclass(frozen=True)
class ImageSpan:
    """A picture's tokens in a prompt; equal if the picture's key is."""

    key: str
    n_tokens: int
    picture: Picture = field(compare=False, repr=False)


Element = int | ImageSpan


def count_positions(elements: Iterable[Element]) -> int:
    """Return how many positions of the KV cache the elements take."""
    return sum(1 if isinstance(element, int) else element.n_tokens for element in elements)


def common_prefix(cached: Sequence[Element], wanted: Sequence[Element]) -> int:
    """Return how many leading elements of `wanted` need no decoding.

    The last element is always decoded again: sampling needs its logits.
    """
    limit = min(len(cached), len(wanted) - 1)
    return next((i for i in range(limit) if cached[i] != wanted[i]), max(limit, 0))


def grouped(elements: Iterable[Element]) -> Iterator[list[int] | ImageSpan]:
    """Split elements into runs of text tokens and single images."""
    tokens: list[int] = []
    for element in elements:
        if isinstance(element, int):
            tokens.append(element)
            continue
        if tokens:
            yield tokens
            tokens = []
        yield element
    if tokens:
        yield tokens


def element_ids(elements: Iterable[Element]) -> list[int]:
    """Name elements by numbers: a token by its id, an image by a number below -1 of its own."""
    return [e if isinstance(e, int) else -2 - int(e.key[:12], 16) for e in elements]
