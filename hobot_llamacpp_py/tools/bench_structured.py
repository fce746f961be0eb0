"""What is measured of structured answers: what a constraint costs, and what forced tokens save."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hobot_llamacpp_py.config import ChatConfig, SamplingConfig
from hobot_llamacpp_py.engine import Answer, Engine, Request, Turn, json_schema
from hobot_llamacpp_py.errors import VlmError
from hobot_llamacpp_py.tools.bench_results import Figure, figure

__all__ = ['structured']

# Digits in place of words: the random decoder would take pieces of words, and have the rest
# forced. So about as much is forced as with a real model, 30 of 72 tokens.
WORD = {'type': 'string', 'pattern': '^[0-9]{6}$'}
OBJECT: dict[str, Any] = {
    **dict.fromkeys(('name', 'color', 'place'), WORD),
    'count': {'type': 'integer', 'minimum': 10, 'maximum': 99},
    'confidence': {'type': 'number', 'minimum': 0, 'maximum': 1, 'multipleOf': 0.01},
}
# Three objects, as a robot wants them.
ROBOT = {
    'type': 'object',
    'properties': {
        'objects': {
            'type': 'array',
            'minItems': 3,
            'maxItems': 3,
            'items': {'type': 'object', 'properties': OBJECT, 'required': list(OBJECT)},
        }
    },
    'required': ['objects'],
}
GREEDY, SAMPLED = SamplingConfig(temperature=0), SamplingConfig(seed=1)
TEXT = {'type': 'string', 'minLength': 5000}  # nothing of it is forced but its quotes


def structured(engine: Engine, rounds: int) -> dict[str, Figure]:
    """Measure constrained answers against free ones, in short pieces in turn."""
    robot, text = json_schema(ROBOT), json_schema(TEXT)
    for constraint in (robot, text):
        engine.constraints.start(constraint).result()
    sampled, typical, first = [], [], []
    for _ in range(4 * rounds + 1):
        # Sampled: greedy, most of the time no mask is needed.
        free, masked = (
            _ask(engine, SAMPLED, 40),
            _ask(engine, replace(SAMPLED, constraint=text), 40),
        )
        sampled.append(_seconds_a_token(masked) / _seconds_a_token(free))
        free = _ask(engine, GREEDY, 40)
        answer = _ask(engine, replace(GREEDY, constraint=robot), 400)
        if answer.finish != 'stop':
            raise VlmError(f'the constrained answer is not complete: {answer.text}')
        typical.append(_seconds_a_token(free) / _seconds_a_token(answer))
        first.append(answer.stats.first_token_s / free.stats.first_token_s)
    return {
        'constrained token': figure(sampled[1:]),
        'structured answer': figure(typical[1:]),
        'structured, first token': figure(first[1:]),
        'structured, tokens': figure([len(answer.tokens)]),
        'structured, forced': figure([answer.stats.accepted]),
    }


def _ask(engine: Engine, sampling: SamplingConfig, n_tokens: int) -> Answer:
    """Ask from an empty KV cache, and without drafts from memory."""
    config = ChatConfig('Be kind', 0, n_tokens, sampling, speculative=False)
    engine.reset()
    answer = engine.generate(Request((Turn('Why?!'),), config))
    for _ in answer:
        pass
    return answer


def _seconds_a_token(answer: Answer) -> float:
    return answer.stats.decode_s / max(1, len(answer.tokens))
