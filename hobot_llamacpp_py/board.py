"""Which board this is."""

from __future__ import annotations

from pathlib import Path

__all__ = ['BOARDS', 'this_board']

BOARDS = {'x5': 'an RDK X5', 's100': 'an RDK S100', 'pc': 'a PC'}
"""The boards by the names that commands and the catalogue use, in words."""


def this_board(root: Path = Path('/')) -> str:
    """Return a name of `BOARDS`, by what the device tree says; any other machine is a PC."""
    text = ''
    for name in ('model', 'compatible'):
        try:
            text += (root / 'proc/device-tree' / name).read_text('utf-8', 'replace').lower()
        except OSError:
            continue
    return next((board for board in BOARDS if f'rdk {board}' in text or f'-{board}' in text), 'pc')
