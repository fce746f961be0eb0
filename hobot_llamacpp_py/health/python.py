"""Python and the packages that are needed for what was chosen."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator

from hobot_llamacpp_py.health.boards import BOARDS, NUMPY_BELOW_2, board_of
from hobot_llamacpp_py.health.check import Case, Result
from hobot_llamacpp_py.health.packages import NEEDED, version_of

OLDEST = (3, 10)


def check(case: Case) -> Iterator[Result]:
    """Look at the versions, and for what is missing."""
    if not case.machine.is_live:
        yield Result('skipped', 'Python and its packages cannot be asked through a folder')
        return
    version = '.'.join(map(str, sys.version_info[:3]))
    numpy, failed = version_of('numpy'), False
    if sys.version_info < OLDEST:
        text = f'Python {version} is older than {OLDEST[0]}.{OLDEST[1]}'
        yield Result('failure', text, 'start it with a newer one: python3.10')
        failed = True
    for name, command in NEEDED.items():
        if importlib.util.find_spec(name) is None:
            failed = True
            yield Result('failure', f'the Python package {name} is not installed', command)
    board = board_of(case.machine)
    wanted = next((other for other in BOARDS if other.suffix == case.encoder_kind), board)
    most = wanted.max_numpy if wanted else 0
    if most and numpy and int(numpy.split('.')[0]) > most:
        failed = True
        text = f'numpy {numpy} is installed, with which the binding of the {wanted.name} breaks'  # type: ignore[union-attr]
        yield Result('failure', text, NUMPY_BELOW_2)
    if version_of('llguidance') == '':
        yield Result(
            'warning',
            'llguidance is not installed: json_schema and grammar cannot be used',
            'pip3 install llguidance',
        )
    if not failed:
        yield Result('ok', f'Python {version}, numpy {numpy or "of unknown version"}')
