"""What is measured of the engine: each measurement gives figures by name."""

from __future__ import annotations

import ctypes
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hobot_llamacpp_py.config import ChatConfig, DecoderConfig, SamplingConfig
from hobot_llamacpp_py.engine import Answer, Chat, Engine, Picture, Request, Turn
from hobot_llamacpp_py.engine.decoder import Decoder, Segment
from hobot_llamacpp_py.engine.kv_cache import Element, ImageSpan, KvCache
from hobot_llamacpp_py.engine.sampler import Sampler
from hobot_llamacpp_py.engine.speculation import Drafter
from hobot_llamacpp_py.errors import VlmError
from hobot_llamacpp_py.llama_api import llama_cpp
from hobot_llamacpp_py.tools.bench_results import PART, Figure, figure
from hobot_llamacpp_py.vision.encoder import VisionEncoder

__all__ = [
    'FILL',
    'PARTS',
    'WAYS',
    'Bench',
    'NotingDecoder',
    'StandInEncoder',
    'first_token_as_in_cpp',
]

N_IMAGE_TOKENS = 256
ENCODER_SHARE = 1.25  # of the image's prefill time: 2456 ms to 256 x 7.7 ms on an RDK X5
# System prompt and question; those of the stand-in make, with what stands around it, 16 tokens.
PROMPTS = {
    True: ('Be kind', 'Why?!'),
    False: ('You are a helpful assistant.', 'Describe the image.'),
}
GREEDY = SamplingConfig(temperature=0)
# The ways to a first token, and the parts of the time that it takes; their figures are named
# WAY ms: PART. A way has a part of its own for what is left: tokenising, sampling, streaming.
WAYS = ('cold', 'follow-up', 'prepared', 'C++ order')
PARTS = ('new context', 'encoder', 'image prefill', 'text prefill', 'first token')
FILL = 'tokens/s at '  # and how many positions of the KV cache are filled
N_AT_FILL = 16  # tokens decoded there


class StandInEncoder:
    """Takes as long as it is told and gives random embeddings."""

    def __init__(self, n_embd: int) -> None:
        self.input_size = (448, 448)
        self.n_tokens, self.n_embd = N_IMAGE_TOKENS, n_embd
        self.seconds = 0.0
        self._embeddings = np.random.default_rng(0).standard_normal(
            (N_IMAGE_TOKENS, n_embd), np.float32
        )

    def encode(self, fitted: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Wait, as for a BPU; return embeddings [n_tokens, n_embd]."""
        time.sleep(self.seconds)
        return self._embeddings

    def close(self) -> None:
        """Do nothing."""


class NotingDecoder(Decoder):
    """Notes how long prefills take: of images, and of text."""

    def __init__(self, path: Path, config: DecoderConfig) -> None:
        self._noted = dict.fromkeys(('image prefill', 'text prefill'), 0.0)
        super().__init__(path, config)

    def prefill(
        self, segment: Segment, at: int, *, logits: bool = True, sequence: int = 0
    ) -> None:
        """Decode a segment."""
        started = time.perf_counter()
        super().prefill(segment, at, logits=logits, sequence=sequence)
        kind = 'image prefill' if isinstance(segment, np.ndarray) else 'text prefill'
        self._noted[kind] += 1e3 * (time.perf_counter() - started)

    def take_notes(self) -> dict[str, float]:
        """Return the milliseconds since the last call, by kind of prefill."""
        noted, self._noted = self._noted, dict.fromkeys(self._noted, 0.0)
        return noted


class Bench:
    """The measurements; each returns figures by name."""

    def __init__(self, engine: Engine, rounds: int, n_answer: int) -> None:
        assert engine.encoder is not None and isinstance(engine.decoder, NotingDecoder)
        self.engine, self.encoder = engine, engine.encoder
        self.decoder = engine.decoder
        self._rounds, self._n_answer = rounds, n_answer
        self._is_stand_in = isinstance(engine.encoder, StandInEncoder)
        self._system, self._question = PROMPTS[self._is_stand_in]
        self._pictures = self._draw()

    def _draw(self) -> Iterator[Picture]:
        rng = np.random.default_rng(1)
        width, height = self.encoder.input_size
        while True:
            yield self.engine.picture(rng.integers(0, 256, (height, width, 3), np.uint8))

    def _ask(
        self, chat: Chat, picture: Picture | None, n_tokens: int, *, speculative: bool = False
    ) -> Answer:
        chat.config = ChatConfig(
            self._system, chat.config.history_turns, n_tokens, GREEDY, speculative=speculative
        )
        answer = chat.ask(self._question, picture)
        for _ in answer:
            pass
        return answer

    def _repeat(self, measure: Callable[[], float]) -> list[float]:
        measure()  # the first round warms up
        return [measure() for _ in range(self._rounds)]

    def prefill(self) -> dict[str, Figure]:
        """Measure image embeddings against text tokens; give the stand-in its time."""
        n = self.encoder.n_tokens
        image = self.encoder.encode(np.zeros((1, 1, 3), np.uint8))
        text = [
            *np.random.default_rng(2).integers(0, min(1000, self.decoder.vocabulary.n_tokens), n)
        ]
        times: dict[str, list[float]] = {'image': [], 'text': []}
        self.engine.reset()
        pair: list[tuple[str, Segment]] = [('text', text), ('image', image)]
        for _ in range(2 * self._rounds + 1):
            pair.reverse()  # what comes second finds the processor as the first one left it
            for name, segment in pair:
                started = time.perf_counter()
                self.decoder.prefill(segment, 0, logits=False)
                times[name].append(time.perf_counter() - started)
                self.decoder.trim(0)
        ratios = [t / i for t, i in zip(times['text'][1:], times['image'][1:], strict=True)]
        if isinstance(self.encoder, StandInEncoder):
            self.encoder.seconds = ENCODER_SHARE * statistics.median(times['image'][1:])
        return {
            'embeddings': figure(ratios),
            'prefill ms/token': figure([1e3 * seconds / n for seconds in times['image'][1:]]),
        }

    def encode(self) -> dict[str, Figure]:
        """Measure the encoder alone."""
        pixels = next(self._pictures).pixels

        def measure() -> float:
            started = time.perf_counter()
            self.encoder.encode(pixels)
            return 1e3 * (time.perf_counter() - started)

        return {'image encoder ms': figure(self._repeat(measure))}

    def first_token(self) -> dict[str, Figure]:
        """Measure the time to the first token, and its parts: in each of `WAYS`."""
        rows = []
        with (other := NotingDecoder(self.decoder.path, self.decoder.config)):
            for _ in range(self._rounds + 1):
                row = self._asked_twice()
                picture = next(self._pictures)
                chat = Chat(self.engine, ChatConfig(self._system, 0, 4, GREEDY))
                chat.prepare(picture)
                row |= self._first_token_of('prepared', chat, picture)
                row |= self._first_token_as_in_cpp(other, picture)
                for name, part, whole in (
                    ('follow-up, no encoder', 'follow-up ms', 'cold ms, no encoder'),
                    ('follow-up', 'follow-up ms', 'cold ms'),
                    ('prepared', 'prepared ms', 'C++ order ms'),
                ):
                    row[name] = row[part] / row[whole]
                rows.append(row)
        result = {name: figure([row[name] for row in rows[1:]]) for name in rows[0]}
        for way in WAYS:
            # So that they add up: the parts of the round whose whole time is the median.
            middle = next(row for row in rows[1:] if row[f'{way} ms'] == result[f'{way} ms'].value)
            for name in middle:
                if name.startswith(way + PART):
                    result[name] = replace(result[name], value=middle[name])
        return result

    def _asked_twice(self) -> dict[str, float]:
        self.engine.reset()
        chat, picture = Chat(self.engine), next(self._pictures)
        row = self._first_token_of('cold', chat, picture)
        row['cold ms, no encoder'] = row['cold ms'] - row[f'cold{PART}encoder']
        row |= self._first_token_of('follow-up', chat, picture)
        return row

    def _first_token_of(self, way: str, chat: Chat, picture: Picture) -> dict[str, float]:
        self.decoder.take_notes()
        stats = self._ask(chat, picture, 4).stats
        parts = {'encoder': 1e3 * stats.encode_s} | self.decoder.take_notes()
        row = _with_parts(way, stats.first_token_s, parts)
        if way == 'follow-up':
            row |= {'follow-up tokens': stats.prefilled, 'tokens reused': stats.reused}
        return row

    def _first_token_as_in_cpp(self, decoder: NotingDecoder, picture: Picture) -> dict[str, float]:
        """Do what the C++ node does after a question has come."""
        turns = (Turn(self._question, picture),)
        prompt = self.engine.prompts.build(Request(turns, ChatConfig(self._system)))
        seconds, parts = first_token_as_in_cpp(decoder, self.encoder, prompt.elements)
        return _with_parts('C++ order', seconds, parts)

    def filling(self) -> dict[str, Figure]:
        """Measure the speed of decoding while the context fills."""
        n_ctx = self.decoder.n_ctx
        text = np.random.default_rng(3).integers(
            0, min(1000, self.decoder.vocabulary.n_tokens), n_ctx
        )
        speeds: dict[str, list[float]] = {}
        for _ in range(self._rounds + 1):
            self.engine.reset()
            n_past = 0
            for at in (*range(0, n_ctx, n_ctx // 8), n_ctx - n_ctx // 16):
                if at > n_past:
                    self.decoder.prefill([*text[n_past:at]], n_past, logits=False)
                started = time.perf_counter()
                for n_past in range(at, at + N_AT_FILL):
                    self.decoder.decode(int(text[n_past]), [], n_past)
                seconds = time.perf_counter() - started
                n_past = at + N_AT_FILL
                speeds.setdefault(f'{FILL}{at}', []).append(N_AT_FILL / seconds)
            self.decoder.trim(0)
        return {name: figure(found[1:]) for name, found in speeds.items()}

    def token_loop(self) -> dict[str, Figure]:
        """Measure the engine's loop against a bare one, at the same depth."""
        chat, picture = Chat(self.engine, ChatConfig(history_turns=0)), next(self._pictures)
        ratios, seconds = [], []
        for _ in range(8 * self._rounds):  # short pieces in turn: the machine's speed wanders
            answer = self._ask(chat, picture, 25)
            n = answer.stats.decoded
            if n < 4:
                raise VlmError(f'an answer of {n} tokens measures nothing')
            self._ask(chat, picture, 1)
            sampler = self.decoder.sampler(GREEDY)
            bare = _bare_loop(self.decoder, sampler, n)
            sampler.close()
            self.decoder.trim(self.engine.cache.n_past)  # which knows nothing of the bare loop
            ratios.append(bare / answer.stats.decode_s)
            seconds.append(answer.stats.decode_s / n)
        return {
            'token loop': figure(ratios[1:]),
            'eval ms/token': figure([1e3 * found for found in seconds[1:]]),
        }

    def speculation(self) -> dict[str, Figure]:
        """Measure answers given before, and drafts that are always wrong, against plain ones."""
        chat, picture = Chat(self.engine, ChatConfig(history_turns=0)), next(self._pictures)
        n, repeated, plain_calls, misled_calls = self._n_answer, [], [], []
        wrong, accepted, drafted = [], [], 0
        for _ in range(2 * self._rounds):
            drafter = self.engine.loop.drafter = _NotingDrafter()
            plain = self._ask(chat, picture, n)
            plain_calls += (plain_now := drafter.calls)
            drafter = self.engine.loop.drafter = _misled(plain.tokens)
            misled = self._ask(chat, picture, n, speculative=True)
            misled_calls += drafter.calls
            wrong.append(_typical_time(plain_now) / _typical_time(drafter.calls))
            drafted += misled.stats.drafted
            # Which in its turn has been remembered by now, and is given again.
            again = self._ask(chat, picture, n, speculative=True)
            for answer in (again, misled):
                if answer.tokens != plain.tokens and self._is_stand_in:
                    raise VlmError('speculation has changed the answer')
            repeated.append(_seconds_a_token(plain) / _seconds_a_token(again))
            accepted.append(again.stats.accepted / max(1, again.stats.drafted))
        if not drafted and self._is_stand_in:
            raise VlmError('nothing was drafted: what wrong drafts cost was not measured')
        return {
            'repeated answer': figure(repeated[1:]),
            'wrong drafts': replace(
                figure(wrong), value=_typical_time(plain_calls) / _typical_time(misled_calls)
            ),
            'wrong drafts, tokens an answer': figure([drafted / (2 * self._rounds)]),
            'accepted of drafted': figure(accepted[1:]),
        }


def first_token_as_in_cpp(
    decoder: NotingDecoder, encoder: VisionEncoder, prompt: list[Element]
) -> tuple[float, dict[str, float]]:
    """Do what the C++ node does after a question has come; return seconds and its parts in ms."""
    parts: dict[str, float] = {}

    def encode(image: ImageSpan) -> npt.NDArray[np.float32]:
        begun = time.perf_counter()
        embeddings = encoder.encode(image.picture.pixels)
        parts['encoder'] = 1e3 * (time.perf_counter() - begun)
        return embeddings

    decoder.take_notes()
    started = time.perf_counter()
    decoder.renew()
    parts['new context'] = 1e3 * (time.perf_counter() - started)
    KvCache(decoder).prefill(prompt, encode)
    sampler = decoder.sampler(GREEDY)
    sampler.sample()
    seconds = time.perf_counter() - started
    sampler.close()
    return seconds, parts | decoder.take_notes()


def _with_parts(way: str, seconds: float, parts: dict[str, float]) -> dict[str, float]:
    """Name a way's milliseconds and its parts; what is in none of these is the first token's."""
    whole = 1e3 * seconds
    parts['first token'] = whole - sum(parts.values())
    return {f'{way} ms': whole} | {f'{way}{PART}{name}': ms for name, ms in parts.items()}


def _seconds_a_token(answer: Answer) -> float:
    return answer.stats.decode_s / max(1, answer.stats.decoded)


class _NotingDrafter(Drafter):
    """Notes each decode: how many tokens were drafted, and its seconds."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[int, float]] = []

    def account(self, seconds: float, n_drafted: int) -> None:
        """Note a decode."""
        super().account(seconds, n_drafted)
        self.calls.append((n_drafted, seconds))


def _typical_time(calls: list[tuple[int, float]]) -> float:
    """Add up decodes at the median time of those of their size: a few outliers weigh nothing."""
    seconds: dict[int, list[float]] = {}
    for size, time_ in calls:
        seconds.setdefault(size, []).append(time_)
    return sum(len(times) * statistics.median(times) for times in seconds.values())


def _bare_loop(decoder: Decoder, sampler: Sampler, n: int) -> float:
    """Sample and decode n tokens with nothing around it; return seconds."""
    context, chain = decoder.context, sampler.chain
    no_callback = ctypes.cast(0, llama_cpp.ggml_abort_callback)
    llama_cpp.llama_set_abort_callback(context, no_callback, None)
    token = (ctypes.c_int32 * 1)()
    batch = llama_cpp.llama_batch_get_one(token, 1)
    sample, decode = llama_cpp.llama_sampler_sample, llama_cpp.llama_decode
    started = time.perf_counter()
    for _ in range(n):
        token[0] = sample(chain, context, -1)
        decode(context, batch)
    sample(chain, context, -1)
    return time.perf_counter() - started


def _misled(tokens: list[int]) -> _NotingDrafter:
    """Return a drafter that remembers something else after any three tokens of an answer."""
    drafter = _NotingDrafter()
    for i in range(len(tokens) - 3):
        drafter.begin([], [*tokens[i : i + 3], *([tokens[i]] * 8)])
    return drafter
