"""What was answered before, so that a client's next question goes on from the KV cache.

Clients send the whole conversation each time, as texts. Found again, its turns have the tokens
that were generated and the pictures that were seen, to the last bit what the KV cache holds.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence

from hobot_llamacpp_py.engine import Turn
from hobot_llamacpp_py.web.chat_request import Message

__all__ = ['Conversations']

SIZE = 32


class Conversations:
    """The last conversations; used in the inference thread only."""

    def __init__(self, size: int = SIZE) -> None:
        self._size = size
        self._turns: OrderedDict[bytes, tuple[Turn, ...]] = OrderedDict()

    def remember(self, messages: Sequence[Message], answer: str, turns: tuple[Turn, ...]) -> None:
        """Keep the turns of messages and their answer."""
        self._turns[_key([*messages, Message('assistant', answer)])] = turns
        while len(self._turns) > self._size:
            self._turns.popitem(last=False)

    def find(self, messages: Sequence[Message]) -> tuple[tuple[Turn, ...], Sequence[Message]]:
        """Return the turns of the longest part that is known, and the messages after it."""
        for end in range(len(messages) - 1, 0, -2):
            key = _key(messages[:end])
            if key in self._turns:
                self._turns.move_to_end(key)
                return self._turns[key], messages[end:]
        return (), messages


def _key(messages: Sequence[Message]) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for message in messages:
        for part in (message.role, message.text.strip(), message.picture):
            data = part.encode('utf-8', 'surrogatepass')
            digest.update(len(data).to_bytes(8, 'little') + data)
    return digest.digest()
