"""What a check is given, and what it finds; the checks themselves are the modules beside this."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from hobot_llamacpp_py import health
from hobot_llamacpp_py.config import DecoderConfig, EncoderConfig
from hobot_llamacpp_py.health.machine import Machine

__all__ = ['Case', 'Check', 'Level', 'Result', 'find_checks', 'run_child']

Level = Literal['ok', 'warning', 'failure', 'skipped']
CHILD_TIMEOUT = 60.0  # seconds: a binding may be loaded from an SD card


@dataclass(frozen=True)
class Result:
    """One line about the machine.

    Attributes:
        text: what was found, with the figures.
        mend: the command, or the step, that mends it.
    """

    level: Level
    text: str
    mend: str = ''


@dataclass(frozen=True)
class Case:
    """What is looked at: a machine, and what the node is to do there.

    Attributes:
        llm, encoder: the models' files; None: missing, or not wanted.
        image_topic: empty where the node takes no images from a topic.
        port: where the node will listen, 0 for nowhere.
    """

    machine: Machine = field(default_factory=Machine)
    llm: Path | None = None
    encoder: Path | None = None
    decoder_config: DecoderConfig = DecoderConfig()
    encoder_config: EncoderConfig = EncoderConfig()
    image_topic: str = ''
    prompt_topic: str = ''
    port: int = 0

    @property
    def encoder_kind(self) -> str:
        """The suffix that tells the encoder's kind, '' for no encoder."""
        return self.encoder.suffix.lower() if self.encoder else ''


Check = Callable[[Case], Iterable[Result]]


def find_checks() -> Iterator[tuple[str, Check]]:
    """Give name and function of every check: each module beside this that has a `check`."""
    for module in sorted(pkgutil.iter_modules(health.__path__), key=lambda found: found.name):
        imported = importlib.import_module(f'{health.__name__}.{module.name}')
        if hasattr(imported, 'check'):
            yield module.name, imported.check


def run_child(code: str) -> tuple[bool, str]:
    """Run Python in a process of its own, which it may crash; return success and its last word."""
    root = str(Path(__file__).resolve().parent.parent.parent)
    start = (
        f'import sys; sys.path.insert(0, {root!r}); import hobot_llamacpp_py; del sys.path[0]\n'
    )
    try:
        done = subprocess.run(
            [sys.executable, '-c', start + code],
            capture_output=True,
            text=True,
            errors='replace',
            timeout=CHILD_TIMEOUT,
        )
    except subprocess.TimeoutExpired:
        return False, f'no answer within {CHILD_TIMEOUT:g} s'
    if done.returncode == 0:
        return True, done.stdout.strip()
    lines = done.stderr.strip().splitlines()
    said = lines[-1] if lines else 'no word'
    if done.returncode < 0:
        return False, f'its process was ended by signal {-done.returncode} ({said})'
    return False, said
