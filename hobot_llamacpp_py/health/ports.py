"""Whether the port is free on which the node will listen."""

from __future__ import annotations

from collections.abc import Iterator

from hobot_llamacpp_py.health.check import Case, Result
from hobot_llamacpp_py.health.machine import Machine

_LISTENS = '0A'  # the kernel's number of that state
_PRIVILEGED = 1024


def check(case: Case) -> Iterator[Result]:
    """Look whether somebody listens there already."""
    port = case.port
    if not port:
        yield Result('skipped', 'no port is asked for (http_port)')
    elif port in _listened(case.machine):
        mend = f"take another port, or end who has it: sudo ss -ltnp 'sport = :{port}'"
        yield Result('failure', f'port {port} is in use', mend)
    elif port < (case.machine.number(_LOWEST) or _PRIVILEGED):
        yield Result('warning', f'port {port} is for root only', 'take a port above 1023')
    else:
        yield Result('ok', f'port {port} is free')


_LOWEST = '/proc/sys/net/ipv4/ip_unprivileged_port_start'


def _listened(machine: Machine) -> set[int]:
    """Return the TCP ports at which somebody listens, by whichever protocol of the internet."""
    ports = set()
    for name in ('/proc/net/tcp', '/proc/net/tcp6'):
        for line in machine.text(name).splitlines()[1:]:
            fields = line.split()
            if len(fields) > 3 and fields[3] == _LISTENS:
                try:
                    ports.add(int(fields[1].rpartition(':')[2], 16))
                except ValueError:
                    continue
    return ports
