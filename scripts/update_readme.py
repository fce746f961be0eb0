"""Write the parameter tables of README.md and README_cn.md from the one declaration.

`python scripts/update_readme.py` writes, `--check` only tells whether they are up to date.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from hobot_llamacpp_py.parameters import specs  # noqa: E402

HEADS = {
    'README.md': '| parameter | type | default | range | set at run time | meaning |',
    'README_cn.md': '| 参数 | 类型 | 默认值 | 范围 | 运行时可改 | 含义 |',
}
_TABLE = re.compile(r'(?<=<!-- parameters -->\n).*?(?=<!-- /parameters -->)', re.DOTALL)


def table(readme: str) -> str:
    """Return the table for one of the two files."""
    rows = [HEADS[readme], '|---|---|---|---|---|---|']
    for spec in specs().values():
        default = str(spec.default).lower() if spec.type is bool else str(spec.default)
        cells = (
            f'`{spec.name}`',
            'string' if spec.type is str else spec.type.__name__,
            f'`{default}`' if default else '(empty)',
            spec.range_text,
            {'README.md': 'yes', 'README_cn.md': '是'}[readme] if spec.runtime else '',
            spec.sentence,
        )
        rows.append('| ' + ' | '.join(cell.replace('|', r'\|') for cell in cells) + ' |')
    return '\n'.join(rows) + '\n'


def updated(readme: str) -> str:
    """Return a README's text with the table of today."""
    return _TABLE.sub(lambda _: table(readme), (ROOT / readme).read_text('utf-8'))


def main() -> int:
    stale = [name for name in HEADS if updated(name) != (ROOT / name).read_text('utf-8')]
    if '--check' in sys.argv[1:]:
        for name in stale:
            print(f'{name}: the parameter table is out of date: python scripts/update_readme.py')
        return bool(stale)
    for name in stale:
        (ROOT / name).write_text(updated(name), 'utf-8')
    return 0


if __name__ == '__main__':
    sys.exit(main())
