"""Write what lists the node's parameters, from their one declaration.

These are the tables of docs/parameters.md and docs/parameters_cn.md, and config/params.yaml.
`python scripts/update_parameters.py` writes, `--check` only tells whether they are up to date.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from hobot_llamacpp_py.ros.parameter_spec import ParameterSpec, specs_of  # noqa: E402
from hobot_llamacpp_py.ros.parameters import Parameters, specs  # noqa: E402


@dataclass(frozen=True)
class Language:
    """The words of one page."""

    head: str
    empty: str
    yes: str
    range_text: Callable[[ParameterSpec], str]
    sentence: Callable[[ParameterSpec], str]
    titles: dict[str, str]


PAGES = {
    'docs/parameters.md': Language(
        '| parameter | type | default | range | set at run time | meaning |',
        '(empty)',
        'yes',
        lambda spec: spec.range_text,
        lambda spec: spec.sentence,
        {
            'CppParameters': 'As in the C++ node',
            'PromptParameters': 'Questions',
            'PictureParameters': 'Pictures',
            'AnswerParameters': 'Answers',
            'SamplingParameters': 'Sampling',
            'DecoderParameters': 'Decoder',
            'EncoderParameters': 'Vision encoder',
            'RemoteParameters': 'A server in place of the models',
            'OverlayParameters': 'Pictures with answers',
            'WatchParameters': 'Standing questions',
            'ServerParameters': 'HTTP server',
        },
    ),
    'docs/parameters_cn.md': Language(
        '| 参数 | 类型 | 默认值 | 范围 | 运行时可改 | 含义 |',
        '（空）',
        '是',
        lambda spec: spec.range_in('、', '{} 到 {}', '至少 {}'),
        lambda spec: spec.sentence_cn,
        {
            'CppParameters': '与 C++ 节点相同的参数',
            'PromptParameters': '问题',
            'PictureParameters': '图像',
            'AnswerParameters': '回答',
            'SamplingParameters': '采样',
            'DecoderParameters': '解码器',
            'EncoderParameters': '视觉编码器',
            'RemoteParameters': '由服务器代替模型',
            'OverlayParameters': '带回答的图片',
            'WatchParameters': '常设问题',
            'ServerParameters': 'HTTP 服务器',
        },
    ),
}
_TABLES = re.compile(r'(?<=<!-- parameters -->\n).*?(?=<!-- /parameters -->)', re.DOTALL)

PARAMS_FILE = 'config/params.yaml'
PARAMS_HEAD = """\
# Every parameter of the node and its default (written by scripts/update_parameters.py).
#
# Copy the file, keep the lines that you change, and start with it:
#   ros2 run hobot_llamacpp_py hobot_llamacpp_py --ros-args --params-file my_params.yaml
#   ros2 launch hobot_llamacpp_py llama_vlm.launch.py params_file:=my_params.yaml
# In a launch, a line that you leave in wins over what the launch file sets (llm_threads,
# is_shared_mem_sub, cute_words, ...); launch arguments that you give win over the line, and
# feed_type is always the launch file's.
/**:
  ros__parameters:
"""


def tables(words: Language) -> str:
    """Return a section with a table for each group of parameters."""
    sections = []
    for group in reversed(Parameters.__bases__):
        rows = [f'\n## {words.titles[group.__name__]}\n', words.head, '|---|---|---|---|---|---|']
        rows += [_row(spec, words) for spec in specs_of(group).values()]
        sections.append('\n'.join(rows) + '\n')
    return ''.join(sections) + '\n'


def _row(spec: ParameterSpec, words: Language) -> str:
    default = str(spec.default).lower() if spec.type is bool else str(spec.default)
    cells = (
        f'`{spec.name}`',
        'string' if spec.type is str else spec.type.__name__,
        f'`{default}`' if default else words.empty,
        words.range_text(spec),
        words.yes if spec.runtime else '',
        words.sentence(spec).replace('<', r'\<'),  # GitHub takes <topic> for HTML
    )
    return '| ' + ' | '.join(cell.replace('|', r'\|') for cell in cells) + ' |'


def params_file() -> str:
    """Return the parameters as ROS reads them from a file."""
    return PARAMS_HEAD + '\n'.join(_entry(spec) for spec in specs().values())


def _entry(spec: ParameterSpec) -> str:
    # JSON is YAML, and quotes the texts that YAML would take for something else.
    value = json.dumps(spec.default, ensure_ascii=False)
    limits = f' ({spec.range_text})' if spec.range_text else ''
    comment = fill(spec.sentence + limits, 95, initial_indent='    # ', subsequent_indent='    # ')
    return f'{comment}\n    {spec.name}: {value}\n'


def up_to_date() -> dict[str, str]:
    """Return the content that each of the files should have."""
    files = {PARAMS_FILE: params_file()}
    for page, words in PAGES.items():
        text = (ROOT / page).read_text('utf-8')
        files[page] = _TABLES.sub(lambda _, words=words: tables(words), text)
    return files


def main() -> int:
    stale = {
        name: text
        for name, text in up_to_date().items()
        if not (ROOT / name).exists() or (ROOT / name).read_text('utf-8') != text
    }
    if '--check' in sys.argv[1:]:
        for name in stale:
            print(f'{name} is out of date: python scripts/update_parameters.py')
        return bool(stale)
    for name, text in stale.items():
        (ROOT / name).write_text(text, 'utf-8')
    return 0


if __name__ == '__main__':
    sys.exit(main())
