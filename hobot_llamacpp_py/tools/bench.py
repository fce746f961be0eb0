"""Measure what the engine promises, as ratios within one run, and hold it against its bars.

Without arguments it measures a decoder of the shape of Qwen2.5-0.5B Q4_0 that it writes itself,
with an encoder stand-in; `--llm` and `--encoder` measure real models, on a board for example.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import platform
import re
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import llama_cpp
import numpy as np
import numpy.typing as npt

from hobot_llamacpp_py.config import ChatConfig, DecoderConfig, EncoderConfig, SamplingConfig
from hobot_llamacpp_py.engine.chat import Chat
from hobot_llamacpp_py.engine.decoder import Decoder
from hobot_llamacpp_py.engine.engine import Answer, Engine
from hobot_llamacpp_py.engine.kv_prefix import ImageSpan, grouped
from hobot_llamacpp_py.engine.prompt_format import Turn
from hobot_llamacpp_py.engine.sampler import Sampler
from hobot_llamacpp_py.engine.speculation import Drafter
from hobot_llamacpp_py.errors import VlmError
from hobot_llamacpp_py.tools.bars import Bar, print_verdicts
from hobot_llamacpp_py.tools.bench_model import write_model
from hobot_llamacpp_py.vision.encoder import VisionEncoder, open_encoder
from hobot_llamacpp_py.vision.picture import Picture

__all__ = ['main']


BARS = {
    'follow-up, no encoder': Bar(
        False,
        0.15,
        'time to first token of a second question about the same picture, by that of a first'
        ' question less its encoder time',
    ),
    'follow-up': Bar(False, 0.06, 'the same by the whole time of the first question'),
    'prepared': Bar(
        False,
        0.06,
        "time to first token with pre_infer and the picture prepared, by that of the C++ node's"
        ' order of work: new context, system prompt, encoder, image, question',
    ),
    'token loop': Bar(
        True,
        0.97,
        'tokens per second of the engine, by those of a bare loop of llama_decode and sampler',
    ),
    'embeddings': Bar(
        True, 0.97, 'prefill speed of image embeddings, by that of as many text tokens'
    ),
    'repeated answer': Bar(
        True, 1.8, 'tokens per second of an answer given before, by those without speculation'
    ),
    'wrong drafts': Bar(
        True,
        0.97,
        'tokens per second where every draft is wrong, by those without speculation (each decode'
        ' at the median time of its size)',
    ),
}

N_IMAGE_TOKENS = 256
ENCODER_SHARE = 1.25  # of the image's prefill time: 2456 ms to 256 x 7.7 ms on an RDK X5
# Published for InternVL2.5-1B on the X5: encoder ms, prefill ms a token.
X5_ENCODER_MS, X5_PREFILL_MS = 2456.0, 7.7
# System prompt and question; those of the stand-in make, with what stands around it, 16 tokens.
PROMPTS = {
    True: ('Be kind', 'Why?!'),
    False: ('You are a helpful assistant.', 'Describe the image.'),
}
GREEDY = SamplingConfig(temperature=0)
STAND_IN = 'stand-in, which only takes its time'


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

    def __init__(self, engine: Engine, config: DecoderConfig, rounds: int, n_answer: int) -> None:
        assert engine.encoder is not None
        self.engine, self.encoder = engine, engine.encoder
        self.decoder = engine.decoder
        self._config, self._rounds, self._n_answer = config, rounds, n_answer
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
        text = [*np.random.default_rng(2).integers(0, min(1000, self.decoder.n_vocab), n)]
        times: dict[str, list[float]] = {'image': [], 'text': []}
        self.engine.reset()
        for _ in range(self._rounds + 1):
            for name, segment in (('text', text), ('image', image)):
                started = time.perf_counter()
                self.decoder.prefill(segment, logits=False)
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
        with Decoder(self.decoder.path, self._config) as other:
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
        prompt = grouped(self.engine._elements(self._system, (Turn(self._question, picture),)))
        started = time.perf_counter()
        llama_cpp.llama_free(decoder._context)
        decoder._open_context(self._config)
        decoder.n_past = 0
        for part in prompt:
            is_image = isinstance(part, ImageSpan)
            decoder.prefill(self.encoder.encode(picture.pixels) if is_image else part)
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
            self.decoder.trim(self.decoder.n_past)  # which the bare loop has not moved
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
            with _timed_decodes(self.decoder) as calls:
                plain = self._ask(chat, picture, n)
            plain_calls += calls
            self.engine._drafter = _misled(plain.tokens)
            with _timed_decodes(self.decoder) as calls:
                misled = self._ask(chat, picture, n, speculative=True)
            misled_calls += calls
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


@contextmanager
def _timed_decodes(decoder: Decoder) -> Iterator[list[tuple[int, float]]]:
    """Note each decode of the block: how many tokens it drafted, and its seconds."""
    calls: list[tuple[int, float]] = []
    decode = decoder.decode

    def timed(token: int, draft: Sequence[int] = ()) -> None:
        started = time.perf_counter()
        decode(token, draft)
        calls.append((len(draft), time.perf_counter() - started))

    decoder.decode = timed  # type: ignore[method-assign]
    try:
        yield calls
    finally:
        del decoder.decode


def _typical_time(calls: list[tuple[int, float]]) -> float:
    """Add up decodes at the median time of those of their size: a few outliers weigh nothing."""
    seconds: dict[int, list[float]] = {}
    for size, time_ in calls:
        seconds.setdefault(size, []).append(time_)
    return sum(len(times) * statistics.median(times) for times in seconds.values())


def _bare_loop(decoder: Decoder, sampler: Sampler, n: int) -> float:
    """Sample and decode n tokens with nothing around it; return seconds."""
    context, chain = decoder._context, sampler._chain
    no_callback = ctypes.cast(None, llama_cpp.ggml_abort_callback)
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


def _misled(tokens: list[int]) -> Drafter:
    """Return a drafter that remembers something else after any three tokens of an answer."""
    drafter = Drafter()
    for i in range(len(tokens) - 3):
        drafter.begin([], [*tokens[i : i + 3], *([tokens[i]] * 8)])
    return drafter


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark; exit with 1 if a ratio misses its bar."""
    parser = argparse.ArgumentParser(prog='bench', description=__doc__.split('\n')[0])
    parser.add_argument('--llm', type=Path, help='a GGUF decoder in place of the stand-in')
    parser.add_argument('--encoder', type=Path, help='its vision encoder')
    parser.add_argument('--model-type', type=int, default=0, choices=(0, 1))
    cores = len(os.sched_getaffinity(0))
    parser.add_argument('--threads', type=int, default=min(8, cores), help='%(default)s here')
    parser.add_argument('--rounds', type=int, default=5, help='measurements of each: %(default)s')
    parser.add_argument('--tokens', type=int, default=96, help='of an answer: %(default)s')
    parser.add_argument('--json', type=Path, help='write the results to this file, too')
    options = parser.parse_args(arguments)
    try:
        results = _measure(options)
    except VlmError as error:
        print(f'error: {error}', file=sys.stderr)
        sys.exit(2)
    _print_table(results)
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + '\n')
    sys.exit(not all(BARS[name].holds(ratio) for name, ratio in results['ratios'].items()))


def _measure(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    if (options.llm is None) != (options.encoder is None):
        raise VlmError('--llm and --encoder go together')
    config = DecoderConfig(n_ctx=2048, n_threads=options.threads)
    encoder: VisionEncoder
    decoder = Decoder(options.llm or write_model(), config)
    if options.encoder:
        encoder = open_encoder(
            options.encoder, options.model_type, EncoderConfig(n_threads=options.threads)
        )
    else:
        encoder = StandInEncoder(decoder.n_embd)
    figures: dict[str, float] = {}
    with Engine(decoder, encoder, options.model_type) as engine:
        bench = Bench(engine, config, options.rounds, options.tokens)
        for name, measure in (
            ('prefill', bench.prefill),
            ('token loop', bench.token_loop),
            ('speculation', bench.speculation),
        ):
            print(f'measuring: {name} ...', file=sys.stderr, flush=True)
            figures |= measure()
        figures['peak memory MB'] = _peak_memory_kib() / 1024
        print('measuring: first token ...', file=sys.stderr, flush=True)
        figures['image encoder ms'] = bench.encode()
        figures |= bench.first_token()
    return {
        'machine': {
            'processor': _processor(),
            'cores': os.cpu_count(),
            'threads': decoder.n_threads,
            'decoder': decoder.path.name,
            'encoder': options.encoder.name if options.encoder else STAND_IN,
        },
        'ratios': {name: figures.pop(name) for name in BARS},
        'figures': figures,
    }


def _peak_memory_kib() -> float:
    """Return the peak of our resident memory and the encoder process's, if there is one."""
    total = 0.0
    for children in Path('/proc/self/task').glob('*/children'):
        for pid in children.read_text().split():
            status = Path(f'/proc/{pid}/status').read_text()
            peak = re.search(r'VmHWM:\s+(\d+)', status)
            total += float(peak[1]) if peak else 0.0
    return total + resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _processor() -> str:
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(':')[1].strip() for line in lines if line.startswith('model name')]
    return names[0] if names else platform.machine()


def _print_table(results: dict[str, dict[str, float]]) -> None:
    figures = results['figures']
    print(', '.join(f'{name}: {value}' for name, value in results['machine'].items()), '\n')
    columns = ['image encoder ms', 'prefill ms/token', 'eval ms/token', 'cold ms', 'follow-up ms']
    columns += ['prepared ms', 'C++ order ms', 'peak memory MB', 'tokens reused']
    print(f'| {" | ".join(columns)} |\n|{"---|" * len(columns)}')
    print(f'| {" | ".join(f"{figures[name]:.1f}" for name in columns)} |')
    print(
        '\nMilliseconds from a question to its first token: cold, the first one about a picture;'
        ' follow-up, the next;\nprepared, with pre_infer; C++ order, with a context made and the'
        ' picture encoded after the question.\n'
    )
    print_verdicts(BARS, results['ratios'])
    if results['machine']['encoder'] != STAND_IN:
        print('\nThe bars are for the model and the stand-in that the benchmark brings itself.')
        return
    n_prompt = figures['tokens reused'] + figures['follow-up tokens']
    before = X5_ENCODER_MS + X5_PREFILL_MS * n_prompt
    print(
        f'\nOn an RDK X5 with InternVL2.5-1B (published: encoder {X5_ENCODER_MS:.0f} ms, prefill'
        f' {X5_PREFILL_MS} ms a token) the ratio\n"prepared" means {before / 1e3:.1f} s ->'
        f' {before / 1e3 * results["ratios"]["prepared"]:.2f} s to the first token.'
    )


if __name__ == '__main__':
    main()
