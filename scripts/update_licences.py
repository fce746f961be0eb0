#!/usr/bin/env python3
"""Write the tables of docs/licences.md and docs/licences_cn.md, of what is installed in .venv.

    .venv/bin/python scripts/update_licences.py [--check]

What another Python takes in the place of something keeps what the page says of it.
"""

from __future__ import annotations

import importlib.metadata
import re
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / 'docs' / name for name in ('licences.md', 'licences_cn.md')]
RUN = ('pc', 'board', 'board_onnx', 'web', 'remote', 'chat', 'models', 'overlay', 'plot', 'bench')
DEVELOP = ('test', 'web_test', 'interfaces', 'build')
"""Files of requirements: what runs, and what is for tests and for compiling only."""
SHARE = Path(sys.prefix) / 'share'
NAMED = {  # as the metadata has them
    '3-Clause BSD License': 'BSD-3-Clause',
    'Apache': 'Apache-2.0',
    'Apache 2.0': 'Apache-2.0',
    'Apache License 2.0': 'Apache-2.0',
    'Apache License, Version 2.0': 'Apache-2.0',
    'Apache Software License': 'Apache-2.0',
    'BSD 3-Clause License': 'BSD-3-Clause',
    'BSD License': 'BSD',
    'GNU General Public License (GPL)': 'GPL',
    'MIT License': 'MIT',
    'Mozilla Public License 2.0 (MPL 2.0)': 'MPL-2.0',
    'Python Software Foundation License': 'PSF-2.0',
    'zlib License': 'Zlib',
}
SPDX = re.compile(r'[\w.+-]+( (OR|AND) [\w.+-]+)*')
SILENT = {
    **dict.fromkeys(('ros-fastcdr', 'ros-fastrtps'), 'Apache-2.0'),
    **dict.fromkeys(('setuptools', 'exceptiongroup', 'tomli'), 'MIT'),
}
"""What metadata do not tell: by the licence file, and of what Python 3.10 takes besides."""


def pinned(sets: Iterable[str]) -> set[str]:
    """Return the names of the packages in some files of requirements."""
    names = set()
    for name in sets:
        text = (ROOT / f'requirements/{name}.txt').read_text('utf-8')
        names |= {found.lower() for found in re.findall(r'(?m)^([\w.-]+)(?:\[\w+\])?==', text)}
    return names


def licence(name: str) -> str | None:
    """Return the licence of a package, None if it is not installed."""
    try:
        metadata = importlib.metadata.metadata(name)
    except importlib.metadata.PackageNotFoundError:
        return SILENT.get(name)
    if name.startswith('ros-') and (of_ros := _of_ros(name)):
        return of_ros
    given = metadata.get('License-Expression') or metadata.get('License') or ''
    given = NAMED.get(given.strip(), given.strip())
    if SPDX.fullmatch(given):
        return given
    classifiers = metadata.get_all('Classifier') or []
    named = [text.split(' :: ')[-1] for text in classifiers if text.startswith('License :: ')]
    return ' OR '.join(NAMED.get(text, text) for text in named) or SILENT.get(name)


def _of_ros(name: str) -> str:
    package = re.sub('^ros-(jazzy-)?', '', name).replace('-', '_')
    path = SHARE / package / 'package.xml'
    if not path.is_file():
        return ''
    found = [element.text or '' for element in ElementTree.parse(path).findall('license')]
    return ' AND '.join(dict.fromkeys(NAMED.get(text, text) for text in found))


def read(page: str) -> dict[str, str]:
    """Return what a page says: the licence by package."""
    rows = re.findall(r'(?m)^\| ([^`|]+) \| (`.*`) \|$', page)
    return {name: licence for licence, names in rows for name in re.findall('`([^`]+)`', names)}


def table(names: Iterable[str], before: dict[str, str]) -> str:
    """Return the rows of a table, a licence each."""
    rows: dict[str, list[str]] = {}
    for name in sorted(names):
        found = licence(name) or before.get(name)
        if found is None:
            sys.exit(f'error: {name} is not installed, or has no licence in its metadata')
        rows.setdefault(found, []).append(f'`{name}`')
    return ''.join(f'| {key} | {", ".join(rows[key])} |\n' for key in sorted(rows, key=str.lower))


def main() -> int:
    run = pinned(RUN)
    is_check, changed = '--check' in sys.argv, False
    for path in PAGES:
        old = path.read_text('utf-8')
        tables = iter((table(run, read(old)), table(pinned(DEVELOP) - run, read(old))))
        new = re.sub(
            r'(?m)(?<=^\|---\|---\|\n)(\|.*\n)*', lambda _, tables=tables: next(tables), old
        )
        if new != old:
            changed = True
            print(f'{path.relative_to(ROOT)} {"is out of date" if is_check else "written"}')
            if not is_check:
                path.write_text(new, 'utf-8')
    return changed and is_check


if __name__ == '__main__':
    sys.exit(main())
