"""What a node and its encoder's process hold and leave: memory, descriptors, threads."""

from __future__ import annotations

import itertools
import os
import statistics
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    'Growth',
    'Sample',
    'encoder_of',
    'growths',
    'left_behind',
    'processes_with',
    'shared_memory_of',
]

FLAT = 0.01  # share by which memory may grow after the warm-up
STILL_WARMING = 0.1  # and in a short run: the heap takes minutes to find its size
LONG = 360.0  # seconds without the warm-up: no short run
WARM_UP = 1 / 3  # of the samples
LEAST = 50  # samples that say something
BINS = 12
SURE = 18  # of the 66 slopes between so many, those that a slope surely is above (Sen, 95 %)


@dataclass(frozen=True)
class Sample:
    """What they hold at a moment; `encoder` is the process's id, 0 for none."""

    seconds: float
    node_mb: float
    descriptors: int
    threads: int
    encoder: int
    encoder_mb: float

    @classmethod
    def of(cls, pid: int, began: float) -> Sample:
        encoder = encoder_of(pid)
        return cls(
            time.monotonic() - began,
            _resident_mb(pid),
            len(os.listdir(f'/proc/{pid}/fd')),
            len(os.listdir(f'/proc/{pid}/task')),
            encoder,
            _resident_mb(encoder),
        )


@dataclass(frozen=True)
class Growth:
    """How much something grew between the warm-up and the end, and whether that is too much.

    Attributes:
        grown: about.
        surely: at least.
    """

    what: str
    typical: float
    grown: float
    surely: float
    most: float

    @property
    def is_leak(self) -> bool:
        return self.surely > self.most


def growths(samples: Sequence[Sample], judges_encoder: bool = True) -> list[Growth]:
    """Return what grew how much, without the first third, which is the warm-up.

    What is held for a moment only is no leak: of each twelfth of the samples the least counts. The
    growth is the slope of a line through these twelve, the median of all slopes between any two of
    them (Theil and Sen), times what they span. The heap comes and goes by some per cent, so what
    counts is the lower end of its 95 %. Memory may grow by 1 %, in a run of less than nine minutes
    by 10 %, and descriptors and threads by less than one. An encoder's process is judged by
    itself, over its longest life.
    """
    found = []
    warm = samples[round(len(samples) * WARM_UP) :]
    if len(warm) >= LEAST:
        found += [_growth(what, warm) for what in ('node_mb', 'descriptors', 'threads')]
    lives = [list(life) for _, life in itertools.groupby(samples, lambda s: s.encoder)]
    life = max((life for life in lives if life[0].encoder), key=len, default=[])
    warm = life[round(len(life) * WARM_UP) :]
    if judges_encoder and len(warm) >= LEAST:
        found.append(_growth('encoder_mb', warm))
    return found


def _growth(what: str, samples: Sequence[Sample]) -> Growth:
    values = [getattr(sample, what) for sample in samples]
    n = len(values)
    bins = [min(values[n * i // BINS : n * (i + 1) // BINS]) for i in range(BINS)]
    pairs = itertools.combinations(range(BINS), 2)
    grown = sorted((bins[j] - bins[i]) / (j - i) * (BINS - 1) for i, j in pairs)
    typical, most = statistics.median(bins), 0.99
    if what.endswith('_mb'):
        is_long = samples[-1].seconds - samples[0].seconds >= LONG
        most = typical * (FLAT if is_long else STILL_WARMING)
    return Growth(what, typical, statistics.median(grown), grown[SURE], most)


def encoder_of(pid: int) -> int:
    """Return the process of a node's encoder, 0 if there is none."""
    for task in Path(f'/proc/{pid}/task').glob('*/children'):
        with suppress(OSError):
            for child in task.read_text().split():
                if b'encoder_child' in Path(f'/proc/{child}/cmdline').read_bytes():
                    return int(child)
    return 0


def processes_with(folder: Path) -> list[int]:
    """Return the processes that were started to log into a folder, children included."""
    found = []
    for path in Path('/proc').glob('[0-9]*/environ'):
        with suppress(OSError):
            if f'ROS_LOG_DIR={folder}\0'.encode() in path.read_bytes():
                found.append(int(path.parent.name))
    return found


def shared_memory_of(pid: int) -> set[str]:
    """Return what a process has mapped or open in shared memory, by name."""
    names = set()
    with suppress(OSError):
        for line in Path(f'/proc/{pid}/maps').read_text().splitlines():
            names.add(line.split(maxsplit=5)[-1])
    for link in Path(f'/proc/{pid}/fd').glob('*'):
        with suppress(OSError):
            names.add(os.readlink(link))
    return {name for name in names if name.startswith('/dev/shm/') and os.path.exists(name)}


def left_behind(names: set[str]) -> list[str]:
    """Return those that are there and used by nobody."""
    left = set(filter(os.path.exists, names))
    for path in Path('/proc').glob('[0-9]*') if left else ():
        left -= shared_memory_of(int(path.name))  # the middleware shares some among all
    return sorted(left)


def _resident_mb(pid: int) -> float:
    with suppress(OSError):
        for line in Path(f'/proc/{pid}/status').read_text().splitlines():
            if line.startswith('VmRSS:'):
                return int(line.split()[1]) / 1024
    return 0.0
