"""What a benchmark has found, and where: the JSON of `--json`, and back from it."""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import platform
import statistics
import time
import xml.etree.ElementTree
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hobot_llamacpp_py.engine.threads import usable_cores
from hobot_llamacpp_py.errors import ModelFileError, VlmError
from hobot_llamacpp_py.folders import share_directory
from hobot_llamacpp_py.tools.whole_file import write_whole

__all__ = [
    'ENGINE',
    'FEW',
    'PART',
    'THREADS',
    'Figure',
    'Results',
    'check_folder',
    'facts_of_model',
    'figure',
    'in_digits',
]

ENGINE, THREADS = 'engine', 'threads'  # kinds of results
FEW = 3  # rounds, below which there is no range to speak of
FORMAT = 1  # of the file; another one after a change that old files cannot be read with
PART = ' ms: '  # between what is measured and its part, in the name of a figure
PACKAGES = ('llama-cpp-python', 'llguidance', 'numpy', 'onnxruntime')


@dataclass(frozen=True)
class Figure:
    """A measured value, and the range of its repetitions without the tenth at either end."""

    value: float
    low: float
    high: float

    @property
    def noise(self) -> float:
        """How far repetitions lie from the value, as a share of it."""
        return max(self.high - self.value, self.value - self.low) / (self.value or 1)

    def overlaps(self, other: Figure) -> bool:
        """Tell whether the two ranges have something in common, so that both may be the same."""
        return self.low <= other.high and other.low <= self.high


def figure(repetitions: Sequence[float]) -> Figure:
    """Return the (lower) median of repetitions, and their range."""
    low, high = np.quantile(repetitions, (0.1, 0.9))
    return Figure(statistics.median_low(repetitions), float(low), float(high))


def in_digits(value: float) -> str:
    """Return a number with three digits that count, or all of its whole ones."""
    decimals = 2 - math.floor(math.log10(abs(value))) if value else 0
    return f'{value:.{max(0, decimals)}f}'


@dataclass
class Results:
    """The figures of one run, and all that they hang on.

    Attributes:
        kind: `ENGINE`, or `THREADS` where these were swept.
        rounds: measurements of each figure.
        model, settings, machine: what has to be the same, that two results can be compared.
        versions: of what computes; two results may well be compared because of them.
        ratios: the figures that have a bar.
    """

    kind: str
    rounds: int
    model: dict[str, Any]
    settings: dict[str, Any]
    machine: dict[str, Any] = field(default_factory=lambda: _machine())
    versions: dict[str, str] = field(default_factory=lambda: _versions())
    date: str = field(default_factory=lambda: time.strftime('%Y-%m-%d %H:%M'))
    ratios: dict[str, Figure] = field(default_factory=dict)
    figures: dict[str, Figure] = field(default_factory=dict)

    def value(self, name: str) -> float:
        """Return the value of a figure."""
        return self.figures[name].value

    def write(self, path: Path) -> None:
        """Write them as JSON: values by name, and beside them the range of the repetitions.

        Raises:
            VlmError: the file cannot be written.
        """
        found = {'format': FORMAT} | asdict(self)
        for name in ('ratios', 'figures'):
            found[name] = {key: item.value for key, item in getattr(self, name).items()}
        both = self.ratios | self.figures
        found['spread'] = {key: [item.low, item.high] for key, item in both.items()}
        text = json.dumps(found, indent=2) + '\n'
        write_whole(path, lambda partial: partial.write_text(text, 'utf-8'))

    @classmethod
    def read(cls, path: Path) -> Results:
        """Read what `write` has written.

        Raises:
            VlmError: there is no such file, or it is not such a file.
        """
        try:
            found = json.loads(path.read_text('utf-8'))
        except OSError as error:
            raise VlmError(f'{path}: {error.strerror}') from None
        except ValueError:
            raise VlmError(f'{path} is no JSON, as `bench --json {path.name}` writes it') from None
        try:
            number = found.pop('format')
            spread = found.pop('spread')
            for name in ('ratios', 'figures'):
                values = found[name]
                found[name] = {key: Figure(values[key], *spread[key]) for key in values}
            results = cls(**found)
        except (AttributeError, KeyError, TypeError):
            raise VlmError(f'{path} holds no results of `bench --json`: measure again') from None
        if number != FORMAT:
            raise VlmError(f'{path} has format {number}, this version reads {FORMAT}')
        return results

    def conditions(self) -> str:
        """Return one line that tells what was measured, and where."""
        facts = self.machine | self.model | self.settings
        return ', '.join(f'{name}: {value}' for name, value in facts.items())


def facts_of_model(role: str, path: Path) -> dict[str, Any]:
    """Return what tells a model file from another: its name and its size.

    Raises:
        ModelFileError: there is no such file.
    """
    try:
        return {role: path.name, f'{role} bytes': path.stat().st_size}
    except OSError as error:
        raise ModelFileError(f'{path}: {error.strerror}') from None


def check_folder(path: Path) -> None:
    """Check, before minutes of measuring, that there is a folder to write a file into.

    Raises:
        VlmError: there is none.
    """
    if not path.parent.is_dir():
        raise VlmError(f'{path}: there is no folder {path.parent}')


def _machine() -> dict[str, Any]:
    memory = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
    facts = {'processor': _processor(), 'cores': usable_cores(), 'memory GB': round(memory / 1e9)}
    governor = _text(Path('/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor'))
    return facts | ({'governor': governor} if governor else {})


def _processor() -> str:
    """Return the processor's name, or on a board, which does not tell that, the board's."""
    lines = _text(Path('/proc/cpuinfo')).splitlines()
    names = [line.split(':')[1].strip() for line in lines if line.startswith('model name')]
    return next(iter(names), '') or _text(Path('/proc/device-tree/model')) or platform.machine()


def _text(path: Path) -> str:
    try:
        return path.read_text('utf-8').strip('\0\n')
    except (OSError, UnicodeDecodeError):
        return ''


def _versions() -> dict[str, str]:
    package = xml.etree.ElementTree.parse(share_directory() / 'package.xml')
    found = {'hobot_llamacpp_py': package.findtext('version', '')}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found | {'python': platform.python_version(), 'kernel': platform.release()}
