"""Which ROS 2 there is, and whether this shell knows it."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator

from hobot_llamacpp_py.health.boards import board_of
from hobot_llamacpp_py.health.check import Case, Result

_NONE = 'no setup.bash below /opt/tros or /opt/ros'
_INSTALL_TROS = 'sudo apt update && sudo apt install tros-humble'
_INSTALL_ROS = 'install ROS 2, or use the engine from Python'
_RMW_DEFAULT = 'the default middleware'


def check(case: Case) -> Iterator[Result]:
    """Tell distribution and middleware, and what has to be sourced."""
    found = [
        path for place in ('opt/tros', 'opt/ros') for path in case.machine.glob(f'/{place}/*')
    ]
    setups = [
        f'/{path.relative_to(case.machine.root)}/setup.bash'
        for path in found
        if (path / 'setup.bash').is_file()
    ]
    if not case.machine.is_live:
        if setups:
            yield Result('ok', f'installed: {", ".join(setups)}')
        elif board_of(case.machine):
            yield Result('failure', f'{_NONE}: TogetheROS is not installed', _INSTALL_TROS)
        else:
            yield Result('skipped', f'{_NONE}; ROS 2 may be elsewhere, which a folder hides')
        return
    if importlib.util.find_spec('rclpy') is None:
        install = _INSTALL_TROS if board_of(case.machine) else _INSTALL_ROS
        mend = f'source {setups[0]}' if setups else install
        yield Result('failure', 'rclpy cannot be found', mend)
        return
    distribution = os.environ.get('ROS_DISTRO', 'of unknown distribution')
    middleware = os.environ.get('RMW_IMPLEMENTATION', _RMW_DEFAULT)
    domain = os.environ.get('ROS_DOMAIN_ID', '0')
    yield Result('ok', f'ROS 2 {distribution}, {middleware}, domain {domain}')
