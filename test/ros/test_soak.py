"""`make soak`: the command works, a seed repeats a run, and what is made wrong is found."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from nano import ROOT
from soak_resources import Sample, growths

pytest.importorskip('matplotlib', reason='needs requirements/plot.txt')


def soak(folder: Path, installed: Path, *arguments: str) -> tuple[int, str]:
    """Soak one variant; return the exit status and what was printed."""
    command = [sys.executable, ROOT / 'test/soak.py', '--variant', 'internvl, ONNX']
    command += ['--seed', '7', '--installed', installed, '--plot', folder / 'soak.png']
    result = subprocess.run(
        [*command, '--keep', folder, *arguments],
        env={**os.environ, 'PYTHONPATH': f'{ROOT}:{ROOT / "test"}'},
        capture_output=True,
        text=True,
        timeout=250,
    )
    return result.returncode, result.stdout + result.stderr


def test_a_seed_repeats_a_run(tmp_path: Path, installed: Path) -> None:
    """Nothing goes wrong, and a longer run with the same seed begins with the same things."""
    journals = []
    for steps in ('3', '5'):
        folder = tmp_path / steps
        status, printed = soak(folder, installed, '--steps', steps)
        assert status == 0, printed
        assert 'nothing went wrong' in printed
        assert '| internvl, ONNX | ' in printed
        assert (folder / 'soak.png').exists()
        journals.append((folder / 'internvl_ONNX/journal').read_text().split('\nlast words')[0])
    short, long = journals
    assert '\n2 follow_up\n' in short
    assert len(short) < len(long)
    assert long.startswith(short)


@pytest.mark.parametrize(
    ('spoil', 'steps', 'words'),
    [
        ('wrong', '1', {', not '}),
        ('twice', '1', set()),  # the next question gets it, or nobody does
        (
            *('leak', '80'),
            {
                *('node_mb grew by ', 'descriptors grew by ', 'threads grew by '),
                *('left behind: /dev/shm/hobot_llamacpp_left', 'processes left behind: ['),
            },
        ),
    ],
)
def test_what_is_wrong_is_found(
    tmp_path: Path, installed: Path, spoil: str, steps: str, words: set[str]
) -> None:
    """A node with a fault makes it end with status 1, and say what is wrong."""
    status, printed = soak(tmp_path / 'kept', installed, '--spoil', spoil, '--steps', steps)
    assert status == 1, printed
    assert all(word in printed for word in words), printed
    assert 'things went wrong, with seed 7' in printed


def samples(grown_mb: float, lives: int = 1) -> list[Sample]:
    """Return samples of a node, and of an encoder's process that was killed now and then."""
    chance = random.Random(0)
    found = []
    for i in range(600):
        noise = chance.gauss(0, 0.5) + 20 * (chance.random() < 0.02)
        memory = 200 + grown_mb * i / 400 + noise
        encoder = 1 + i * lives // 600
        found.append(Sample(3 * i, memory, 23 + (i % 7 == 0), 20, encoder, memory / 4))
    return found


def test_noise_is_no_leak() -> None:
    """Peaks and noise are none, and neither is what happens in the warm-up."""
    quiet = samples(0)
    quiet[:100] = [replace(sample, node_mb=sample.node_mb - 90) for sample in quiet[:100]]
    assert [growth.what for growth in growths(quiet)] == [
        *('node_mb', 'descriptors', 'threads', 'encoder_mb'),
    ]
    assert not any(growth.is_leak for growth in growths(quiet))


def test_a_slow_leak() -> None:
    """Memory that grows by more than 1 % after the warm-up is one, in each process."""
    assert [g.what for g in growths(samples(4)) if g.is_leak] == ['node_mb', 'encoder_mb']
    assert [g.what for g in growths(samples(12, lives=2)) if g.is_leak] == [
        'node_mb',
        'encoder_mb',
    ]
    growing = [replace(s, descriptors=s.descriptors + i // 300) for i, s in enumerate(samples(0))]
    assert [g.what for g in growths(growing) if g.is_leak] == []  # one, once
    growing = [replace(s, descriptors=s.descriptors + i // 100) for i, s in enumerate(samples(0))]
    assert [g.what for g in growths(growing) if g.is_leak] == ['descriptors']


def test_a_short_run() -> None:
    """The heap takes minutes to find its size: what a short run shows has to be much."""
    for grown_mb, leaks in ((12, []), (40, ['node_mb', 'encoder_mb'])):
        short = [replace(sample, seconds=sample.seconds / 15) for sample in samples(grown_mb)]
        assert [growth.what for growth in growths(short) if growth.is_leak] == leaks


def test_a_heap_that_comes_and_goes() -> None:
    """What a long run's memory does by chance is no leak; what it does beside that is one."""
    chance, quiet = random.Random(3), samples(0)
    levels = [chance.uniform(-6, 6) for _ in range(12)]
    for grown_mb, leaks in ((0, []), (40, ['node_mb'])):
        moved = [
            replace(sample, node_mb=200 + levels[i // 50] + grown_mb * i / 600)
            for i, sample in enumerate(quiet)
        ]
        assert [growth.what for growth in growths(moved) if growth.is_leak] == leaks
