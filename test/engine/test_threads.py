"""The number of threads follows what others leave free; one that was set stays."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from nano import MODELS, ROOT, answer, draw_scene, request_of

from hobot_llamacpp_py.config import DecoderConfig, SamplingConfig
from hobot_llamacpp_py.engine import Engine, Turn, governed, threads
from hobot_llamacpp_py.engine import decoder as decoder_module
from hobot_llamacpp_py.engine.decoder import Decoder
from hobot_llamacpp_py.engine.threads import ThreadGovernor, ThreadTimes, usable_cores


class Machine:
    """A machine of our own: how long a step takes, and what others get meanwhile.

    Where there are more threads than cores each neighbour shares a core with one of ours, and all
    of ours wait for those that share.

    Args:
        speed: steps a second of n threads that nobody disturbs.
    """

    def __init__(self, cores: int, speed: Callable[[int], float]) -> None:
        self.cores, self.speed = cores, speed
        self.now, self.neighbours = 0.0, 0
        self._idle, self._looked = 0.0, 0.0
        self.governor = ThreadGovernor(cores, 'decode', idle=self._look)
        self.changes: list[tuple[float, int]] = []

    def _look(self, now: float) -> tuple[float, float]:
        seconds, idle = now - self._looked, self._idle
        self._looked, self._idle = now, 0.0
        return seconds, idle / seconds if seconds else 0.0

    def run(self, seconds: float) -> list[tuple[float, int]]:
        """Decode for a while; return when the number changed, and to what."""
        governor, changes, end = self.governor, [], self.now + seconds
        began = self.now
        while self.now < end:
            n = governor.n
            shared = min(n, max(0, n + self.neighbours - self.cores))
            held_up = (1.5 if n == 1 else 3.5) if shared else 1
            wall = held_up / self.speed(n)
            self.now += wall
            self._idle += wall * max(0, self.cores - n - self.neighbours)
            governor.note(self.now, wall, wall * (n - shared / 2), 1)
            if governor.n != n:
                changes.append((self.now - began, governor.n))
        return changes


def grows(n: int) -> float:
    """Speed on equal cores: decoding is held up by the memory, too."""
    return 30 * n / (1 + 0.1 * n)


@pytest.mark.parametrize('cores', [2, 4, 8])
def test_a_neighbour_comes_and_goes(cores: int) -> None:
    """Within half a second of either there is a thread less, and one more, and no other change."""
    machine = Machine(cores, grows)
    machine.run(5)
    assert machine.governor.n == cores
    for neighbours in (1, 0, cores // 2, 0):
        machine.neighbours = neighbours
        changes = machine.run(10)
        assert machine.governor.n == cores - neighbours
        assert max(when for when, _ in changes) < 0.5
        assert len(changes) <= 4


def test_nobody_comes() -> None:
    """Alone on the machine all cores are used, but for one look at fewer."""
    machine = Machine(8, grows)
    changes = machine.run(120)
    assert [n for _, n in changes] == [4, 8]


def test_neighbours_on_all_cores() -> None:
    """Where every core is shared there is no better number to be found again and again."""
    machine = Machine(2, grows)
    machine.neighbours = 2
    machine.run(2)
    assert machine.governor.n == 1
    assert machine.run(60) == []


@pytest.mark.parametrize('slow', [0.3, 0.45])
def test_slow_cores(slow: float) -> None:
    """Slow cores hold up the fast ones: only these are used, and the others rarely tried."""
    machine = Machine(8, lambda n: grows(n) if n <= 4 else slow * grows(n))
    machine.run(5)
    assert machine.governor.n == 4
    changes = machine.run(120)
    assert machine.governor.n == 4
    assert len(changes) < 40


def test_cores_that_are_halves_of_one() -> None:
    """Where more threads give nothing they are left to others."""
    machine = Machine(4, lambda n: grows(min(n, 2)) * (1 if n <= 2 else 0.97))
    machine.run(5)
    assert machine.governor.n == 2


@pytest.mark.parametrize('n_threads', [1, 2])
def test_a_number_that_is_set_stays(n_threads: int) -> None:
    """The number that somebody set is used, whatever happens; no more than there are cores."""
    with Decoder(MODELS['internvl'][1], DecoderConfig(n_ctx=256, n_threads=n_threads)) as decoder:
        n = min(n_threads, usable_cores())
        assert decoder.n_threads_now == (n, n)
        decoder.prefill([1, 2, 3], 0)
        decoder.decode(4, [], at=3)
        assert decoder.n_threads_now == (n, n)


def test_answers_are_right_whatever_the_number() -> None:
    """While the number changes at every turn, pictures are described rightly."""
    encoder, decoder, kind = MODELS['internvl']
    with Engine.open(decoder, encoder, family=kind, config=DecoderConfig()) as engine:
        right = 0
        for seed in range(10):
            for governor in engine.decoder._governed._governors:
                governor.n = 1 + seed % engine.decoder.n_threads
            scene, bgr = draw_scene(seed + 400)
            turn = Turn('Describe the image.', engine.picture(bgr))
            given = engine.generate(request_of(turn, sampling=SamplingConfig(temperature=0)))
            right += ''.join(given) == answer(scene, 'Describe the image.')
        assert right >= 9


def test_the_time_of_other_threads_is_known() -> None:
    """What the threads of llama.cpp compute is counted, and not that of other threads."""
    if usable_cores() < 2:
        pytest.skip('needs two cores')
    with Decoder(MODELS['internvl'][1], DecoderConfig(n_ctx=512, n_threads=2)) as decoder:
        times = ThreadTimes()
        times.begin(0.0, 2, is_change=True)
        decoder.prefill([1] * 400, 0)
        assert times.end() is None
        decoder.trim(0)
        alone, before = time.thread_time(), times.begin(0.1, 2, is_change=False)
        decoder.prefill([1] * 400, 0)
        after = times.end()
        assert after is not None
        assert after - before > 1.05 * (time.thread_time() - alone)


def test_encoder_and_decoder_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """An encoder on the CPU gets half while the decoder works, all cores when it rests."""
    monkeypatch.setattr(threads, 'usable_cores', lambda: 8)
    monkeypatch.setattr(decoder_module, 'usable_cores', lambda: 8)
    monkeypatch.setattr(governed, 'waiting_threads', lambda: 1)
    with Decoder(MODELS['internvl'][1], DecoderConfig(n_ctx=256)) as decoder:
        share = decoder.encoder_threads
        assert share is not None
        assert share() == 7
        decoder.prefill([1, 2, 3], 0)
        n, _ = decoder.n_threads_now
        assert share() == max(1, n // 2)
    with Decoder(MODELS['internvl'][1], DecoderConfig(n_ctx=256, n_threads=2)) as decoder:
        assert decoder.encoder_threads is None  # a number that was set is both's


def test_affinity_limits_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """No more threads than cores that the process may run on."""
    monkeypatch.setattr(os, 'sched_getaffinity', lambda pid: {0, 5, 6})
    assert usable_cores() <= 3


def test_a_control_group_limits_the_cores() -> None:
    """In a control group with the time of one core there is one thread, however many cores."""
    parent = Path('/sys/fs/cgroup/cpu')
    if not parent.is_dir():
        parent = Path('/sys/fs/cgroup')
    group = parent / f'hobot_llamacpp_{os.getpid()}'
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f'control groups cannot be made here: {error.strerror}')
    try:
        if (group / 'cpu.max').exists():
            (group / 'cpu.max').write_text('100000 100000')
        elif (group / 'cpu.cfs_quota_us').exists():
            (group / 'cpu.cfs_quota_us').write_text('100000')
        else:
            pytest.skip('control groups do not limit the processor here')
        script = f'open({str(group / "cgroup.procs")!r}, "w").write("0")\n'
        script += (
            'from hobot_llamacpp_py.engine.threads import usable_cores\nprint(usable_cores())'
        )
        command = [sys.executable, '-c', script]
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert result.stdout == '1\n', result.stderr
    finally:
        group.rmdir()
