"""Measure the adaptive number of threads beside busy neighbours, against all fixed numbers."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hobot_llamacpp_py.config import DecoderConfig
from hobot_llamacpp_py.engine import VlmError
from hobot_llamacpp_py.engine.decoder import Decoder
from hobot_llamacpp_py.engine.threads import usable_cores
from hobot_llamacpp_py.llama_api import llama_cpp
from hobot_llamacpp_py.tools.arguments import EXIT_STATUS, ArgumentParser, count, find_decoder
from hobot_llamacpp_py.tools.bars import Bar, print_verdicts
from hobot_llamacpp_py.tools.bench_model import write_model

__all__ = ['SECONDS', 'Runner', 'main', 'neighbours']

PROMPT, STEPS, CHUNK = 32, 64, 64  # tokens: before what is measured; decoded, prefilled in turn
SECONDS = 1.5  # of one measurement
PERIOD = 3.0  # seconds for which a neighbour that comes and goes stays, and stays away
# A neighbour that computes without end, but no longer than we do, however we end.
BUSY = 'import os\nparent = os.getppid()\nwhile os.getppid() == parent: pass'
Measure = Callable[[int, float], float]  # threads and seconds to tokens a second
# A neighbour with a timer of 10 ms and a frame of 10 ms of work thirty times a second.
ROBOT = """
import sys, time
late, frames, n, started = [], 0, 0, time.monotonic()
next_frame = started
while time.monotonic() - started < float(sys.argv[1]):
    n += 1
    due = started + n * 0.01
    time.sleep(max(0, due - time.monotonic()))
    late.append(time.monotonic() - due)
    if late[-1] > 0.01:
        n = int((time.monotonic() - started) / 0.01)  # what is missed is missed
    if time.monotonic() >= next_frame:
        frames, next_frame, end = frames + 1, next_frame + 1 / 30, time.thread_time() + 0.01
        while time.thread_time() < end:
            pass
        next_frame = max(next_frame, time.monotonic() - 1 / 30)
late.sort()
print(frames / (time.monotonic() - started), late[int(0.99 * len(late))])
"""


def _bars() -> dict[str, Bar]:
    bars = {}
    for kind in ('decode', 'prefill'):
        for neighbours, value in (('nobody', 0.98), ('one', 0.95), ('all cores', 0.95)):
            sentence = f'tokens per second of {kind} with busy neighbours: {neighbours}'
            bars[f'{kind}, {neighbours}'] = Bar(True, value, f'{sentence}, by the best number')
    bars['coming and going'] = Bar(
        True, 0.85, 'decode beside a neighbour for 3 s of every 6, by the best number'
    )
    bars["neighbour's frames"] = Bar(
        True,
        0.98,
        'frames a second of a neighbour that wants 30, by those beside all cores in use',
    )
    bars["neighbour's timer"] = Bar(
        False, 1.0, 'its delay of a timer of 10 ms (p99), by that beside all cores in use'
    )
    return bars


BARS = _bars()


@contextmanager
def neighbours(n: int, script: str = BUSY) -> Iterator[None]:
    """Run n processes beside us that compute without end, or what a script does."""
    processes = [subprocess.Popen([sys.executable, '-c', script]) for _ in range(n)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


class Runner:
    """Two decoders: one adapts, the other computes with a number that it is told."""

    def __init__(self, llm: Path, most: int) -> None:
        self.adaptive = Decoder(llm, DecoderConfig(n_ctx=512))
        self.fixed = Decoder(llm, DecoderConfig(n_ctx=512, n_threads=most))
        self.numbers = range(1, most + 1)

    def in_turn(self, measure: Measure, rounds: int, seconds: float) -> dict[int, list[float]]:
        """Return the speeds of the adaptive number (0) and of all fixed ones, measured in turn."""
        speeds: dict[int, list[float]] = {n: [] for n in (0, *self.numbers)}
        for _ in range(rounds):
            for n in speeds:
                measure(n, min(0.3, seconds))  # threads begin
                speeds[n].append(measure(n, seconds))
        return speeds

    def decode(self, n: int, seconds: float) -> float:
        """Decode token by token with n threads (0: as many as pay); return tokens a second."""
        decoder = self._begin(n)
        decoder.prefill(self._tokens(PROMPT), 0)
        following = self._tokens(PROMPT + STEPS)[PROMPT:]

        def step(number: int) -> int:
            at = number % STEPS
            if not at:
                decoder.trim(PROMPT)
            decoder.decode(following[at], [], PROMPT + at)
            return 1

        return _rate(step, seconds)

    def prefill(self, n: int, seconds: float) -> float:
        """Prefill again and again; return tokens a second."""
        decoder, tokens = self._begin(n), self._tokens(CHUNK)

        def step(number: int) -> int:
            decoder.trim(0)
            decoder.prefill(tokens, 0, logits=False)
            return CHUNK

        return _rate(step, seconds)

    def close(self) -> None:
        """Free both."""
        self.adaptive.close()
        self.fixed.close()

    def _tokens(self, n: int) -> list[int]:
        return [number % self.adaptive.vocabulary.n_tokens for number in range(1000, 1000 + n)]

    def _begin(self, n: int) -> Decoder:
        time.sleep(0.05)  # the other decoder's threads still wait for more, which looks like work
        decoder = self.fixed if n else self.adaptive
        if n:
            llama_cpp.llama_set_n_threads(decoder.context, n, n)
        decoder.trim(0)
        return decoder


def _rate(step: Callable[[int], int], seconds: float) -> float:
    started, n, done = time.perf_counter(), 0, 0
    while (passed := time.perf_counter() - started) < seconds:
        done += step(n)
        n += 1
    return done / passed


def _against_all(runner: Runner, measure: Measure, rounds: int, seconds: float = SECONDS) -> float:
    """Return the adaptive speed by that of the best fixed number."""
    speeds = runner.in_turn(measure, rounds, seconds)
    typical = {n: statistics.median(found) for n, found in speeds.items()}
    print('   ', {n or 'adaptive': round(speed, 1) for n, speed in typical.items()}, flush=True)
    return typical[0] / max(typical[n] for n in runner.numbers)


def _coming_and_going(runner: Runner, rounds: int) -> float:
    """Return the same beside a neighbour that comes and goes."""
    script = f'import time\nwhile True:\n  end = time.time() + {PERIOD}\n'
    script += f'  while time.time() < end: pass\n  time.sleep({PERIOD})'
    with neighbours(1, script):
        return _against_all(runner, runner.decode, max(1, rounds // 3), 4 * PERIOD)


def _neighbour(runner: Runner, n: int, seconds: float) -> tuple[float, float]:
    """Return frames a second and the timer's p99 delay of a robot's neighbour while we decode."""
    runner.decode(n, 1.0)
    command = [sys.executable, '-c', ROBOT, str(seconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            runner.decode(n, 0.5)
        assert process.stdout is not None
        frames, late = map(float, process.stdout.read().split())
    return frames, late


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark; exit with 1 if that fails or a ratio misses its bar."""
    parser = ArgumentParser(
        prog='bench_threads', description=(__doc__ or '').strip(), epilog=EXIT_STATUS
    )
    parser.add_argument('--llm', metavar='MODEL', help='a GGUF decoder in place of the stand-in')
    parser.add_argument(
        '--rounds', type=count, default=7, help='measurements of each: %(default)s'
    )
    options = parser.parse_args(arguments)
    ratios: dict[str, float] = {}
    try:
        llm = find_decoder(options.llm) if options.llm else write_model()
        runner = Runner(llm, min(8, usable_cores()))
    except VlmError as error:
        print(f'error: {error}', file=sys.stderr)
        sys.exit(1)
    for name, n in (('nobody', 0), ('one', 1), ('all cores', usable_cores())):
        for kind, measure in (('decode', runner.decode), ('prefill', runner.prefill)):
            print(f'measuring: {kind}, busy neighbours: {name} ...', file=sys.stderr, flush=True)
            measure(0, 1.0)
            with neighbours(n):
                measure(0, 1.0)  # it counts from a second after they came
                ratios[f'{kind}, {name}'] = _against_all(runner, measure, options.rounds)
    print('measuring: a neighbour that comes and goes ...', file=sys.stderr, flush=True)
    ratios['coming and going'] = _coming_and_going(runner, options.rounds)
    print('measuring: what a neighbour suffers ...', file=sys.stderr, flush=True)
    found = [
        (_neighbour(runner, 0, 6), _neighbour(runner, runner.numbers[-1], 6)) for _ in range(3)
    ]
    ratios["neighbour's frames"] = statistics.median(ours[0] / all_[0] for ours, all_ in found)
    ratios["neighbour's timer"] = statistics.median(ours[1] / all_[1] for ours, all_ in found)
    sys.exit(not print_verdicts(BARS, ratios))


if __name__ == '__main__':
    main()
