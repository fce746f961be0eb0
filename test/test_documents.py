"""The documents: complete in both languages, and true where a test can tell."""

import ast
import json
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from nano import ROOT

from hobot_llamacpp_py.ros.parameters import specs

# Written in one language: what changed, and how the emulated boards are made.
ONE_LANGUAGE = {'CHANGELOG.md', 'test/board/README.md'}
# Its Chinese page links to the list of modules instead of repeating it.
CODE_BY_REFERENCE = {'docs/architecture.md'}
MOST_WORDS_OF_README = 1000
TROUBLESHOOTING = 'docs/troubleshooting.md'
# What it quotes of llama.cpp, Python and pip, and names of topics and settings.
NOT_OURS = {
    '… model is corrupted or incomplete',
    "No module named 'llama_cpp'",
    'error: externally-managed-environment',
    '/llama_cpp_node',
    'once',
}
PAGES = sorted(
    path.relative_to(ROOT)
    for path in ROOT.rglob('*.md')
    if not any(part.startswith('.') for part in path.relative_to(ROOT).parts)
)
ENGLISH = [
    path for path in PAGES if not path.stem.endswith('_cn') and str(path) not in ONE_LANGUAGE
]


@dataclass
class Page:
    """What a page in another language has to have as well."""

    headings: list[int] = field(default_factory=list)
    """Their levels."""
    items: int = 0
    """Entries of lists, and paragraphs that begin in bold."""
    tables: list[list[tuple[int, list[str]]]] = field(default_factory=list)
    """Of each row: how many cells, and what stands in backticks in the first one."""
    code: list[str] = field(default_factory=list)
    """Lines of code blocks, without comments."""
    anchors: set[str] = field(default_factory=set)
    """What a link may name behind the #."""


def read(path: Path) -> Page:
    """Take a page apart."""
    page, in_fence, last = Page(), False, ''
    for line in (ROOT / path).read_text('utf-8').splitlines():
        if line.startswith('```'):
            in_fence = not in_fence
        elif in_fence or re.match(r' {4,}\S', line):
            code = re.sub(r'(^|\s+)#( .*|$)', '', line)
            page.code += [code.strip()] if code.strip() else []
        elif heading := re.match(r'(#+) (.*)', line):
            page.headings.append(len(heading[1]))
            page.anchors.add(anchor(heading[2]))
        elif line.startswith('|'):
            if not last.startswith('|'):
                page.tables.append([])
            cells = re.split(r'(?<!\\)\|', line)[1:-1]
            page.tables[-1].append((len(cells), sorted(re.findall('`([^`]+)`', cells[0]))))
        elif re.match(r'- |\d+\. ', line) or (line.startswith('**') and not last):
            page.items += 1
        last = line
    return page


def anchor(heading: str) -> str:
    """Return the name that GitHub gives to a heading."""
    return re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-')


def twin(path: Path) -> Path:
    """Return where the Chinese page of an English one is."""
    return path.with_name(f'{path.stem}_cn.md')


def same_code(english: str, chinese: str) -> bool:
    """Tell whether two lines differ in what is said to a person only: quoted texts and <names>."""
    pattern = re.escape(re.sub(r'<[^>]*>', '<>', chinese))
    # A quoted text with Chinese in it may be any text in the same quotes.
    pattern = re.sub(r"""(["'])((?!\1).)*[\u4e00-\u9fff]((?!\1).)*\1""", r'\1[^\1]*\1', pattern)
    return bool(re.fullmatch(pattern, re.sub(r'<[^>]*>', '<>', english)))


def commands(pattern: str) -> set[str]:
    """Return what a pattern finds in all pages but the changelog."""
    texts = ((ROOT / path).read_text('utf-8') for path in PAGES if path.name != 'CHANGELOG.md')
    return {name for text in texts for name in re.findall(pattern, text)}


@pytest.mark.parametrize('path', ENGLISH, ids=str)
def test_chinese_page_says_the_same(path: Path) -> None:
    """A page has a Chinese twin with the same headings, tables and commands."""
    assert (ROOT / twin(path)).exists()
    ours, theirs = read(path), read(twin(path))
    assert ours.headings == theirs.headings
    assert ours.items == theirs.items
    assert ours.tables == theirs.tables
    if str(path) not in CODE_BY_REFERENCE:
        pairs = list(zip(ours.code, theirs.code, strict=False))
        assert [pair for pair in pairs if not same_code(*pair)][:3] == []
        assert len(ours.code) == len(theirs.code)
    assert f'[中文]({twin(path).name})' in (ROOT / path).read_text('utf-8')
    assert f'[English]({path.name})' in (ROOT / twin(path)).read_text('utf-8')


def test_chinese_pages_have_an_english_one() -> None:
    """No page is in Chinese only."""
    chinese = [path for path in PAGES if path.stem.endswith('_cn')]
    assert chinese == sorted(twin(path) for path in ENGLISH)


@pytest.mark.parametrize('path', PAGES, ids=str)
def test_links_lead_somewhere(path: Path) -> None:
    """A link to a file or a heading of this repository finds it; no placeholder is left."""
    text = (ROOT / path).read_text('utf-8')
    assert not re.findall(r'@[A-Z]+@', text)
    links = re.findall(r'\]\(([^)\s]+)\)', text) + re.findall(r'(?:src|href)="([^"]+)"', text)
    for link in links:
        name, _, part = link.partition('#')
        if ':' in name:
            continue
        target = ((ROOT / path).parent / name).resolve() if name else ROOT / path
        assert target.exists(), link
        if part:
            assert part in read(target).anchors, link


def test_readme_is_short() -> None:
    """The README is read in a few minutes; what is longer has a page of its own."""
    assert len((ROOT / 'README.md').read_text('utf-8').split()) <= MOST_WORDS_OF_README


def test_commands_exist() -> None:
    """Every executable and every make target that a page tells to run is there."""
    strings = {
        node.value
        for node in ast.walk(ast.parse((ROOT / 'setup.py').read_text('utf-8')))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    executables = {text.partition(' = ')[0] for text in strings if ' = ' in text}
    assert sorted(commands('ros2 run hobot_llamacpp_py (\\w+)') - executables) == []

    makefile = (ROOT / 'Makefile').read_text('utf-8')
    targets = set(re.findall(r'^([a-z0-9-]+):', makefile, re.MULTILINE))
    assert sorted(commands(r'(?m)(?:^ {4}|`)make ([a-z][\w-]*)') - targets) == []


def test_messages_are_quoted_as_they_are() -> None:
    """What the troubleshooting page quotes is what the node and bootstrap.sh say."""
    said = '\n'.join(messages())
    wrong = []
    for row in re.findall(
        r'^\|(.*?)\|', (ROOT / TROUBLESHOOTING).read_text('utf-8'), re.MULTILINE
    ):
        for message in set(re.findall('`([^`]+)`', row)) - NOT_OURS:
            for part in re.split(r'…|: |; ', message):
                pattern = re.sub(r'\d+', r'(?:\\d+|…)', re.escape(part.strip()))
                wrong += [] if re.search(pattern, said) else [part]
    assert wrong == []


def messages() -> list[str]:
    """Return all texts of the package, with … for what is put in, and bootstrap.sh."""
    found = []
    for path in (ROOT / 'hobot_llamacpp_py').rglob('*.py'):
        for node in ast.walk(ast.parse(path.read_text('utf-8'))):
            parts = node.values if isinstance(node, ast.JoinedStr) else [node]
            texts = [part.value if isinstance(part, ast.Constant) else '…' for part in parts]
            found.append(re.sub('%[sd]', '…', ''.join(map(str, texts))))
    scripts = [ROOT / 'scripts' / name for name in ('bootstrap.sh', 'progress.sh')]
    script = '\n'.join(path.read_text('utf-8') for path in scripts)
    return [*found, re.sub(r'\$\([^)]*\)|\$\{?\w+\}?', '…', script)]


def test_parameters_are_explained_in_both_languages() -> None:
    """Each parameter has a sentence in English, and one in Chinese with full-width punctuation."""
    for spec in specs().values():
        assert spec.sentence.isascii(), spec.name
        assert re.search('[\u4e00-\u9fff]', spec.sentence_cn), spec.name
        assert not re.search('[\u4e00-\u9fff][,:;?!(]', spec.sentence_cn), spec.name


def test_lists_of_parameters_are_up_to_date() -> None:
    """Both pages of parameters and config/params.yaml list them as they are declared."""
    script = ROOT / 'scripts' / 'update_parameters.py'
    result = subprocess.run([sys.executable, script, '--check'], capture_output=True, text=True)
    assert (result.stdout, result.returncode) == ('', 0)


@pytest.mark.parametrize('name', ['python.md', 'python_cn.md'])
def test_python_program_runs(name: str) -> None:
    """The other Python examples are one program, which says what is in the picture."""
    pytest.importorskip('llguidance')
    page = (ROOT / 'docs' / name).read_text('utf-8')
    program = ''.join(part.split('```')[0] for part in page.split('```python\n')[2:])
    result = subprocess.run(
        [sys.executable, '-c', program], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    first, color, sentence, *verdicts = result.stdout.splitlines()
    assert first.startswith('There are three shapes. stop ')
    assert json.loads(color)['color'] in ('red', 'green', 'blue')  # it has never seen JSON
    assert sentence == 'The circle is red.'
    assert verdicts[0].startswith('What color is the circle? The circle is red 0.9')
    assert verdicts[1].startswith('Is there a star? Answer yes or no. Yes 0.9')


def test_python_example_runs() -> None:
    """The first Python example answers rightly when it is run as it stands."""
    page = (ROOT / 'docs' / 'python.md').read_text('utf-8')
    example = page.split('```python\n')[1].split('```')[0]
    assert len([line for line in example.splitlines() if line.strip()]) <= 6

    result = subprocess.run(
        [sys.executable, '-c', example], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == (
        'There is a yellow star at the top, a red circle on the left'
        ' and a blue square on the right.'
    )
