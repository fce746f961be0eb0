"""Fuzzing, `make fuzz`: no input makes it crash, hang, take all memory, or say what is not so.

Inputs are made by hypothesis, which builds them by their structure and shrinks what it finds: in a
minute and a half each it found arrays in arrays in a GGUF header over which ours ran out of stack,
atheris nothing in 125,000 headers (nor in 25,000 files of rules); and most of what is fuzzed here
is native code or another process, whose branches atheris does not see.

Each target runs in a process of its own, first over the inputs that are kept in corpus/, then over
new ones. An input that fails is shrunk and kept there, and from then on is an ordinary test.
"""

from __future__ import annotations

import argparse
import ast
import faulthandler
import hashlib
import importlib
import os
import pprint
import random
import resource
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
from fuzz.target import CORPUS, Target, corpus_of

TARGETS = {
    'image': 'images:Images',
    'compressed_image': 'images:CompressedImages',
    'shared_memory_image': 'images:SharedMemoryImages',
    'prompt': 'prompts:Prompts',
    'json_schema': 'schemas:Schemas',
    'grammar': 'grammars:Grammars',
    'rules': 'yaml_files:Rules',
    'params': 'yaml_files:Params',
    'gguf': 'gguf_headers:Decoders',
    'mmproj': 'gguf_headers:Encoders',
    'http': 'http_requests:Requests',
    'encoder_process': 'encoders:Children',
    'encoder_child': 'encoders:Parents',
}
SHRINKING = 60.0  # seconds
ROUND = 200  # inputs of which each is made with what was learnt from those before


class _Enough(BaseException):
    """There is no more time for shrinking."""


class Run:
    """Feeds one target, in this process.

    Args:
        journal: a file that holds the input that is being tried; whoever dies leaves it behind.
    """

    def __init__(self, target: Target, journal: Path) -> None:
        self._target, self._journal = target, journal
        self._until = 0.0
        self.n = 0
        self.failed: tuple[Any, Exception] | None = None

    def check(self, value: Any) -> None:
        """Try one input; the process ends if that takes too long."""
        self._journal.write_text(_literal(value), 'utf-8')
        faulthandler.dump_traceback_later(self._target.seconds, exit=True)
        try:
            self._target.check(value)
        except Exception as error:
            self.failed = value, error
            raise
        finally:
            faulthandler.cancel_dump_traceback_later()
            self.n += 1

    def explore(self, seconds: float, seed: int) -> None:
        """Try new inputs for some time, until one fails; that is in `failed`, shrunk."""
        self._until = time.monotonic() + seconds
        options = hypothesis.settings(
            max_examples=ROUND,
            deadline=None,
            database=None,
            print_blob=False,
            report_multiple_bugs=False,
            phases=[hypothesis.Phase.generate, hypothesis.Phase.shrink],
            verbosity=hypothesis.Verbosity.quiet,
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        for number in range(sys.maxsize):
            test = hypothesis.given(self._target.inputs)(self._check_in_time)
            test = hypothesis.seed(seed + number)(options(test))
            try:
                test()
            except (Exception, _Enough):
                if self.failed is None:
                    raise
            if self.failed or time.monotonic() >= self._until:
                return

    def _check_in_time(self, value: Any) -> None:
        now = time.monotonic()
        if self.failed and now > self._until + SHRINKING:
            raise _Enough
        if self.failed or now < self._until:
            self.check(value)


def _literal(value: Any) -> str:
    text = repr(value) if isinstance(value, (str, bytes)) else pprint.pformat(value, width=96)
    return text + '\n'


def load(name: str) -> Target:
    """Return the target of that name."""
    module, _, attribute = TARGETS[name].partition(':')
    made: Target = getattr(importlib.import_module(f'fuzz.{module}'), attribute)()
    return made


def run_here(name: str, seconds: float, seed: int, journal: Path) -> int:
    """Run one target in this process; return the exit status."""
    with load(name) as target:
        with Path('/proc/self/statm').open() as statm:
            size = int(statm.read().split()[0]) * resource.getpagesize()
        most = size + target.memory
        resource.setrlimit(resource.RLIMIT_AS, (most, resource.getrlimit(resource.RLIMIT_AS)[1]))
        run = Run(target, journal)
        for file, value in corpus_of(name).items():
            try:
                run.check(value)
            except Exception as error:
                print(f'{name}: {file} of its corpus fails\n{_told(error)}')
                return 1
        kept = run.n
        run.explore(seconds, seed)
        if run.failed:
            value, error = run.failed
            print(f'{name}: {_keep(name, _literal(value))} fails, found with seed {seed}')
            print(_told(error))
            return 1
        print(f'{name}: {kept} of the corpus and {run.n - kept} new inputs')
        return 0


def _told(error: Exception) -> str:
    lines = ''.join(traceback.format_exception(error, chain=False)).splitlines()
    return '\n'.join(line[:400] for line in lines[-25:])


def _keep(name: str, literal: str) -> Path:
    """Keep an input in the corpus; return its file."""
    ast.literal_eval(literal)
    folder = CORPUS / name
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f'{hashlib.sha256(literal.encode()).hexdigest()[:12]}.txt'
    path.write_text(literal, 'utf-8')
    return path


@dataclass(frozen=True)
class Result:
    """How the run of a target ended."""

    name: str
    status: int
    output: str


def run_in_process(name: str, seconds: float, seed: int) -> Result:
    """Run one target in a process of its own, which may crash."""
    with tempfile.TemporaryDirectory(prefix='fuzz-') as folder:
        journal = Path(folder) / 'input'
        command = [
            sys.executable,
            '-m',
            'fuzz.run',
            '--child',
            str(journal),
            '--seconds',
            str(seconds),
        ]
        command += ['--seed', str(seed), name]
        # Compiled code and core dumps: neither is wanted here.
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
        done = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, 'TMPDIR': folder, 'PYTHONPATH': _path()},
        )
        output = done.stdout.decode('utf-8', 'replace')
        if done.returncode and ' fails' not in output and journal.exists():
            kept = _keep(name, journal.read_text('utf-8'))
            output += f'{name}: {kept} ends the process: status {done.returncode}\n'
        return Result(name, done.returncode, output)


def _path() -> str:
    root = Path(__file__).resolve().parent.parent.parent
    return os.pathsep.join(filter(None, [f'{root}', f'{root / "test"}', os.getenv('PYTHONPATH')]))


def run_all(names: Iterable[str], seconds: float, seed: int, jobs: int) -> Iterator[Result]:
    """Run targets, some at a time; yield how each ended."""
    with ThreadPoolExecutor(jobs) as pool:
        yield from pool.map(lambda name: run_in_process(name, seconds, seed), names)


def main() -> int:
    """Run what the command line says; return the exit status."""
    parser = argparse.ArgumentParser(
        'make fuzz', description='Each target is fed with inputs that nobody would send.'
    )
    parser.add_argument('targets', nargs='*', metavar='TARGET', help=f'of {", ".join(TARGETS)}')
    parser.add_argument('--minutes', type=float, default=1.0, help='for each target')
    parser.add_argument('--seconds', type=float, help='instead of minutes')
    parser.add_argument('--seed', type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument('--jobs', type=int, default=os.cpu_count() or 1, help='at a time')
    parser.add_argument('--child', type=Path, metavar='JOURNAL', help=argparse.SUPPRESS)
    options = parser.parse_args()
    names = options.targets or list(TARGETS)
    if unknown := [name for name in names if name not in TARGETS]:
        parser.error(f'there is no {unknown[0]}; targets are {", ".join(TARGETS)}')
    seconds = 60 * options.minutes if options.seconds is None else options.seconds
    if options.child:
        return run_here(names[0], seconds, options.seed, options.child)
    print(f'seed {options.seed}, {seconds:g} s each of {len(names)}', flush=True)
    failed = []
    with suppress(KeyboardInterrupt):
        for result in run_all(names, seconds, options.seed, options.jobs):
            print(result.output, end='', flush=True)
            failed += [result.name] * bool(result.status)
    print(f'failed: {", ".join(failed)}' if failed else 'nothing found')
    return bool(failed)


if __name__ == '__main__':
    sys.exit(main())
