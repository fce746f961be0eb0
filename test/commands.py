"""Commands of the system that a test cannot do without, or not everywhere."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest


def run_each(commands: Iterable[str]) -> str:
    """Run one command after the other; return what does not work, or nothing."""
    for command in commands:
        try:
            result = subprocess.run(command.split(), capture_output=True, text=True)
        except FileNotFoundError as error:
            return str(error)
        if result.returncode != 0:
            return f'{command}: {result.stderr.strip()}'
    return ''


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """Have a disk of some size in a new folder; skip the test where that cannot be."""
    folder.mkdir()
    mount = ['mount', '-t', 'tmpfs', '-o', f'size={size}', 'tmpfs', str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip('only root can make a small disk, and not everywhere')
    try:
        yield folder
    finally:
        subprocess.run(['umount', '-l', str(folder)], check=True)


def fill(folder: Path) -> None:
    """Take what room is left on a folder's disk."""
    with (folder / 'other').open('wb', 0) as other, suppress(OSError):
        while True:
            other.write(bytes(4096))
