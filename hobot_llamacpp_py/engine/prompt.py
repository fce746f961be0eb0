"""From a request to the elements of the KV cache that it needs, no more than fit the context."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from hobot_llamacpp_py.engine.kv_cache import Element, ImageSpan, count_positions
from hobot_llamacpp_py.engine.prompt_format import Image, InThought, PromptFormat, Special, Text
from hobot_llamacpp_py.engine.request import Request, Turn, without_oldest
from hobot_llamacpp_py.engine.vocabulary import Vocabulary
from hobot_llamacpp_py.errors import PromptError

__all__ = ['Prompt', 'PromptBuilder']

_LONGEST = 512  # characters that a token may stand for: runs of spaces or dashes, in some models


@dataclass(frozen=True)
class Prompt:
    """A rendered request.

    Attributes:
        turns: those of the request that fit the context.
        in_thought: it ends within a thought that the model is to go on with.
    """

    elements: list[Element]
    turns: tuple[Turn, ...]
    in_thought: bool


class PromptBuilder:
    """Renders requests for one decoder.

    Args:
        n_ctx: positions of the context.
        n_image_tokens: those that a picture takes.
    """

    def __init__(
        self, form: PromptFormat, vocabulary: Vocabulary, n_ctx: int, n_image_tokens: int = 0
    ) -> None:
        self.form = form
        self._vocabulary, self._n_ctx = vocabulary, n_ctx
        self._n_image_tokens = n_image_tokens

    def build(self, request: Request) -> Prompt:
        """Render a request, without its oldest turns where the answer would have no room.

        Then so many go that half of the context is free: with one at a time the prompt would
        begin otherwise at every turn, and nothing in the KV cache could be reused.

        Raises:
            PromptError: it does not fit the context, even without earlier turns.
        """
        n_ctx, turns = self._n_ctx, request.turns
        # What cannot fit in any case is not even tokenised: 20 MB would take half a minute.
        while (n := sum(len(turn.question) for turn in turns)) > n_ctx * _LONGEST:
            if len(turns) == 1:
                raise PromptError(
                    f'the prompt has {n} characters, the context has {n_ctx} positions: shorten it'
                )
            turns = without_oldest(turns)
        limit = n_ctx - min(request.config.max_tokens, n_ctx // 4)
        while True:
            prompt = self.render(replace(request, turns=turns))
            n = count_positions(prompt.elements)
            if n <= limit or len(turns) == 1:
                break
            turns, limit = without_oldest(turns), n_ctx // 2
        if n >= n_ctx:
            raise PromptError(
                f'the prompt takes {n} positions, the context has {n_ctx}: shorten it or raise'
                ' n_ctx'
            )
        return prompt

    def build_before_question(self, request: Request) -> list[Element]:
        """Return the elements that a request begins with, whatever its last question will be.

        Raises:
            PromptError: it does not fit the context, even without earlier turns.
        """
        prompt = self.build(_asked(request, '0'))
        other = self.render(_asked(replace(request, turns=prompt.turns), '问')).elements
        pairs = zip(prompt.elements, other, strict=False)
        n = next((i for i, (one, two) in enumerate(pairs) if one != two), len(other))
        return other[:n]

    def render(self, request: Request) -> Prompt:
        """Render a whole request, whether it fits or not."""
        config, elements = request.config, list[Element]()
        parts = self.form.render(config.system_prompt, request.turns, config.thinking)
        for part in parts:
            if isinstance(part, Special):
                token = self._vocabulary.special_id(part.text)
                elements += self._vocabulary.tokenize(part.text) if token is None else [token]
            elif isinstance(part, Text):
                elements += self._vocabulary.tokenize(part.text)
            elif isinstance(part, Image):
                picture = part.picture
                elements.append(ImageSpan(picture.key, self._n_image_tokens, picture))
            elif not isinstance(part, InThought):
                elements += part.ids
        bos = self._vocabulary.bos_id
        if bos is not None and elements[:1] != [bos]:
            elements.insert(0, bos)
        return Prompt(elements, request.turns, in_thought=parts[-1:] == [InThought()])


def _asked(request: Request, question: str) -> Request:
    """Return a request with another last question."""
    turns: Sequence[Turn] = request.turns
    return replace(request, turns=(*turns[:-1], replace(turns[-1], question=question)))
