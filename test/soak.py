"""Use real nodes at random for as long as is asked for, with faults: `make soak`.

Every answer that nothing disturbs has to be right, each question gets one answer or one error, and
memory, descriptors and threads stay what they are. A seed repeats what is done.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any

import emulated
import numpy as np
import togetheros
from nano import CONFIG, MODELS, ROOT
from robot import PROFILES, Robot
from served import free_port
from soak_resources import (
    Growth,
    growths,
    left_behind,
    processes_with,
    shared_memory_of,
)
from soak_user import User

from hobot_llamacpp_py.config import ChatConfig, DecoderConfig, SamplingConfig
from hobot_llamacpp_py.engine import Chat, Engine
from hobot_llamacpp_py.vision.encoder_peer import INTERPRETER

SCARY = re.compile(
    r'Traceback|(?i:exception)|internal error|unexpected error|a callback failed|never retrieved'
    r'|could not be published|cannot be ended'
)
"""What no line of a log may hold."""
FEWEST_STEPS = 80  # of each variant, so that growth can be told from noise
END_TIMEOUT = 2.0  # seconds that a node gets to end

SPOILT = """
import functools, subprocess, threading, time
kept = []
def leak():
    if not kept:
        kept.append(open('/dev/shm/hobot_llamacpp_left', 'w'))
        clean = 'sleep 60; rm -f /dev/shm/hobot_llamacpp_left'
        kept.append(subprocess.Popen(['sh', '-c', clean], start_new_session=True))
    kept.append((b'x' * 1_000_000, open('/dev/null')))
    threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
"""
SPOILS = {
    'wrong': "lambda self, end, text, *rest: end(self, text + '!', *rest)",
    'twice': 'lambda self, end, *all: (end(self, *all), end(self, *all))',
    'leak': 'lambda self, end, *all: (leak(), end(self, *all))',
}
"""What can be made wrong on purpose: what is done when an answer is published."""


@dataclass(frozen=True)
class Variant:
    """A model and what runs its encoder.

    Attributes:
        board: the emulated one that does, if one does.
    """

    name: str
    family: str
    encoder: Path
    has_process: bool = False
    board: str = ''


@dataclass
class Outcome:
    """What came of a variant."""

    user: User | None = None
    growths: list[Growth] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    left_by_kill: int = 0


def _variants(wanted: str) -> list[Variant]:
    """Return those that run here and have a text in their names."""
    variants = []
    for family in MODELS:
        variants.append(Variant(f'{family}, ONNX', family, MODELS[family][0]))
    mmproj = CONFIG / 'mmproj-nano_smolvlm.gguf'
    variants.append(Variant('smolvlm, mmproj', 'smolvlm', mmproj, has_process=True))
    for family, board in zip(MODELS, emulated.BOARDS, strict=True):
        variants.append(Variant(f'{family}, {board}', family, Path(), True, board))
    variants = [variant for variant in variants if wanted in variant.name]
    for variant in variants[:]:
        if variant.board and (reason := _missing(variant.board)):
            print(f'without the emulated {variant.board}: {reason}')
            variants.remove(variant)
    return variants


def _missing(board: str) -> str:
    """Say why a board cannot be emulated here; build it if it can and is not built."""
    for tool in emulated.TOOLS:
        if shutil.which(tool) is None:
            return f'needs {tool}, which make test-board installs'
    try:
        emulated.run_on(board)
    except (AssertionError, subprocess.TimeoutExpired) as error:
        return str(error).strip().splitlines()[-1]
    return ''


def _install(folder: Path) -> Path:
    build = [sys.executable, '-m', 'colcon', '--log-base', str(folder / 'log'), 'build']
    build += ['--merge-install', '--base-paths', str(ROOT), '--build-base', str(folder / 'build')]
    build += ['--install-base', str(folder / 'install')]
    subprocess.run(build, check=True, cwd=folder, capture_output=True, text=True, timeout=300)
    return folder / 'install'


def _spoil(installed: Path, what: str) -> None:
    """Make the installed package wrong."""
    (path,) = installed.glob('lib/python*/site-packages/hobot_llamacpp_py/ros/results.py')
    with path.open('a', encoding='utf-8') as file:
        file.write(SPOILT)
        file.write(f'Results.end = functools.partialmethod({SPOILS[what]}, Results.end)\n')


@contextmanager
def _variable(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before


class Soak:
    """One variant, from its node's start to what is left of it."""

    def __init__(self, variant: Variant, seed: int, installed: Path, folder: Path) -> None:
        self._variant, self._seed = variant, f'{seed} {variant.name}'
        self._installed, self._folder = installed, folder
        self._journal = (folder / 'journal').open('w', buffering=1)
        self._last: list[str] = []
        self.outcome = Outcome()

    def run(self, seconds: float, steps: int | None) -> None:
        """Use the node, end it, start it again, kill it."""
        with ExitStack() as stack:
            encoder, variant = self._variant.encoder, self._variant
            if variant.board:
                encoder = stack.enter_context(
                    emulated.nano_model(self._folder, variant.family, variant.board)
                )
                stack.enter_context(_variable(INTERPRETER, emulated.interpreter(variant.board)))
            try:
                self._use(encoder, seconds, steps)
                self._kill(encoder)
            except AssertionError as error:
                *said, last = str(error).splitlines() or ['']
                lines = [*said[:1], '...', *said[-30:], last] if said else [last]
                self._wrong('\n'.join([*lines, 'The last that was done:', *self._last]))

    def _robot(self, encoder: Path, port: int) -> Robot:
        _, decoder, kind = MODELS[self._variant.family]
        parameters: dict[str, Any] = {
            'feed_type': 1,
            'model_file_name': encoder,
            'llm_model_name': decoder,
            'model_type': kind.number,
            'http_port': port,
            'watch_max_load': 1.0,
            'cute_words': '',
        }
        return Robot(self._installed, self._folder, parameters, togetheros=togetheros.are_built())

    def _user(self, robot: Robot, seed: str, port: int) -> User:
        has_process = self._variant.has_process
        folder, note = self._folder, self._note
        return User(robot, seed, folder, port, has_process, note, self._reference)

    def _reference(self, bgr: np.ndarray, questions: Sequence[str], history_turns: int) -> str:
        encoder, decoder, family = MODELS[self._variant.family]
        config, sampling = DecoderConfig(n_threads=1), SamplingConfig(temperature=0)
        if not self._variant.board:
            encoder = self._variant.encoder
        with Engine.open(decoder, encoder, family=family, config=config) as engine:
            chat_config = ChatConfig(
                'You are a helpful assistant.', history_turns=history_turns, sampling=sampling
            )
            chat, picture, text = Chat(engine, chat_config), engine.picture(bgr), ''
            for question in questions:
                text = ''.join(chat.ask(question, picture))
        return text

    def _use(self, encoder: Path, seconds: float, steps: int | None) -> None:
        port = free_port()
        with self._robot(encoder, port) as robot:
            robot.wait_until_ready()
            self._note('use')
            user = self._user(robot, self._seed, port)
            self.outcome.user = user
            end = time.monotonic() + seconds

            def is_over(step: int) -> bool:
                if steps:
                    return step >= steps
                return step >= FEWEST_STEPS and time.monotonic() >= end

            try:
                if not steps or steps >= FEWEST_STEPS:
                    user.warm_up()
                user.run(is_over)
                # The emulator leaks at each thread that ends, and the S100's binding starts one
                # for each picture.
                judges = self._variant.board != 's100'
                self.outcome.growths = growths(user.samples, judges)
                for growth in self.outcome.growths:
                    if growth.is_leak:
                        self._wrong(
                            f'{growth.what} grew by {growth.grown:.2f} from {growth.typical:.2f}'
                            f' ({growth.surely:.2f} at least)'
                        )
                self._end(robot, user)
            finally:
                rows = [astuple(sample) for sample in user.samples]
                np.savetxt(self._folder / 'samples.csv', rows, '%.6g', ',')
                for line in robot.log.splitlines():
                    if SCARY.search(line):
                        self._wrong(f'the log says: {line}')

    def _end(self, robot: Robot, user: User) -> None:
        """End the node in the midst of an answer."""
        names = shared_memory_of(robot.process.pid) - shared_memory_of(os.getpid())
        user.say_last_words()
        number = random.Random(self._seed).choice([signal.SIGINT, signal.SIGTERM])
        self._note(f'end by {number.name}')
        status, took = robot.stop(number)
        if status or took > END_TIMEOUT:
            self._wrong(f'ended with {status} after {took:.1f} s')
        user.check_last_words()
        for name in left_behind(names):
            self._wrong(f'left behind: {name}')
        self._expect_no_process()

    def _kill(self, encoder: Path) -> None:
        """Kill a node in the midst of an answer: nothing of ours stays."""
        with self._robot(encoder, port := free_port()) as robot:
            robot.wait_until_ready()
            self._note('use again')
            user = self._user(robot, f'{self._seed} again', port)
            user.look_elsewhere()
            user.ask()
            names = shared_memory_of(robot.process.pid) - shared_memory_of(os.getpid())
            user.say_last_words()
            robot.process.kill()
            robot.process.wait()
            # What the middleware had is its own affair: nobody is left to unlink a name.
            for name in left_behind(names):
                if 'fastrtps' not in name and 'fastdds' not in name:
                    self._wrong(f'left behind by kill -9: {name}')
            self._expect_no_process()

    def _expect_no_process(self) -> None:
        deadline = time.monotonic() + 10
        while (left := processes_with(self._folder)) and time.monotonic() < deadline:
            time.sleep(0.05)
        if left:
            self._wrong(f'processes left behind: {left}')

    def _wrong(self, text: str) -> None:
        self.outcome.wrong.append(f'{self._variant.name}: {text}')

    def _note(self, line: str) -> None:
        self._journal.write(f'{line}\n')
        self._last = [*self._last[-19:], line]


def _table(outcomes: dict[str, Outcome]) -> str:
    """Return the table of all variants."""
    head = ('variant', 'right answers', 'other things done', 'first word ms', 'node MB')
    head += ('encoder MB', 'descriptors', 'threads')
    rows = [head, ('---',) * len(head)]
    for name, outcome in outcomes.items():
        user, grown = outcome.user, {growth.what: growth for growth in outcome.growths}
        if user is None:
            continue
        first = statistics.median(s for _, s in user.first_s) if user.first_s else 0
        others = sum(user.counts.values()) - user.counts['right answers']
        cells = [name, str(user.counts['right answers']), str(others), f'{first * 1000:.0f}']
        last = user.samples[-1] if user.samples else None
        for what in ('node_mb', 'encoder_mb', 'descriptors', 'threads'):
            value, growth = getattr(last, what, 0), grown.get(what)
            if growth and what.endswith('_mb'):
                cells.append(f'{value:.0f} ({growth.grown / growth.typical:+.2%})')
            elif growth:
                cells.append(f'{value} ({growth.grown:+.1f})')
            else:
                cells.append(f'{value:.0f}' if value else '')
        rows.append(tuple(cells))
    return '\n'.join(f'| {" | ".join(row)} |' for row in rows)


def _plot(outcomes: dict[str, Outcome], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure((9, 6), dpi=80, layout='constrained')
    memory, first = figure.subplots(2, sharex=True)
    for name, outcome in outcomes.items():
        if (user := outcome.user) is None or not user.samples:
            continue
        seconds = [s.seconds for s in user.samples]
        (line,) = memory.plot(seconds, [s.node_mb for s in user.samples], label=name)
        if any(s.encoder for s in user.samples):
            encoder = [s.encoder_mb or float('nan') for s in user.samples]
            memory.plot(seconds, encoder, color=line.get_color(), linestyle=':')
        first.plot(*zip(*user.first_s, strict=True), linestyle='none', marker='.', markersize=2)
    memory.set_ylabel('resident MB (dotted: encoder)')
    memory.set_ylim(0)
    if memory.lines:
        memory.legend(loc='lower right', fontsize='small')
    first.set_ylabel('seconds to the first word')
    first.set_yscale('log')
    first.set_xlabel('seconds')
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all variants, one after the other; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--minutes', type=float, default=2.0)
    parser.add_argument('--hours', type=float, help='instead of minutes')
    parser.add_argument('--steps', type=int, help='so many, not a time; fewer than 80: no warm-up')
    parser.add_argument('--seed', type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument('--variant', default='', help='only those that have this in their name')
    parser.add_argument('--plot', type=Path, metavar='FILE', default=ROOT / 'build/soak.png')
    parser.add_argument('--keep', type=Path, metavar='FOLDER', help='logs, and what was done')
    parser.add_argument('--installed', type=Path, metavar='FOLDER', help='in place of a new one')
    parser.add_argument('--spoil', choices=SPOILS, help='to see that it is found')
    options = parser.parse_args(arguments)
    togetheros.use_messages()
    os.environ.setdefault(PROFILES, str(CONFIG / 'quick_discovery.xml'))
    variants = _variants(options.variant)
    if not variants:
        parser.error(f'no variant is named {options.variant!r}')
    seconds = 60 * (60 * options.hours if options.hours else options.minutes) / len(variants)
    print(f'seed {options.seed}, {seconds:.0f} s each of {len(variants)}', flush=True)
    outcomes: dict[str, Outcome] = {}
    with tempfile.TemporaryDirectory() as scratch:
        base = options.keep or Path(scratch)
        installed = options.installed or _install(Path(scratch))
        if options.spoil:
            installed = Path(shutil.copytree(installed, Path(scratch) / 'spoilt', symlinks=True))
            _spoil(installed, options.spoil)
        for variant in variants:
            folder = base / re.sub(r'\W+', '_', variant.name)
            folder.mkdir(parents=True)
            soak = Soak(variant, options.seed, installed, folder)
            outcomes[variant.name] = soak.outcome
            soak.run(seconds, options.steps)
            print('\n'.join([f'{variant.name}: done', *soak.outcome.wrong]), flush=True)
    print(f'\n{_table(outcomes)}')
    _plot(outcomes, options.plot)
    print(f'\nmemory and time to the first word: {options.plot}')
    n = sum(len(outcome.wrong) for outcome in outcomes.values())
    print(f'{n} things went wrong, with seed {options.seed}' if n else 'nothing went wrong')
    return bool(n)


if __name__ == '__main__':
    sys.exit(main())
