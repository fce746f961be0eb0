"""The file that rules are in: whether it has changed since they were read."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

__all__ = ['RulesFile']


class RulesFile:
    """A file as it is now; make another one when it is read again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known = self._seen = _modified(path)

    def has_changed(self) -> bool:
        """Tell once that it has; not while it is being written."""
        modified = _modified(self.path)
        is_stable, self._seen = modified == self._seen, modified
        if modified == self._known or not is_stable:
            return False
        self._known = modified
        return True


def _modified(path: Path) -> tuple[int, int] | None:
    """Return what changes with a file; None if it is gone."""
    with contextlib.suppress(OSError):
        status = os.stat(path)
        return status.st_mtime_ns, status.st_size
    return None
