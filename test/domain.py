"""A ROS domain that no other test on this machine uses at the same time."""

from __future__ import annotations

import fcntl
import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def own_domain() -> Iterator[int]:
    """Claim a domain id until the end of the block."""
    ids = list(range(1, 102))  # beyond 101 ports of the system are in the way
    random.shuffle(ids)
    for domain in ids:
        with (Path(tempfile.gettempdir()) / f'ros-domain-{domain}.lock').open('w') as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            yield domain
            return
    raise RuntimeError('all ROS domains of this machine are in use')
