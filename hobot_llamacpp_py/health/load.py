"""What else runs on the cores."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

from hobot_llamacpp_py.health.check import Case, Result
from hobot_llamacpp_py.health.machine import Machine

INTERVAL = 0.5  # seconds of looking
BUSY = 0.25  # of all cores
LISTED = 3
_MEND = 'end what is not needed, or leave llm_threads at 0, which makes way'


def check(case: Case) -> Iterator[Result]:
    """Name what computes most, and how much of the cores that takes."""
    machine = case.machine
    cores = machine.n_cores() or 1
    load = machine.text('/proc/loadavg').partition(' ')[0]
    if not machine.is_live:
        yield Result('skipped', f'load {load or "unknown"}; who computes is to be seen live only')
        return
    others = Others(machine)
    time.sleep(INTERVAL)
    found = others.cores()
    busy = sum(share for _, share in found)
    names = ', '.join(f'{name} {share:.1f}' for name, share in found[:LISTED] if share >= 0.05)
    text = f'others compute on {busy:.1f} of {cores} cores' + (f' ({names})' if names else '')
    if busy > BUSY * cores:
        yield Result('warning', text, _MEND)
    else:
        yield Result('ok', text)


class Others:
    """What other processes compute from now on; this one and its children are none of them."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._before, self._started = _times(machine), time.monotonic()

    def cores(self) -> list[tuple[str, float]]:
        """Return each one's name and how many cores it took, the busiest first."""
        after, seconds = _times(self._machine), time.monotonic() - self._started
        second = os.sysconf('SC_CLK_TCK') * seconds
        found = []
        for pid, (name, ticks) in after.items():
            _, before = self._before.get(pid, ('', 0))  # it may have begun meanwhile
            found.append((name, (ticks - before) / second))
        return sorted(found, key=lambda item: -item[1])


def _times(machine: Machine) -> dict[str, tuple[str, int]]:
    """Return name and processor time, in ticks, of every process but ours and its children."""
    found = {}
    for file in machine.glob('/proc/[0-9]*/stat'):
        text = machine.text(file)
        name, _, rest = text.partition('(')[2].rpartition(')')
        fields = rest.split()
        if len(fields) > 12 and os.getpid() not in (int(file.parent.name), int(fields[1])):
            found[file.parent.name] = name, int(fields[11]) + int(fields[12])
    return found
