"""Which ROS 2 there is, and whether this shell knows it."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator

from hobot_llamacpp_py.health.check import Case, Result

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
        level = 'ok' if setups else 'skipped'
        yield Result(
            'ok' if level == 'ok' else 'skipped',
            f'installed: {", ".join(setups) or "no ROS 2 that is told by a folder"}',
        )
        return
    if importlib.util.find_spec('rclpy') is None:
        mend = f'source {setups[0]}' if setups else 'install ROS 2, or use the engine from Python'
        yield Result('failure', 'rclpy cannot be found', mend)
        return
    distribution = os.environ.get('ROS_DISTRO', 'of unknown distribution')
    middleware = os.environ.get('RMW_IMPLEMENTATION', _RMW_DEFAULT)
    domain = os.environ.get('ROS_DOMAIN_ID', '0')
    yield Result('ok', f'ROS 2 {distribution}, {middleware}, domain {domain}')
