"""Measure standing questions: what eight cost about each frame, and whom they keep waiting.

The decoder is of the shape of Qwen2.5-0.5B Q4_0, the encoder takes the share of the time that it
has on an RDK X5. A rule has 11 tokens, as `Is there a red circle? Answer yes or no.` has in the
vocabulary of Qwen2.5, and 5 more of the prompt's form.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hobot_llamacpp_py.config import ChatConfig, DecoderConfig
from hobot_llamacpp_py.engine import Chat, Engine, Inquiry, Picture, Request, Turn
from hobot_llamacpp_py.engine.inbox import Inbox
from hobot_llamacpp_py.errors import VlmError
from hobot_llamacpp_py.ros.camera_frames import CameraFrames
from hobot_llamacpp_py.ros.parameters import Parameters
from hobot_llamacpp_py.ros.worker import Worker
from hobot_llamacpp_py.tools.arguments import EXIT_STATUS, ArgumentParser, count, find_decoder
from hobot_llamacpp_py.tools.bars import Bar, print_verdicts
from hobot_llamacpp_py.tools.bench_engine import (
    ENCODER_SHARE,
    GREEDY,
    NotingDecoder,
    StandInEncoder,
    first_token_as_in_cpp,
)
from hobot_llamacpp_py.tools.bench_model import write_model
from hobot_llamacpp_py.tools.bench_node import DrawnImages, Listener, Settings

__all__ = ['main']

BARS = {
    'eight rules': Bar(
        False,
        0.20,
        "time of eight yes/no rules about a new frame, by that of the C++ node's order of work for"
        ' eight questions',
    ),
    'a further rule': Bar(
        False, 0.05, 'what each of seven rules adds to one, by the time of one cold question'
    ),
    'frames judged': Bar(
        True, 0.9, 'frames judged a second, by 1 / max(encoder time, judging time)'
    ),
    'question, delay': Bar(
        False,
        1.0,
        "what watching adds to a question's time to first token, by the longest of what it may"
        ' be waiting for: one run of the encoder, or one batch',
    ),
    'switched off': Bar(
        False, 1.05, 'time to first token with a watch that is switched off, by that without one'
    ),
}
SYSTEM = 'Be kind'
QUESTION = 'Why?!'
RULES = tuple(Inquiry(f'Is {letter} there?', ('Yes', 'No')) for letter in 'abcdefgh')
CONFIG = ChatConfig(SYSTEM, 0, 4, GREEDY, speculative=False)


class Bench:
    """An engine with a stand-in for the encoder, which has the time that it has on a board."""

    def __init__(self, llm: Path, n_threads: int, rounds: int) -> None:
        self._decoder = NotingDecoder(llm, DecoderConfig(2048, n_threads=n_threads))
        self.encoder = StandInEncoder(self._decoder.n_embd)
        self.engine = Engine(self._decoder, self.encoder)
        self._rng, self._rounds = np.random.default_rng(0), rounds
        self._calibrate()

    def _calibrate(self) -> None:
        """Give the encoder its time: a share of the image's prefill."""
        image, times = self.encoder.encode(np.zeros((1, 1, 3), np.uint8)), []
        for _ in range(self._rounds + 1):
            started = time.perf_counter()
            self._decoder.prefill(image, 0, logits=False)
            times.append(time.perf_counter() - started)
            self._decoder.trim(0)
        self.image_s = statistics.median(times[1:])
        self.encoder.seconds = ENCODER_SHARE * self.image_s

    def picture(self) -> Picture:
        """Draw a new picture."""
        return self.engine.picture(self._rng.integers(0, 256, (448, 448, 3), np.uint8))

    def judge(self, rules: Sequence[Inquiry], picture: Picture) -> float:
        """Return the seconds that rules take about a picture."""
        started = time.perf_counter()
        found = list(self.engine.judge(picture, rules, CONFIG))
        seconds = time.perf_counter() - started
        if len(found) != len(rules):
            raise VlmError('a rule was not answered')
        return seconds

    def rounds(self) -> dict[str, float]:
        """Measure rounds of rules, and questions as the C++ node and as this one answers them."""
        times: dict[str, list[float]] = {}

        def note(name: str, seconds: float) -> None:
            times.setdefault(name, []).append(seconds)

        with (other := NotingDecoder(self._decoder.path, self._decoder.config)):
            for _ in range(self._rounds + 1):
                note('eight', self.judge(RULES, self.picture()))
                note('one', self.judge(RULES[:1], self.picture()))
                note('cold', self._cold())
                cpp = [self._in_cpp_order(other) for _ in range(2)]
                note('cpp', statistics.mean(cpp))
                known = self.picture()
                self.judge(RULES, known)
                note('together', self.judge(RULES, known))
                note('one by one', sum(self.judge([rule], known) for rule in RULES))
        middle = {name: statistics.median(found[1:]) for name, found in times.items()}
        return {
            'eight rules': middle['eight'] / (len(RULES) * middle['cpp']),
            'a further rule': (middle['eight'] - middle['one'])
            / (len(RULES) - 1)
            / middle['cold'],
            'judging s': middle['eight'] - self.encoder.seconds,
            'one by one': middle['one by one'] / middle['together'],
            'eight s': middle['eight'],
            'cold s': middle['cold'],
        }

    def _cold(self) -> float:
        self.engine.reset()
        answer = Chat(self.engine, CONFIG).ask(QUESTION, self.picture())
        list(answer)
        return answer.stats.first_token_s

    def _in_cpp_order(self, decoder: NotingDecoder) -> float:
        prompt = self.engine.prompts.build(Request((Turn(QUESTION, self.picture()),), CONFIG))
        seconds, _ = first_token_as_in_cpp(decoder, self.encoder, prompt.elements)
        return seconds


class Watching:
    """The node's threads with a camera that always has a new frame, and rules about it."""

    def __init__(self, bench: Bench, folder: Path) -> None:
        import rclpy

        from hobot_llamacpp_py.ros.results import Results
        from hobot_llamacpp_py.ros.watch import Watch

        rules = folder / 'rules.yaml'
        entries = [
            f'- {{name: {rule.question[3]}, question: "{rule.question}", instruction: ""}}\n'
            for rule in RULES
        ]
        rules.write_text('rules:\n' + ''.join(entries))
        parameters = Parameters(
            feed_type=1,
            watch_file=str(rules),
            watch_max_load=1.0,
            temperature=0.0,
            max_tokens=1,
            system_prompt=SYSTEM,
        )
        rclpy.init(args=[])
        self._node = rclpy.create_node('bench_watch')
        self._inbox, self._listener = Inbox(8), Listener()
        results = Results(self._node, '~/speech', '~/targets', 'bench')
        current = lambda: parameters  # noqa: E731 - of this one
        self.watch = Watch(self._node, rules, current, results, self._inbox.notify)
        source = CameraFrames(DrawnImages(), self._inbox, current)
        self._worker = Worker(
            lambda: bench.engine, Settings(parameters, SYSTEM), self._inbox, source, self._listener
        )
        self._worker.watch = self.watch
        self.watch.follow(source)
        self._worker.start()

    def frames_a_second(self, n: int) -> float:
        """Return how many frames are judged a second, over n of them."""
        self._wait_for(2)
        first, started = self.watch.frames.judged, time.monotonic()
        self._wait_for(first + n)
        return (self.watch.frames.judged - first) / (time.monotonic() - started)

    def _wait_for(self, n: int) -> None:
        while self.watch.frames.judged < n:
            if self._listener.error or not self._worker.is_alive():
                raise VlmError(self._listener.error or 'the inference thread has ended')
            time.sleep(0.002)

    def ask(self) -> float:
        """Return the seconds from a question to its first token."""
        answered, started = len(self._listener.ends), time.monotonic()
        self._inbox.put(QUESTION)
        while len(self._listener.ends) == answered:
            if self._listener.error:
                raise VlmError(self._listener.error)
            time.sleep(0.0005)
        return self._listener.ends[-1] - started

    def ask_without(self) -> float:
        """Ask where there is no watch at all."""
        self._worker.watch = None
        seconds = self.ask()
        self._worker.watch = self.watch
        return seconds

    def close(self) -> None:
        """End the threads and the node."""
        import rclpy

        self._worker.close(60)
        self._node.destroy_node()
        rclpy.shutdown()


def _with_node(bench: Bench, n: int, judging: float) -> dict[str, float]:
    """Measure the pipeline, and questions of people in between."""
    with tempfile.TemporaryDirectory() as folder:
        watching = Watching(bench, Path(folder))
        try:
            rate = watching.frames_a_second(3 * n)
            rng, beside, alone = np.random.default_rng(1), [], []
            for _ in range(2 * n):
                time.sleep(float(rng.uniform(0.2, 1.0)) * judging)  # anywhere in a round
                beside.append(watching.ask())
            watching.watch.enable(False)
            time.sleep(2 * (judging + bench.encoder.seconds))
            for _ in range(n):
                alone += [watching.ask(), watching.ask_without()]
        finally:
            watching.close()
    delay = statistics.median(beside) - statistics.median(alone)
    longest = max(bench.encoder.seconds, bench.image_s)
    return {
        'frames judged': rate * max(bench.encoder.seconds, judging),
        'question, delay': delay / longest,
        'switched off': statistics.median(
            off / none for off, none in zip(alone[::2], alone[1::2], strict=True)
        ),
        'question beside s': statistics.median(beside),
        'question alone s': statistics.median(alone),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark; exit with 1 if that fails or a ratio misses its bar."""
    parser = ArgumentParser(
        prog='bench_watch', description=(__doc__ or '').split('\n')[0], epilog=EXIT_STATUS
    )
    cores = len(os.sched_getaffinity(0))
    parser.add_argument('--threads', type=count, default=min(8, cores), help='%(default)s here')
    parser.add_argument('--rounds', type=count, default=5, help='of each: %(default)s')
    parser.add_argument('--llm', metavar='MODEL', help='a GGUF decoder in place of the stand-in')
    options = parser.parse_args(arguments)
    # Nobody else's nodes, and nobody else may hear ours.
    os.environ.setdefault('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
    os.environ.setdefault('ROS_DOMAIN_ID', str(os.getpid() % 100 + 1))
    try:
        llm = find_decoder(options.llm) if options.llm else write_model()
        bench = Bench(llm, options.threads, options.rounds)
        print('measuring: rounds of rules ...', file=sys.stderr, flush=True)
        figures = bench.rounds()
        print('measuring: the node ...', file=sys.stderr, flush=True)
        figures |= _with_node(bench, options.rounds, figures['judging s'])
    except VlmError as error:
        print(f'error: {error}', file=sys.stderr)
        sys.exit(1)
    ratios = {name: figures[name] for name in BARS}
    print(
        f'Eight rules about a new frame: {figures["eight s"]:.2f} s; one cold question:'
        f' {figures["cold s"]:.2f} s. Asked one after the other\nin place of together, about a'
        f' picture that is decoded, they take {figures["one by one"]:.2f} times as long.\n'
        f'First token of a question: {figures["question alone s"]:.2f} s, beside the rules'
        f' {figures["question beside s"]:.2f} s.\n'
    )
    sys.exit(not print_verdicts(BARS, ratios))


if __name__ == '__main__':
    main()
