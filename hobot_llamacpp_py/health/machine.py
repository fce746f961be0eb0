"""What the kernel tells of a machine: of this one, or of one whose files lie in a folder."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

__all__ = ['THIS', 'Machine']


class Machine(NamedTuple):
    """A machine as its /proc, /sys and /etc show it.

    Attributes:
        root: the folder in which these stand.
    """

    root: Path = Path('/')

    @property
    def is_live(self) -> bool:
        """Whether it is the one that this runs on, so that more than its files can be asked."""
        return self.root == Path('/')

    def path(self, name: str) -> Path:
        """Return where a file of the machine lies, named by its absolute path there."""
        return self.root / name.lstrip('/')

    def glob(self, pattern: str) -> list[Path]:
        """Return the files that fit a pattern, sorted as people count."""
        found = self.root.glob(pattern.lstrip('/'))
        return sorted(found, key=lambda path: (len(path.name), str(path)))

    def text(self, name: str | Path) -> str:
        """Return a file's text without zeros and space around it, '' if it cannot be read."""
        try:
            data = (self.path(name) if isinstance(name, str) else name).read_bytes()
        except OSError:
            return ''
        return data.decode('utf-8', 'replace').replace('\0', ' ').strip()

    def number(self, name: str | Path) -> int | None:
        """Return the whole number that a file holds, None if it holds none."""
        try:
            return int(self.text(name))
        except ValueError:
            return None

    def fields(self, name: str) -> dict[str, str]:
        """Return the lines `name: value` of a file, the first one of each name."""
        found: dict[str, str] = {}
        for line in self.text(name).splitlines():
            key, colon, value = line.partition(':')
            if colon:
                found.setdefault(key.strip(), value.strip())
        return found

    def cpu_flags(self) -> frozenset[str]:
        """Return what the processor can do, in the kernel's words."""
        fields = self.fields('/proc/cpuinfo')
        return frozenset((fields.get('flags') or fields.get('Features') or '').split())

    @property
    def is_arm(self) -> bool:
        """Whether the processor is of the kind that the boards have."""
        return 'Features' in self.fields('/proc/cpuinfo')

    def n_cores(self) -> int:
        """Return how many processors there are, 0 if that cannot be read."""
        text = self.text('/proc/cpuinfo')
        return len(re.findall(r'^processor\s*:', text, re.MULTILINE))

    def control_groups(self, controller: str) -> Iterator[tuple[Path, bool]]:
        """Give the folders of this process's control groups that may limit something, inner first.

        Args:
            controller: what is limited: cpu, memory.

        Yields:
            a folder, and whether its files are those of version 1.
        """
        for line in self.text('/proc/self/cgroup').splitlines():
            if line.count(':') < 2:
                continue
            _, controllers, group = line.split(':', 2)
            if controllers and controller not in controllers.split(','):
                continue
            top = self.path('/sys/fs/cgroup')
            if controllers:
                top /= controller
            folder = top / group.lstrip('/')
            yield folder, bool(controllers)
            for outer in folder.parents:
                if not outer.is_relative_to(top):
                    break
                yield outer, bool(controllers)


THIS = Machine()
"""The machine that this runs on."""
