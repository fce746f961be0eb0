"""The engine on the built-in models: right answers, whole characters, clean ends."""

from __future__ import annotations

import codecs
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from nano import CONFIG, MODELS, answer, draw_scene, request_of

from hobot_llamacpp_py.config import ChatConfig, DecoderConfig, SamplingConfig
from hobot_llamacpp_py.engine import Answer, CancelToken, Chat, Engine, Turn
from hobot_llamacpp_py.engine.kv_cache import ImageSpan
from hobot_llamacpp_py.engine.sampler import Sampler
from hobot_llamacpp_py.engine.vocabulary import Vocabulary
from hobot_llamacpp_py.errors import ModelFileError, PromptError
from hobot_llamacpp_py.vision.open import open_encoder
from training.evaluate import OnePositionDecoder

GREEDY = SamplingConfig(temperature=0)
ONE_THREAD = DecoderConfig(n_threads=1)
DESCRIBE, DESCRIBE_ZH = 'Describe the image.', '描述一下这张图片。'
QUESTIONS = [
    *(DESCRIBE, 'How many shapes are there?', 'What color is the circle?', 'Where is the star?'),
    *(DESCRIBE_ZH, '有几个图形？', '正方形是什么颜色？', '三角形在哪里？'),
]


def open_engine(family: str, config: DecoderConfig = ONE_THREAD) -> Engine:
    encoder, decoder, kind = MODELS[family]
    return Engine.open(decoder, encoder, family=kind, config=config)


@pytest.fixture(scope='module')
def engine(family: str) -> Iterator[Engine]:
    with open_engine(family) as engine:
        yield engine


def ask(engine: Engine, question: str, bgr: np.ndarray | None = None, **options: object) -> str:
    """Ask a question about a picture in a conversation of its own."""
    picture = None if bgr is None else engine.picture(bgr)
    answer = engine.generate(request_of(Turn(question, picture), sampling=GREEDY, **options))
    return ''.join(answer)


@pytest.mark.slow
@pytest.mark.parametrize('system', ['You are a helpful assistant.', '', '你是一个助手。'])
def test_sees(engine: Engine, system: str) -> None:
    """Questions about unseen scenes are answered rightly, under any system prompt."""
    asked, wrong = 0, []
    for seed in range(20):
        scene, bgr = draw_scene(seed + 100)
        for question in QUESTIONS:
            reply, right = (
                ask(engine, question, bgr, system_prompt=system),
                answer(scene, question),
            )
            asked += 1
            wrong += [(seed, reply, right)] if reply != right else []
    assert len(wrong) <= 0.01 * asked, wrong


@pytest.mark.parametrize('size', [(160, 160), (1280, 720), (480, 640), (3000, 1500), (224, 224)])
def test_any_size(engine: Engine, size: tuple[int, int]) -> None:
    """Places are relative to the picture, whatever its size and aspect."""
    scene, bgr = draw_scene(sum(size), size)
    assert ask(engine, DESCRIBE, bgr) == answer(scene, DESCRIBE)


def test_conversation(engine: Engine) -> None:
    """Follow-up questions are about the same picture; a new picture is seen at once."""
    chat = Chat(engine, ChatConfig(sampling=GREEDY))
    for seed in (1, 2):
        scene, bgr = draw_scene(seed)
        for question in QUESTIONS[:3]:
            reply = chat.ask(question, engine.picture(bgr))
            assert ''.join(reply) == reply.text == answer(scene, question)
            assert reply.finish == 'stop'
    assert [turn.image is not None for turn in chat.turns] == [True, False, False] * 2


@pytest.mark.parametrize(('turns', 'kept'), [(-1, 4), (0, 1), (2, 3)])
def test_history_turns(engine: Engine, turns: int, kept: int) -> None:
    """The conversation keeps all, none, or the last turns, and its picture in any case."""
    scene, bgr = draw_scene(3)
    chat = Chat(engine, ChatConfig(sampling=GREEDY, history_turns=turns))
    for question in QUESTIONS[:4]:
        reply = chat.ask(question, engine.picture(bgr))
        assert ''.join(reply) == answer(scene, question)
    assert len(reply.turns) == kept
    assert reply.turns[0].image is not None


def test_two_chats_share_an_engine(engine: Engine) -> None:
    """Two conversations do not mix."""
    scenes = [draw_scene(seed) for seed in (4, 5)]
    chats = [Chat(engine, ChatConfig(sampling=GREEDY)) for _ in scenes]
    for question in QUESTIONS[:3]:
        for chat, (scene, bgr) in zip(chats, scenes, strict=True):
            assert ''.join(chat.ask(question, engine.picture(bgr))) == answer(scene, question)


# What small changes to the injected embeddings do: greatest share of right answers.
PERTURBED: dict[str, tuple[float, Callable[[np.ndarray, np.ndarray], np.ndarray]]] = {
    'zeroed': (0.15, lambda own, other: np.zeros_like(own)),
    'of another scene': (0.15, lambda own, other: other),
    'transposed': (0.15, lambda own, other: own.T.reshape(own.shape).copy()),
    'shuffled': (0.30, lambda own, other: np.random.default_rng(0).permutation(own)),
}


@pytest.mark.parametrize('perturbation', PERTURBED)
def test_answers_hang_on_the_embeddings(
    family: str, perturbation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wrong embeddings give wrong descriptions: the tests above cannot pass by guessing."""
    ceiling, change = PERTURBED[perturbation]
    with open_engine(family) as engine:
        encode, earlier = engine.encoder.encode, [np.zeros((64, 128), np.float32)]

        def changed(pixel_values: np.ndarray) -> np.ndarray:
            own = encode(pixel_values)
            earlier.append(own)
            return change(own, earlier[-2])

        monkeypatch.setattr(engine.encoder, 'encode', changed)
        assert share_described(engine) < ceiling


def test_answers_hang_on_the_positions(family: str) -> None:
    """With all image tokens at one position, as the C++ node has them, descriptions are wrong."""
    encoder, decoder, kind = MODELS[family]
    crowded = OnePositionDecoder(decoder, ONE_THREAD)
    with Engine(crowded, open_encoder(encoder, kind), kind) as engine:
        assert share_described(engine, speculative=False) < 0.30


def share_described(engine: Engine, **options: object) -> float:
    right = 0
    for seed in range(40):
        scene, bgr = draw_scene(seed + 200)
        engine.reset()
        right += ask(engine, DESCRIBE, bgr, **options) == answer(scene, DESCRIBE)
    return right / 40


def test_layout(engine: Engine) -> None:
    """The image takes its 64 positions right after the token before it, and the text goes on."""
    bgr = draw_scene(6)[1]
    request = request_of(
        Turn(DESCRIBE, engine.picture(bgr)), system_prompt='You are helpful.', sampling=GREEDY
    )
    elements = engine.prompts.build(request).elements
    (image,) = (i for i, element in enumerate(elements) if isinstance(element, ImageSpan))
    engine.reset()
    reply = engine.generate(request)
    assert ''.join(reply)
    assert elements[image].n_tokens == 64
    assert reply.stats.prefilled == len(elements) - 1 + 64
    assert engine.cache.n_past == reply.stats.prefilled + len(reply.tokens)


HOSTILE = [
    *('<|im_end|>', '<|im_start|>', '<|endoftext|>', '<img>', '</img>', '<end_of_utterance>'),
    *(
        '<fake_token_around_image>',
        '<global-img>',
        '<|custom|>',
        '<|custom|><|im_end|>x<|custom|>',
    ),
]


@pytest.mark.parametrize('text', HOSTILE)
def test_typed_special_tokens_stay_text(engine: Engine, text: str) -> None:
    """No text becomes a special token, of whatever type, and none of it is lost."""
    vocabulary = engine.vocabulary
    specials = {vocabulary.special_id(special) for special in HOSTILE[:9]} - {None}
    assert len(specials) >= 5
    for context in (text, f'a {text}b', f'{text}\n{text}', f'x{text[:-1]}'):
        ids = vocabulary.tokenize(context)
        assert not specials & set(ids)
        assert b''.join(map(vocabulary.piece, ids)).decode() == context


def test_characters_come_whole(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A character whose bytes are spread over tokens comes out in one piece."""
    text = '红色的圆形😀, naïve €5.'
    tokens = [t for byte in text.encode() for t in byte_tokens(engine.vocabulary, byte)]
    assert len(tokens) == len(text.encode())
    pieces, reply = scripted(engine, tokens, monkeypatch)
    assert ''.join(pieces) == reply.text == text
    assert len(pieces) > 10
    cut, _ = scripted(engine, tokens[:2], monkeypatch)
    assert cut == []


def test_repetition_ends_an_answer(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sentence already said ends the answer and is not in what the model reads next."""
    tokens = engine.vocabulary.tokenize('It is red. It is blue. It is red. And more')
    pieces, reply = scripted(engine, tokens, monkeypatch)
    assert ''.join(pieces) == 'It is red. It is blue.'
    assert reply.finish == 'repetition'
    assert b''.join(map(engine.vocabulary.piece, reply.tokens)).decode().rstrip() == reply.text


def byte_tokens(vocabulary: Vocabulary, byte: int) -> list[int]:
    """Return the token for one single byte."""
    return [t for t in range(vocabulary.n_tokens) if vocabulary.piece(t) == bytes([byte])][:1]


def scripted(
    engine: Engine, tokens: list[int], monkeypatch: pytest.MonkeyPatch
) -> tuple[list[str], Answer]:
    """Have the model say given tokens, then end."""
    end = next(t for t in range(engine.vocabulary.n_tokens) if engine.vocabulary.is_end(t))
    script = iter([*tokens, end])
    with monkeypatch.context() as patched:
        patched.setattr(Sampler, 'sample', lambda self, row: next(script))
        reply = engine.generate(request_of(Turn('Hi'), sampling=GREEDY))
        return list(reply), reply


def test_max_tokens(engine: Engine) -> None:
    """An answer ends after max_tokens, in the middle if need be."""
    reply = engine.generate(
        request_of(Turn(DESCRIBE, engine.picture(draw_scene(7)[1])), max_tokens=3, sampling=GREEDY)
    )
    assert ''.join(reply)
    assert (len(reply.tokens), reply.finish) == (3, 'length')


def test_sampling(engine: Engine) -> None:
    """The same seed gives the same answer, other seeds others; temperature 0 is greedy."""
    bgr = draw_scene(8)[1]

    def sampled(**options: float) -> str:
        sampling = SamplingConfig(**{**dict(top_k=0, top_p=1.0, min_p=0.0), **options})
        request = request_of(Turn(DESCRIBE, engine.picture(bgr)), max_tokens=30, sampling=sampling)
        return ''.join(engine.generate(request))

    hot = [sampled(temperature=3.0, seed=seed) for seed in (1, 1, 2, 3)]
    assert hot[0] == hot[1]
    assert len(set(hot)) == 3
    greedy = ask(engine, DESCRIBE, bgr)
    assert sampled(temperature=0) == sampled(temperature=3.0, top_k=1, seed=5) == greedy
    assert sampled(temperature=3.0, top_p=1e-6) == sampled(temperature=3.0, min_p=1.0) == greedy
    assert sampled(temperature=0, repeat_penalty=9.0, repeat_last_n=-1) != greedy


def test_cancel_while_answering(engine: Engine) -> None:
    """A cancelled answer ends within a token and keeps what was said; the next one is right."""
    scene, bgr = draw_scene(9)
    chat = Chat(engine, ChatConfig(sampling=GREEDY))
    cancel = CancelToken()
    reply = chat.ask(DESCRIBE, engine.picture(bgr), cancel)
    said = next(iter(reply))
    cancel.set()
    assert list(reply) == []
    assert (reply.text, reply.finish) == (said, 'cancelled')
    assert ''.join(chat.ask(QUESTIONS[1])) == answer(scene, QUESTIONS[1])


def test_cancel_while_prefilling(engine: Engine) -> None:
    """A prefill is cancelled in its middle, from another thread; the next answer is right."""
    scene, bgr = draw_scene(10)
    picture = engine.picture(bgr)
    engine.reset()
    cancel = CancelToken()
    long = request_of(Turn('word ' * 900, picture), sampling=GREEDY)
    threading.Timer(0.05, cancel.set).start()
    reply = engine.generate(long, cancel)
    assert list(reply) == []
    assert reply.finish == 'cancelled'
    assert reply.stats.prefilled == 0
    assert ask(engine, DESCRIBE, bgr) == answer(scene, DESCRIBE)


def test_abandoned_answer(engine: Engine) -> None:
    """Breaking out of the loop leaves an engine that goes on rightly."""
    scene, bgr = draw_scene(11)
    for _ in engine.generate(request_of(Turn(DESCRIBE, engine.picture(bgr)), sampling=GREEDY)):
        break
    assert ask(engine, DESCRIBE, bgr) == answer(scene, DESCRIBE)


def test_failure_leaves_a_good_engine(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """An encoder that fails fails its request alone."""
    scene, bgr = draw_scene(12)
    with monkeypatch.context() as patched:
        patched.setattr(engine.encoder, 'encode', lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            ask(engine, DESCRIBE, bgr)
    assert ask(engine, DESCRIBE, bgr) == answer(scene, DESCRIBE)


def test_overflow(family: str) -> None:
    """The oldest turns go first, whole; the picture stays, and so does the right answer."""
    scene, bgr = draw_scene(13)
    config = ChatConfig(sampling=GREEDY, max_tokens=64, system_prompt='')
    with open_engine(family, DecoderConfig(n_ctx=256, n_threads=1)) as engine:
        chat = Chat(engine, config)
        for i in range(20):
            question = QUESTIONS[i % 4]
            assert ''.join(chat.ask(question, engine.picture(bgr))) == answer(scene, question)
        assert 1 < len(chat.turns) < 20
        assert chat.turns[0].image is not None


def test_prompt_that_cannot_fit(engine: Engine) -> None:
    """A question longer than the context is refused and leaves the conversation as it was."""
    scene, bgr = draw_scene(14)
    chat = Chat(engine, ChatConfig(sampling=GREEDY))
    assert ''.join(chat.ask(DESCRIBE, engine.picture(bgr))) == answer(scene, DESCRIBE)
    with pytest.raises(PromptError, match='the context has 4096'):
        chat.ask('x' * 20000)
    assert len(chat.turns) == 1
    assert ''.join(chat.ask(QUESTIONS[1])) == answer(scene, QUESTIONS[1])


def test_prompt_of_megabytes_is_not_tokenised(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot fit in any case costs no time: as a question, and as an earlier one."""
    longest, tokenize = 0, engine.vocabulary.tokenize

    def noted(text: str) -> list[int]:
        nonlocal longest
        longest = max(longest, len(text))
        return tokenize(text)

    monkeypatch.setattr(engine.vocabulary, 'tokenize', noted)
    megabytes = 'x' * (4 << 20)
    with pytest.raises(PromptError, match='has 4194304 characters, the context has 4096 pos'):
        ''.join(Chat(engine).ask(megabytes))
    scene, bgr = draw_scene(14)
    turns = Turn(megabytes, engine.picture(bgr), ()), Turn(DESCRIBE)
    reply = engine.generate(request_of(*turns, sampling=GREEDY))
    assert ''.join(reply) == answer(scene, DESCRIBE)
    assert longest < 1000


def test_full_context_ends_an_answer(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that fills the context ends there; the next one is given."""
    with open_engine(family, DecoderConfig(n_ctx=256, n_threads=1)) as engine:
        words = ''.join(f'Number {i} is here. ' for i in range(100))
        tokens = engine.vocabulary.tokenize(words)
        reply = engine.generate(request_of(Turn('Hi'), max_tokens=5000, sampling=GREEDY))
        script = iter(tokens)
        monkeypatch.setattr(Sampler, 'sample', lambda self, row: next(script))
        assert words.startswith(''.join(reply))
        assert reply.finish == 'context'
        monkeypatch.undo()
        scene, bgr = draw_scene(15)
        assert ask(engine, DESCRIBE, bgr, max_tokens=64) == answer(scene, DESCRIBE)


@pytest.mark.parametrize('n_ctx', [300, 1000])
def test_odd_context_sizes(family: str, n_ctx: int) -> None:
    """A context of any size is filled to its end, and a longer prompt is refused, not fatal."""
    with open_engine(family, DecoderConfig(n_ctx=n_ctx, n_threads=1)) as engine:
        for letters in range(n_ctx - 20, n_ctx + 300, 9):
            request = request_of(Turn('é' * (letters // 2)), max_tokens=4, sampling=GREEDY)
            try:
                list(engine.generate(request))
            except PromptError as error:
                assert 'the context has' in str(error)
                return
        pytest.fail('no prompt was too long')


def test_full_context_keeps_reusing(family: str) -> None:
    """When old turns have to go, many go at once: most questions still reuse what was decoded."""
    with open_engine(family, DecoderConfig(n_ctx=512, n_threads=1)) as engine:
        chat = Chat(engine, ChatConfig(sampling=GREEDY, max_tokens=4096))
        reused = []
        for i in range(60):
            answer = chat.ask(f'What is {i % 10} plus {i % 7}?')
            list(answer)
            reused.append(answer.stats.reused > answer.stats.prefilled)
        assert len(chat.turns) > 2
        assert sum(reused[1:]) > 0.8 * len(reused[1:])


def test_many_special_tokens(engine: Engine) -> None:
    """Thousands of typed special tokens are as harmless as one, and take no time."""
    text = '<|custom|>' * 3000 + '<|im_end|>'
    ids = engine.vocabulary.tokenize(text)
    assert b''.join(map(engine.vocabulary.piece, ids)).decode() == text
    assert engine.vocabulary.special_id('<|custom|>') not in ids


def test_reset_while_a_question_is_rendered(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reset that comes while a question is being asked is not undone by its answer."""
    chat = Chat(engine, ChatConfig(sampling=GREEDY))
    list(chat.ask('Hello'))
    generate = engine.generate

    def reset_meanwhile(*arguments: object) -> object:
        chat.reset()
        return generate(*arguments)

    monkeypatch.setattr(engine, 'generate', reset_meanwhile)
    list(chat.ask('Hello'))
    assert chat.turns == ()


@pytest.mark.parametrize('cache', ['f32', 'q8_0', 'q4_0'])
@pytest.mark.parametrize('flash_attn', ['on', 'off'])
def test_cache_types(family: str, cache: str, flash_attn: str) -> None:
    """KV cache types load, or are refused in words where llama.cpp has no such combination."""
    config = DecoderConfig(n_threads=1, kv_cache_type=cache, flash_attn=flash_attn)  # type: ignore[arg-type]
    try:
        engine = open_engine(family, config)
    except ModelFileError as error:
        assert 'cannot make a context' in str(error)
        assert 'no reason given' not in str(error)
        assert (cache, flash_attn) in {('q8_0', 'off'), ('q4_0', 'off')}
        return
    with engine:
        assert codecs.encode(ask(engine, DESCRIBE, draw_scene(16)[1]), 'utf-8')


def test_text_chat(family: str) -> None:
    """Without an encoder the GGUF's own chat template is used, turn after turn."""
    with Engine.open(MODELS[family][1], config=ONE_THREAD) as engine:
        chat = Chat(engine, ChatConfig(sampling=GREEDY))
        assert ''.join(chat.ask('What is 3 plus 4?')) == '3 plus 4 is 7.'
        assert ''.join(chat.ask('3加4等于几？')) == '3加4等于7。'
        with pytest.raises(PromptError, match='takes no pictures'):
            engine.picture(draw_scene(0)[1])


@pytest.mark.parametrize(
    ('content', 'words'),
    [
        (b'', 'is not a GGUF file'),
        (b'version https://git-lfs.github.com/spec/v1', 'git-lfs pointer'),
        (b'GGUF\x03\0\0\0' + bytes(100), 'llama.cpp cannot load'),
        (None, 'No such file'),
    ],
)
def test_bad_decoder_file(tmp_path: Path, content: bytes | None, words: str) -> None:
    """A decoder that is missing, empty, damaged or something else is told with its path."""
    path = tmp_path / 'model.gguf'
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelFileError, match=words) as caught:
        Engine.open(path)
    assert str(path) in str(caught.value)


def test_truncated_decoder_file(family: str, tmp_path: Path) -> None:
    """A download that broke off is told as such by llama.cpp's own words."""
    whole = MODELS[family][1].read_bytes()
    path = tmp_path / 'model.gguf'
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelFileError, match='corrupted or incomplete'):
        Engine.open(path)


def test_encoder_as_decoder() -> None:
    """The two files in each other's place are found out."""
    with pytest.raises(ModelFileError, match='is not a GGUF file'):
        Engine.open(CONFIG / 'nano_internvl_vit.onnx', CONFIG / 'nano_internvl.gguf')


def test_closed_twice(family: str) -> None:
    """Closing again does no harm."""
    engine = open_engine(family)
    ask(engine, 'Hi')
    engine.close()
    engine.close()
