"""Which board this is."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ['BOARDS', 'this_board']

BOARDS = {'x5': 'an RDK X5', 's100': 'an RDK S100', 'pc': 'a PC'}
"""The boards by the names that commands and the catalogue use, in words."""
# What the system on chip, or the device tree's model, is called.
_CALLED = {'x5': re.compile(r'\bX5[UHM]?\b', re.I), 's100': re.compile(r'\bS100P?\b', re.I)}
# D-Robotics' own samples go by the same files: boardinfo (S100), socinfo (X5), device tree.
_FILES = ('sys/class/boardinfo/soc_name', 'sys/class/socinfo/soc_name', 'proc/device-tree/model')


def this_board(root: Path = Path('/')) -> str:
    """Return a name of `BOARDS`; any other machine is a PC.

    Args:
        root: the folder in which the machine's /sys and /proc stand.
    """
    for name in _FILES:
        try:
            said = (root / name).read_text('utf-8', 'replace')
        except OSError:
            continue
        for board, called in _CALLED.items():
            if called.search(said):
                return board
    return 'pc'
