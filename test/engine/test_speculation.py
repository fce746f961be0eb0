"""Drafts from memory make repeated answers sooner there, and change nothing else."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from nano import MODELS, draw_scene

from hobot_llamacpp_py.config import ChatConfig, DecoderConfig, SamplingConfig
from hobot_llamacpp_py.engine import Answer, Chat, Engine
from hobot_llamacpp_py.engine.speculation import MAX_DRAFT, MEMORY, Drafter

DESCRIBE = 'Describe the image.'
STEP = 0.02  # seconds of a plain decode, as these tests tell the drafter
BREAK = -1


@pytest.fixture
def drafter() -> Drafter:
    """A drafter that knows what a plain step costs and has said one sentence."""
    drafter = Drafter()
    drafter.begin([], [1, 2, 3, 4])
    drafter.account(STEP, 0)
    for token in range(10, 40):
        drafter.append(token)
    return drafter


def test_drafts_what_followed_last_time(drafter: Drafter) -> None:
    """The same question is answered with the same words, ever more of them at once."""
    drafter.begin([], [1, 2, 3, 4])
    assert drafter.draft(MAX_DRAFT) == [10, 11, 12, 13, 14]
    for token in (10, 11, 12, 13, 14, 15):
        drafter.append(token)
    assert drafter.draft(MAX_DRAFT) == [*range(16, 27)]
    assert drafter.draft(2) == [16, 17]
    assert drafter.draft(0) == []
    assert drafter.draft(-1) == []


def test_the_same_question_counts_more_than_the_last_answer(drafter: Drafter) -> None:
    """Of several places that the last words stood at, the one with most in common is followed."""
    drafter.begin([], [9, 2, 3, 4])
    for token in (50, 51, 52):
        drafter.append(token)
    drafter.begin([], [1, 2, 3, 4])
    assert drafter.draft(3) == [10, 11, 12]
    drafter.begin([], [9, 2, 3, 4])
    assert drafter.draft(3) == [50, 51, 52]


def test_an_image_is_context_but_never_drafted(drafter: Drafter) -> None:
    """What was said about the same picture is preferred; no draft runs into a picture."""
    for image, answer in ((-5, 60), (-6, 70)):
        drafter.begin([], [1, image, 2, 3, 4])
        drafter.append(answer)
    drafter.begin([], [1, -5, 2, 3, 4])
    assert drafter.draft(1) == [60]
    drafter.begin([7, 7, 7], [8, -5])
    drafter.begin([], [7, 7, 7])
    assert drafter.draft(5) == [8]


def test_nothing_is_drafted_without_grounds(drafter: Drafter) -> None:
    """Two known tokens are no grounds, nor is what did not follow each other."""
    drafter.begin([], [5, 3, 4])
    assert drafter.draft(MAX_DRAFT) == []
    drafter.begin([], [39, 5, 3])
    assert drafter.draft(MAX_DRAFT) == []


def test_a_hash_in_common_is_no_grounds(drafter: Drafter) -> None:
    """Only what did come before counts, not what is kept at the same place."""
    assert hash((BREAK, 3, 4)) == hash((-2, 3, 4))
    drafter.begin([], [3, 4])
    drafter.append(60)
    drafter.begin([], [-2, 3, 4])
    assert drafter.draft(MAX_DRAFT) == []


def test_drafts_that_cost_more_than_they_give_stop(drafter: Drafter) -> None:
    """Where drafts are always wrong, they take no more than 3 % of the time of plain decoding."""
    plain = wasted = 0.0
    for _ in range(3000):
        drafter.begin([], [1, 2, 3, 4])
        draft = drafter.draft(MAX_DRAFT)
        seconds = STEP * (1 + 0.4 * len(draft))
        drafter.account(seconds, len(draft))
        plain, wasted = plain + STEP, wasted + seconds - STEP
        drafter.append(99)
    assert 0 < wasted <= 0.03 * plain


def test_drafts_come_back_when_they_pay(drafter: Drafter) -> None:
    """After a bad time, answers that do repeat are drafted again."""
    drafter.account(STEP * 4, MAX_DRAFT)
    drafter.begin([], [1, 2, 3, 4])
    assert drafter.draft(MAX_DRAFT) == []
    for token in (10, 11, 12):
        drafter.append(token)
    assert drafter.draft(MAX_DRAFT) == []
    drafter.append(13)  # four guesses would have been right
    assert drafter.draft(3) == [14, 15, 16]
    drafter.begin([], [1, 2, 3, 4])
    assert drafter.draft(MAX_DRAFT) == []
    for _ in range(600):
        drafter.account(STEP, 0)
    assert drafter.draft(MAX_DRAFT) != []


def test_memory_is_bounded(drafter: Drafter) -> None:
    """After very many answers the newest are remembered, the oldest are not."""
    for answer in range(100, 140):
        drafter.begin([], [1, answer, 3, 4])
        for _ in range(1500):
            drafter.append(answer)
        assert len(drafter) <= MEMORY + 2000
    drafter.begin([], [1, 139, 3, 4])
    assert drafter.draft(2) == [139, 139]
    drafter.begin([], [1, 2, 3, 4])
    assert drafter.draft(1) != [10]


@pytest.fixture(scope='module')
def engine(family: str) -> Iterator[Engine]:
    encoder, decoder, kind = MODELS[family]
    config = DecoderConfig(n_threads=1)
    with Engine.open(decoder, encoder, family=kind, config=config) as engine:
        yield engine


def ask(engine: Engine, config: ChatConfig, seed: int = 3) -> Answer:
    answer = Chat(engine, config).ask(DESCRIBE, engine.picture(draw_scene(seed)[1]))
    for _ in answer:
        pass
    return answer


@pytest.mark.parametrize('temperature', [0, 0.8])
def test_a_repeated_answer_comes_from_drafts(engine: Engine, temperature: float) -> None:
    """The same question about the same picture gives the same tokens, most of them drafted."""
    sampling = SamplingConfig(temperature=temperature, seed=5)
    plain = ask(engine, ChatConfig(sampling=sampling, speculative=False))
    assert plain.stats.drafted == 0
    for _ in range(2):
        repeated = ask(engine, ChatConfig(sampling=sampling))
        assert (repeated.tokens, repeated.text) == (plain.tokens, plain.text)
    assert repeated.stats.accepted > 0.6 * len(plain.tokens)
    assert repeated.stats.drafted >= repeated.stats.accepted


def test_a_wrong_draft_changes_nothing(engine: Engine) -> None:
    """Answers about other pictures are those of plain decoding, however alike they begin."""
    greedy = SamplingConfig(temperature=0)
    rejected = 0
    for seed in range(20, 32):
        drafting = ask(engine, ChatConfig(sampling=greedy), seed)
        engine.reset()
        plain = ask(engine, ChatConfig(sampling=greedy, speculative=False), seed)
        assert drafting.tokens == plain.tokens
        rejected += drafting.stats.drafted - drafting.stats.accepted
    assert rejected > 0
