"""Shared memory of Fast DDS whose process was killed: nobody else takes it away.

Each participant of Fast DDS has a segment in /dev/shm and holds a lock beside it while it lives.
One that is killed leaves both, half a megabyte each time; on a robot /dev/shm is memory.
"""

from __future__ import annotations

import fcntl
import re
import time
from contextlib import suppress
from pathlib import Path

__all__ = ['remove_dead_segments']

_LOCK = re.compile(r'(fastrtps|fastdds)_[0-9a-f]{16}_el')  # those with `port` mend themselves
_YOUNG = 5.0  # seconds: it may be about to be locked


def remove_dead_segments() -> None:
    """Remove what killed processes have left, as `fastdds shm clean` does."""
    for lock in Path('/dev/shm').glob('fast*_el'):
        if not _LOCK.fullmatch(lock.name):
            continue
        with suppress(OSError):  # another user's; or gone, or it lives
            if abs(time.time() - lock.stat().st_mtime) < _YOUNG:  # the clock may have been set
                continue
            with lock.open() as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                segment = lock.with_name(lock.name.removesuffix('_el'))
                segment.unlink(missing_ok=True)
                lock.unlink()
