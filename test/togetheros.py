"""The message packages of TogetheROS that `make test` builds: how a process finds them.

They lie beside the environment and not in it, so that the package is also tested without them.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Mapping

from nano import ROOT

__all__ = ['are_built', 'sourced', 'use_messages']

_PREFIX = ROOT / '.venv' / 'interfaces'
_SITE_PACKAGES = _PREFIX / f'lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages'
_LIBRARIES = _PREFIX / 'lib'


def are_built() -> bool:
    return _SITE_PACKAGES.exists()


def sourced(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a process as it is after its setup.bash was sourced."""
    paths = {'PYTHONPATH': _SITE_PACKAGES, 'LD_LIBRARY_PATH': _LIBRARIES}
    added = {name: f'{path}:{environment.get(name, "")}' for name, path in paths.items()}
    return {**environment, **added}


def use_messages() -> None:
    """Let this process import the packages; where they are not built, nothing changes."""
    if are_built():
        sys.path.append(os.fspath(_SITE_PACKAGES))
    # LD_LIBRARY_PATH is read when a process starts; what is loaded already is not looked for.
    for library in sorted(_LIBRARIES.glob('*.so')):
        ctypes.CDLL(os.fspath(library))
