"""Prompts: one answer or one error, and nothing that a user types is special to the model."""

from __future__ import annotations

from typing import Any

from fuzz.target import Target, is_clear
from hypothesis import strategies as st
from nano import MODELS, answer, draw_scene, request_of

from hobot_llamacpp_py.config import DecoderConfig, SamplingConfig
from hobot_llamacpp_py.engine import Engine, Turn
from hobot_llamacpp_py.errors import PromptError

__all__ = ['Prompts']

N_CTX = 512
QUESTION = 'Describe the image.'
_SPECIAL = (
    *('<|im_start|>', '<|im_end|>', '<|endoftext|>', '<img>', '</img>', '<IMG_CONTEXT>'),
    *(
        '<end_of_utterance>',
        '<image>',
        '<fake_token_around_image>',
        '<global-img>',
        '<row_1_col_1>',
    ),
    *(
        '<think>',
        '</think>',
        '<s>',
        '</s>',
        '<unk>',
        '<|vision_start|>',
        '<|vision_end|>',
        '<bos>',
    ),
    *(
        '{{',
        '}}',
        '{% raw %}',
        '{{ messages }}',
        '<__media__>',
        '<|im_',
        'start|>',
        '\\u003c',
        '%s',
    ),
)
_ODD = (
    '\0',
    '\ud800',
    '\udfff',
    '\ufeff',
    '\u200b',
    '\u202e',
    'é',
    '🙂',
    '👩‍👩‍👧',
    '\r',
    '\t',
    '\x1b[2J',
    ' ',
)
_PIECE = st.one_of(
    st.sampled_from(_SPECIAL),
    st.sampled_from(_ODD),
    st.text(max_size=12),
    st.text(st.characters(), max_size=8),  # surrogates too
    st.sampled_from(
        ['User:', 'Assistant:', 'system\n', 'What color is the circle?', '图里有什么？']
    ),
)
_TEXT = st.lists(_PIECE, max_size=8).map(''.join) | st.builds(
    lambda piece, n: piece * n, _PIECE, st.sampled_from([50, 400, 3000])
)


class Prompts(Target):
    """Conversations with the built-in models, with pictures and without."""

    inputs = st.fixed_dictionaries(
        {
            'model': st.sampled_from(['internvl', 'smolvlm', 'text']),
            'system': st.just('') | _TEXT,
            'questions': st.lists(_TEXT, min_size=1, max_size=3),
            'picture': st.booleans(),
        }
    )

    def __enter__(self) -> Prompts:
        config = DecoderConfig(n_ctx=N_CTX, n_threads=1)
        self._engines = {
            name: Engine.open(decoder, encoder, family=kind, config=config)
            for name, (encoder, decoder, kind) in MODELS.items()
        }
        self._engines['text'] = Engine.open(MODELS['internvl'][1], config=config)
        scene, self._bgr = draw_scene(7)
        self._right = answer(scene, QUESTION)
        return self

    def __exit__(self, *_: object) -> None:
        for engine in self._engines.values():
            engine.close()

    def check(self, value: dict[str, Any]) -> None:
        engine = self._engines[value['model']]
        can_see = value['model'] != 'text'
        for text in (value['system'], *value['questions']):
            self._check_tokens(engine, text)
        size = sum(map(len, (value['system'], *value['questions'])))
        picture = engine.picture(self._bgr) if can_see and value['picture'] else None
        turns: list[Turn] = []
        for question in value['questions']:
            turns.append(Turn(question, picture if not turns else None))
            try:
                self._check_format(engine, turns, value['system'])
                answer = engine.generate(
                    request_of(*turns, system_prompt=value['system'], max_tokens=8)
                )
                said = ''.join(answer)
            except PromptError as error:
                is_clear(error, str(N_CTX))
                assert size > N_CTX // 8
                break
            assert said == answer.text
            assert answer.finish in ('stop', 'length', 'context', 'repetition')
            assert len(answer.tokens) <= 8 + 1
            turns = [*answer.turns[:-1], Turn(question, answer.turns[-1].image, (*answer.tokens,))]
        if can_see:
            self._check_well(engine)

    def _check_tokens(self, engine: Engine, text: str) -> None:
        """What is typed stays what it is, and becomes no special token."""
        words = engine.vocabulary
        tokens = words.tokenize(text)
        assert not [token for token in tokens if words.is_special(token)]
        back = b''.join(words.piece(token) for token in tokens)
        assert back == text.encode('utf-8', 'replace'), back[:80]

    def _check_format(self, engine: Engine, turns: list[Turn], system: str) -> None:
        """The special tokens of the whole prompt are those of one that says nothing."""
        plain = [Turn('x', turn.image, turn.answer) for turn in turns]
        found, expected = (
            [
                element
                for element in engine.prompts.render(
                    request_of(*asked, system_prompt=said)
                ).elements
                if not isinstance(element, int) or engine.vocabulary.is_special(element)
            ]
            for asked, said in ((turns, system), (plain, system and 'x'))
        )
        assert found == expected

    def _check_well(self, engine: Engine) -> None:
        sampling = SamplingConfig(temperature=0)
        turn = Turn(QUESTION, engine.picture(self._bgr))
        assert ''.join(engine.generate(request_of(turn, sampling=sampling))) == self._right
