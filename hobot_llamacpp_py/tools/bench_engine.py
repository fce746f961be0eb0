"""What is measured of the engine: each measurement gives seconds or a ratio."""

from __future__ import annotations

import ctypes
import statistics
import time
from collections.abc import Callable, Iterator

import llama_cpp
import numpy as np
import numpy.typing as npt

from hobot_llamacpp_py.config import ChatConfig, SamplingConfig
from hobot_llamacpp_py.engine import Answer, Chat, Engine, Picture, Request, Turn
from hobot_llamacpp_py.engine.decoder import Decoder
from hobot_llamacpp_py.engine.kv_cache import KvCache
from hobot_llamacpp_py.engine.sampler import Sampler
from hobot_llamacpp_py.engine.speculation import Drafter
from hobot_llamacpp_py.errors import VlmError

__all__ = ['Bench', 'StandInEncoder']

N_IMAGE_TOKENS = 256
ENCODER_SHARE = 1.25  # of the image's prefill time: 2456 ms to 256 x 7.7 ms on an RDK X5
# System prompt and question; those of the stand-in make, with what stands around it, 16 tokens.
PROMPTS = {
    True: ('Be kind', 'Why?!'),
    False: ('You are a helpful assistant.', 'Describe the image.'),
}
GREEDY = SamplingConfig(temperature=0)


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


class Bench:
    """The measurements; each returns seconds or a ratio."""

    def __init__(self, engine: Engine, rounds: int, n_answer: int) -> None:
        assert engine.encoder is not None
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

    def prefill(self) -> dict[str, float]:
        """Measure image embeddings against text tokens; give the stand-in its time."""
        n = self.encoder.n_tokens
        image = self.encoder.encode(np.zeros((1, 1, 3), np.uint8))
        text = [
            *np.random.default_rng(2).integers(0, min(1000, self.decoder.vocabulary.n_tokens), n)
        ]
        times: dict[str, list[float]] = {'image': [], 'text': []}
        self.engine.reset()
        for _ in range(self._rounds + 1):
            for name, segment in (('text', text), ('image', image)):
                started = time.perf_counter()
                self.decoder.prefill(segment, 0, logits=False)
                times[name].append(time.perf_counter() - started)
                self.decoder.trim(0)
        ratios = [t / i for t, i in zip(times['text'][1:], times['image'][1:], strict=True)]
        seconds = statistics.median(times['image'][1:])
        if isinstance(self.encoder, StandInEncoder):
            self.encoder.seconds = ENCODER_SHARE * seconds
        return {'embeddings': statistics.median(ratios), 'prefill ms/token': 1e3 * seconds / n}

    def encode(self) -> float:
        """Measure the encoder alone; return milliseconds."""
        pixels = next(self._pictures).pixels

        def measure() -> float:
            started = time.perf_counter()
            self.encoder.encode(pixels)
            return 1e3 * (time.perf_counter() - started)

        return statistics.median(self._repeat(measure))

    def first_token(self) -> dict[str, float]:
        """Measure the time to the first token: cold, for a follow-up, prepared, as in C++."""
        rows = []
        with Decoder(self.decoder.path, self.decoder.config) as other:
            for _ in range(self._rounds + 1):
                self.engine.reset()
                chat, picture = Chat(self.engine), next(self._pictures)
                cold = self._ask(chat, picture, 4).stats
                follow_up = self._ask(chat, picture, 4).stats
                chat, picture = (
                    Chat(self.engine, ChatConfig(history_turns=0)),
                    next(self._pictures),
                )
                chat.config = ChatConfig(self._system, 0, 4, GREEDY)
                chat.prepare(picture)
                prepared = self._ask(chat, picture, 4).stats
                rows.append(
                    {
                        'cold ms': 1e3 * cold.first_token_s,
                        'cold ms, no encoder': 1e3 * (cold.first_token_s - cold.encode_s),
                        'follow-up ms': 1e3 * follow_up.first_token_s,
                        'follow-up tokens': follow_up.prefilled,
                        'tokens reused': follow_up.reused,
                        'prepared ms': 1e3 * prepared.first_token_s,
                        'C++ order ms': 1e3 * self._first_token_as_in_cpp(other, picture),
                    }
                )
        result = {name: statistics.median(row[name] for row in rows[1:]) for name in rows[0]}
        for name, part, whole in (
            ('follow-up, no encoder', 'follow-up ms', 'cold ms, no encoder'),
            ('follow-up', 'follow-up ms', 'cold ms'),
            ('prepared', 'prepared ms', 'C++ order ms'),
        ):
            result[name] = statistics.median(row[part] / row[whole] for row in rows[1:])
        return result

    def _first_token_as_in_cpp(self, decoder: Decoder, picture: Picture) -> float:
        """Do what the C++ node does after a question has come; return seconds."""
        turns = (Turn(self._question, picture),)
        prompt = self.engine.prompts.build(Request(turns, ChatConfig(self._system)))
        started = time.perf_counter()
        decoder.renew()
        KvCache(decoder).prefill(
            prompt.elements, lambda image: self.encoder.encode(image.picture.pixels)
        )
        sampler = decoder.sampler(GREEDY)
        sampler.sample()
        seconds = time.perf_counter() - started
        sampler.close()
        return seconds

    def token_loop(self) -> dict[str, float]:
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
            'token loop': statistics.median(ratios[1:]),
            'eval ms/token': 1e3 * statistics.median(seconds[1:]),
        }

    def speculation(self) -> dict[str, float]:
        """Measure answers given before, and drafts that are always wrong, against plain ones."""
        chat, picture = Chat(self.engine, ChatConfig(history_turns=0)), next(self._pictures)
        n, repeated, plain_calls, misled_calls = self._n_answer, [], [], []
        drafted = 0
        for _ in range(2 * self._rounds):
            drafter = self.engine.loop.drafter = _NotingDrafter()
            plain = self._ask(chat, picture, n)
            plain_calls += drafter.calls
            drafter = self.engine.loop.drafter = _misled(plain.tokens)
            misled = self._ask(chat, picture, n, speculative=True)
            misled_calls += drafter.calls
            drafted += misled.stats.drafted
            # Which in its turn has been remembered by now, and is given again.
            again = self._ask(chat, picture, n, speculative=True)
            for answer in (again, misled):
                if answer.tokens != plain.tokens and self._is_stand_in:
                    raise VlmError('speculation has changed the answer')
            repeated.append(_seconds_a_token(plain) / _seconds_a_token(again))
        if not drafted and self._is_stand_in:
            raise VlmError('nothing was drafted: what wrong drafts cost was not measured')
        return {
            'repeated answer': statistics.median(repeated[1:]),
            'wrong drafts': _typical_time(plain_calls) / _typical_time(misled_calls),
            'wrong drafts, tokens an answer': drafted / (2 * self._rounds),
            'accepted of drafted': again.stats.accepted / max(1, again.stats.drafted),
        }


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
