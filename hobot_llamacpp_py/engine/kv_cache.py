"""The KV cache: what it holds, and where a prompt parts from that.

Contents and prompts are lists of elements: text tokens and whole images. A cut never falls inside
an image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from hobot_llamacpp_py.engine.decoder import Decoder
from hobot_llamacpp_py.vision.embedding_cache import Embeddings
from hobot_llamacpp_py.vision.picture import Picture

__all__ = ['Element', 'ImageSpan', 'KvCache', 'count_positions', 'element_ids', 'grouped']


@dataclass(frozen=True)
class ImageSpan:
    """A picture's tokens in a prompt; equal if the picture's key is."""

    key: str
    n_tokens: int
    picture: Picture = field(compare=False, repr=False)


Element = int | ImageSpan


class KvCache:
    """What a sequence of the decoder's KV cache holds; it alone has that added to or dropped from.

    Whatever fails or is cancelled, it holds what it says.

    Args:
        sequence: its number; 0 is the conversation.
    """

    def __init__(self, decoder: Decoder, sequence: int = 0) -> None:
        self._decoder, self.sequence = decoder, sequence
        self._elements: list[Element] = []
        self._n_past = 0

    @property
    def n_past(self) -> int:
        """Positions that are taken."""
        return self._n_past

    @property
    def room(self) -> int:
        """Positions that are free."""
        return self._decoder.n_ctx - self._n_past

    def __len__(self) -> int:
        return len(self._elements)

    def last(self, n: int) -> list[Element]:
        """Return the last elements, at most n."""
        return self._elements[-n:]

    def match(self, wanted: Sequence[Element], *, last_again: bool = True) -> int:
        """Return how many leading elements of `wanted` are held already.

        Args:
            last_again: not the last of them, since sampling needs its logits.
        """
        limit = min(len(self._elements), len(wanted) - last_again)
        held = self._elements
        return next((i for i in range(limit) if held[i] != wanted[i]), max(limit, 0))

    def borrow(
        self, other: KvCache, wanted: Sequence[Element], *, last_again: bool = True
    ) -> None:
        """Take over what another sequence holds of `wanted`, if that is more than is held here.

        Where attention slides, the other one is emptied: it would lose what it held.
        """
        if self._decoder.has_window:
            other.trim(0)
            return
        n = other.match(wanted, last_again=last_again)
        if n <= self.match(wanted, last_again=last_again):
            return
        if n < len(other) and not self._decoder.can_trim:
            return  # such a memory gives away all or nothing
        self._elements = other._elements[:n]
        self._n_past = count_positions(self._elements)
        self._decoder.copy(other.sequence, self.sequence, self._n_past)

    def forget(self) -> None:
        """Note that the context was made anew, and so is empty."""
        self._elements.clear()
        self._n_past = 0

    def prefill(
        self,
        elements: Sequence[Element],
        embeddings: Callable[[ImageSpan], Embeddings],
        *,
        logits: bool = True,
    ) -> None:
        """Decode elements behind what is held; if this raises, the first of them are held.

        Args:
            embeddings: gives an image's, when its turn comes.
            logits: the last position yields them.

        Raises:
            CancelledError, InferenceError: as `Decoder.prefill`, and what `embeddings` raises.
        """
        groups = list(grouped(elements))
        for group in groups:
            segment = embeddings(group) if isinstance(group, ImageSpan) else group
            try:
                last = logits and group is groups[-1]
                self._decoder.prefill(segment, self._n_past, logits=last, sequence=self.sequence)
            except BaseException:
                self._drop_tail()
                raise
            self._elements += [group] if isinstance(group, ImageSpan) else group
            self._n_past += len(segment)

    def append(
        self, token: int, draft: Sequence[int] = (), wanted: Sequence[bool] | None = None
    ) -> None:
        """Decode a sampled token and a draft behind what is held; `trim` what is not picked.

        Args:
            wanted: of which of these tokens the logits are; None: of all.

        Raises:
            CancelledError, InferenceError: as `Decoder.decode`; nothing has changed then.
        """
        try:
            self._decoder.decode(token, draft, self._n_past, wanted)
        except BaseException:
            self._drop_tail()
            raise
        self._elements.append(token)
        self._elements += draft
        self._n_past += 1 + len(draft)

    def trim(self, n_keep: int) -> None:
        """Keep the first n elements, or none where the memory cannot drop a tail."""
        if n_keep >= len(self._elements):
            return
        self._n_past -= count_positions(self._elements[n_keep:])
        del self._elements[n_keep:]
        self._drop_tail()

    def _drop_tail(self) -> None:
        """Have the decoder drop whatever stands behind what is held."""
        kept = self._decoder.trim(self._n_past, self.sequence)
        if kept != self._n_past:
            self.forget()


def count_positions(elements: Iterable[Element]) -> int:
    """Return how many positions of the KV cache the elements take."""
    return sum(1 if isinstance(element, int) else element.n_tokens for element in elements)


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
