"""The decoder's vocabulary: text to token ids, token ids to bytes, and what is special."""

from __future__ import annotations

import ctypes
import re
from typing import Any

from hobot_llamacpp_py.engine.prompt_format import Special, Text
from hobot_llamacpp_py.errors import InferenceError, ModelFileError
from hobot_llamacpp_py.llama_api import llama_cpp

__all__ = ['Vocabulary', 'end_tokens']

_NOT_PLAIN = llama_cpp.LLAMA_TOKEN_ATTR_CONTROL | llama_cpp.LLAMA_TOKEN_ATTR_USER_DEFINED


class Vocabulary:
    """The vocabulary of a loaded GGUF model.

    Not thread-safe.

    Args:
        model: llama.cpp's handle; the caller frees it.

    Raises:
        ModelFileError: the chat template is no text.
    """

    def __init__(self, model: Any) -> None:
        self.handle: Any = llama_cpp.llama_model_get_vocab(model)
        """llama.cpp's own handle."""
        self.n_tokens: int = llama_cpp.llama_vocab_n_tokens(self.handle)
        template: bytes | None = llama_cpp.llama_model_chat_template(model, None)
        try:
            self.chat_template = template.decode() if template else None
        except UnicodeDecodeError:
            raise ModelFileError(
                'the chat template of the GGUF is damaged, it is no UTF-8; download it again'
            ) from None
        """The Jinja chat template in the GGUF's metadata, if any."""
        self._pieces: dict[int, bytes] = {}
        self._kinds = bytearray(self.n_tokens)  # 1: plain, 2: special, 0: not yet asked for
        self._special_ids: dict[str, int | None] = {}  # of a format's few
        self._buffer = ctypes.create_string_buffer(1024)

    @property
    def bos(self) -> str:
        """Text of the beginning-of-sequence token, empty if there is none."""
        return self._text_or_empty(llama_cpp.llama_vocab_bos(self.handle))

    @property
    def eos(self) -> str:
        """Text of the end-of-sequence token, empty if there is none."""
        return self._text_or_empty(llama_cpp.llama_vocab_eos(self.handle))

    @property
    def bos_id(self) -> int | None:
        """The token that every prompt of this model must begin with, or None."""
        if not llama_cpp.llama_vocab_get_add_bos(self.handle):
            return None
        return int(llama_cpp.llama_vocab_bos(self.handle))

    def special_id(self, text: str) -> int | None:
        """Return the id of the special token whose text is exactly this, or None."""
        if text not in self._special_ids:
            ids = self._tokenize(text, parse_special=True)
            is_one = len(ids) == 1 and self.is_special(ids[0])
            self._special_ids[text] = ids[0] if is_one else None
        return self._special_ids[text]

    def tokenize(self, text: str) -> list[int]:
        """Tokenise plain text: no part of it becomes a special token, whatever it contains."""
        ids = self._tokenize(text, parse_special=False)
        specials: set[str] = set()
        # llama.cpp matches USER_DEFINED tokens even without parse_special: cut through them all.
        while new := {self._text(t) for t in set(ids) if self.is_special(t)} - specials:
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
            special = self._text(token) if self.is_special(token) else ''
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

    def is_special(self, token: int) -> bool:
        """Tell whether a token is one that plain text never becomes."""
        kind = self._kinds[token]
        if not kind:
            attributes = llama_cpp.llama_vocab_get_attr(self.handle, token)
            kind = self._kinds[token] = 2 if attributes & _NOT_PLAIN else 1
        return kind == 2

    def is_end(self, token: int) -> bool:
        """Tell whether a token ends generation."""
        return bool(llama_cpp.llama_vocab_is_eog(self.handle, token))

    def _tokenize(self, text: str, *, parse_special: bool) -> list[int]:
        data = text.encode('utf-8', 'replace')
        size = len(data) + 8
        ids = (ctypes.c_int32 * size)()
        n = llama_cpp.llama_tokenize(self.handle, data, len(data), ids, size, False, parse_special)
        if n < 0:
            raise InferenceError(f'llama.cpp cannot tokenise {text[:40]!r}')
        return ids[:n]

    def _text(self, token: int) -> str:
        return self._to_piece(token, special=True).decode('utf-8', 'replace')

    def _text_or_empty(self, token: int) -> str:
        # llama.cpp names a token of its own choice where the GGUF names none.
        return self._text(token) if token >= 0 and self.is_special(token) else ''

    def _to_piece(self, token: int, *, special: bool) -> bytes:
        buffer = self._buffer
        n = llama_cpp.llama_token_to_piece(self.handle, token, buffer, len(buffer), 0, special)
        if n < 0:
            buffer = ctypes.create_string_buffer(-n)
            n = llama_cpp.llama_token_to_piece(self.handle, token, buffer, -n, 0, special)
        return buffer.raw[:n]


def end_tokens(vocab: Any) -> list[int]:
    """Return all tokens of llama.cpp's vocabulary that end generation; from any thread."""
    n_tokens = llama_cpp.llama_vocab_n_tokens(vocab)
    return [token for token in range(n_tokens) if llama_cpp.llama_vocab_is_eog(vocab, token)]
