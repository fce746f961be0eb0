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
    before, started = _times(machine), time.monotonic()
    time.sleep(INTERVAL)
    after, seconds = _times(machine), time.monotonic() - started
    tick = os.sysconf('SC_CLK_TCK')
    shares = {
        pid: (ticks - before[pid][1]) / tick / seconds
        for pid, (_, ticks) in after.items()
        if pid in before
    }
    top = sorted(shares, key=lambda pid: -shares[pid])[:LISTED]
    busy = sum(shares.values())
    names = ', '.join(f'{after[pid][0]} {shares[pid]:.1f}' for pid in top if shares[pid] >= 0.05)
    text = f'others compute on {busy:.1f} of {cores} cores' + (f' ({names})' if names else '')
    if busy > BUSY * cores:
        yield Result('warning', text, _MEND)
    else:
        yield Result('ok', text)


def _times(machine: Machine) -> dict[str, tuple[str, int]]:
    """Return name and processor time, in ticks, of every process but this one."""
    found = {}
    for file in machine.glob('/proc/[0-9]*/stat'):
        text = machine.text(file)
        name, _, rest = text.partition('(')[2].rpartition(')')
        fields = rest.split()
        if len(fields) > 12 and int(file.parent.name) != os.getpid():
            found[file.parent.name] = name, int(fields[11]) + int(fields[12])
    return found
