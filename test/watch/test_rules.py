"""Files of rules: what they mean, and what is said of those that cannot work."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from nano import CONFIG

from hobot_llamacpp_py.errors import RuleError
from hobot_llamacpp_py.watch.rules import MOST_RULES, Rule, load_rules

MINIMAL = 'rules: [{name: a, question: "Is it?"}]'


def load(tmp_path: Path, text: str) -> tuple[Rule, ...]:
    path = tmp_path / 'rules.yaml'
    path.write_text(text, 'utf-8')
    return load_rules(path)


def test_the_example() -> None:
    """The file that comes with the package has a rule of each kind, asked in both languages."""
    rules = {rule.name: rule for rule in load_rules(CONFIG / 'watch.yaml')}
    assert {rule.kind for rule in rules.values()} == {'yes_no', 'choice', 'integer', 'text'}
    red = rules['red_circle']
    assert red.inquiry.question == 'Is there a red circle? Answer yes or no.'
    assert (red.answers, red.hold, red.every, red.min_probability) == (('Yes', 'No'), 2, 0, 0)
    assert rules['left'].inquiry.question == '左边有图形吗？请回答是或否。'
    assert rules['left'].answers == ('是', '否')
    assert rules['star_color'].inquiry.question == (
        'What color is the star? Answer with one of: red, green, blue, yellow, purple, orange,'
        ' none.'
    )
    assert rules['shapes'].answers == ('0', '1', '2', '3')
    assert rules['scene'].inquiry.question == 'Describe the image.'
    assert (rules['scene'].answers, rules['scene'].hold) == ((), 1)


def test_what_answers_mean(tmp_path: Path) -> None:
    """Answers become booleans, numbers and texts; a rule may have its own words for yes and no."""
    text = """
    rules:
      - {name: tor, question: "Ist das Tor offen?", answers: [Ja, Nein], instruction: "Ja, Nein?"}
      - {name: n, question: "How many?", kind: integer, range: [-2, 12]}
      - {name: c, question: 什么颜色？, kind: choice, answers: [红色, 2, 没有]}
      - {name: ja, question: "赤い丸がありますか？"}
      - {name: bare, question: "Is it?", instruction: ''}
    """
    gate, number, choice, japanese, bare = load(tmp_path, text)
    assert gate.inquiry.question == 'Ist das Tor offen? Ja, Nein?'
    assert (gate.value('Ja'), gate.value('Nein')) == (True, False)
    assert number.answers[:3] == ('-2', '-1', '0')
    assert number.value('12') == 12
    assert choice.inquiry.question == '什么颜色？请从中选择：红色、2、没有。'
    assert choice.value('2') == '2'
    assert japanese.answers == ('Yes', 'No')
    assert bare.inquiry.question == 'Is it?'


@pytest.mark.parametrize(
    ('text', 'reason'),
    [
        ('', 'must hold `rules:` and nothing else'),
        ('rules:', '`rules:` must be a list with at least one rule'),
        ('rules: []', '`rules:` must be a list with at least one rule'),
        ('rules: [{name: a, question: b}]\nmore: 1', 'must hold `rules:` and nothing else'),
        ('rules: {', 'in line 1, column 9; a text that has `: `'),
        ('rules:\n\t- name: a', 'in line 2, column 1; indent with spaces, not with tabs'),
        ('rules:\n  - name: a\n     hold: 1', 'column 10; a text that has `: ` in it'),
        ('rules:\n - name: a\n   hold: 1\n  every: 1', 'begins in the same column'),
        ('rules:\n- question: Is #3\n  name: a', "at '#3' in line 2: put the text that has a #"),
        ('rules: [{name: a, question: b, kind: integer, range: [0，3]}]', 'not ，'),
        ('rules: &a [*a]', 'cannot be read: aliases (*) are not supported'),
        ('rules: [3]', 'rule 1: must be a map with at least `name:` and `question:`'),
        ('rules: [{question: b}]', 'rule 1: name is missing'),
        ('rules: [{name: a}]', "rule 'a': question is missing"),
        ('rules: [{name: a, question: ""}]', "rule 'a': question is empty"),
        ('rules: [{name: a, question: [1]}]', "rule 'a': question must be a text"),
        ('rules: [{name: a, question: b, evry: 1}]', "'evry'; did you mean every?"),
        ('rules: [{name: a, question: b, zzz: 1}]', "'zzz'; known are name, question, kind"),
        ('rules: [{name: a, question: b}, {name: a, question: c}]', "rule 'a': there are two of"),
        ('rules: [{name: 1a, question: b}]', "name '1a' is no topic name"),
        ('rules: [{name: a__b, question: b}]', "name 'a__b' is no topic name"),
        ('rules: [{name: a/b, question: b}]', "name 'a/b' is no topic name"),
        ('rules: [{name: 门, question: b}]', "name '门' is no topic name"),
        ('rules: [{name: on, question: b}]', 'name: YAML reads yes, on and true as the same'),
        ('rules: [{name: a, question: "b\\0"}]', 'has a character that no text has'),
        ('rules: [{name: a, question: "\\ud800"}]', 'has a character that no text has'),
        ('rules: [{name: a, question: Is it: open?}]', 'column 34; a text that has `: ` in it'),
        ('rules: [name：a]', 'at least `name:` and `question:`; of YAML are the signs : , [ ] ",'),
        ('rules: [{name: a, question: b, kind: choice, answers: [红，蓝]}]', 'not ，'),
        ('rules: [{name: a, question: b, answers: [0.50, 1]}]', '0.5 is a number; put it in'),
        ('rules: [{name: picture, question: b}]', '~/watch/picture is something else'),
        ('rules: [{name: a, question: b, kind: bool}]', 'kind is one of yes_no, choice, integer'),
        ('rules: [{name: a, question: b, kind: choice}]', 'a choice needs answers'),
        ('rules: [{name: a, question: b, kind: choice, answers: [x]}]', 'a choice needs answers'),
        ('rules: [{name: a, question: b, answers: [x]}]', 'answers of yes_no are two'),
        ('rules: [{name: a, question: b, answers: []}]', 'answers of yes_no are two'),
        ('rules: [{name: a, question: b, answers: [yes, no]}]', 'put it in quotes'),
        ('rules: [{name: a, question: b, answers: x}]', 'answers must be a list'),
        ('rules: [{name: a, question: b, kind: choice, answers: [x, x.]}]', "'x' is there twice"),
        ('rules: [{name: a, question: b, kind: choice, answers: [x, 。]}]', 'an answer is empty'),
        ('rules: [{name: a, question: b, kind: text, answers: [x, y]}]', 'this is text'),
        ('rules: [{name: a, question: b, range: [0, 1]}]', 'range belongs to integer'),
        ('rules: [{name: a, question: b, kind: integer, range: [2, 1]}]', 'range [2, 1] is empty'),
        ('rules: [{name: a, question: b, kind: integer, range: [0]}]', 'two whole numbers'),
        ('rules: [{name: a, question: b, kind: integer, range: [0, 1.5]}]', 'two whole numbers'),
        ('rules: [{name: a, question: b, kind: integer, range: [0, 9999]}]', 'more than 1000'),
        (
            'rules: [{name: a, question: b, kind: integer, range: [2147483647, 2147483648]}]',
            'does not fit the 32 bits',
        ),
        ('rules: [{name: a, question: b, every: -1}]', 'every must be from 0 to 86400'),
        ('rules: [{name: a, question: b, every: .nan}]', 'every must be a number'),
        ('rules: [{name: a, question: b, every: ' + '9' * 400 + '}]', 'from 0 to 86400'),
        ('rules: [{name: a, name: b, question: c}]', "'name' is there twice in the map that"),
        ('rules: [{name: a, question: b, hold: 0}]', 'hold must be from 1 to 100'),
        ('rules: [{name: a, question: b, hold: 1.5}]', 'hold must be a whole number'),
        ('rules: [{name: a, question: b, hold: yes}]', 'hold must be a whole number'),
        ('rules: [{name: a, question: b, min_probability: 2}]', 'min_probability must be from 0'),
        ('rules: [{name: a, question: b, max_tokens: 4}]', 'max_tokens belongs to text'),
        (
            'rules: [' + ', '.join(f'{{name: a{n}, question: b}}' for n in range(101)) + ']',
            f'101 rules; {MOST_RULES} at the most',
        ),
        (f'rules: [{{name: a, question: {"x" * 2001}}}]', '2001 characters; 2000 at the most'),
    ],
)
def test_what_cannot_work(tmp_path: Path, text: str, reason: str) -> None:
    """The file, the rule and the reason are named, in one line."""
    with pytest.raises(RuleError) as error:
        load(tmp_path, text)
    line = str(error.value)
    assert line.startswith(str(tmp_path / 'rules.yaml'))
    assert reason in line
    assert '\n' not in line


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    """Neither are a missing file, a folder, and one that is no text."""
    (tmp_path / 'binary.yaml').write_bytes(b'\xff\xfe\x00rules')
    (tmp_path / 'huge.yaml').write_text('#' * 1_000_001)
    (tmp_path / 'gbk.yaml').write_bytes('rules: 门'.encode('gbk'))
    for name in ('missing.yaml', '', 'binary.yaml', 'huge.yaml', 'gbk.yaml'):
        with pytest.raises(RuleError, match='cannot be read') as error:
            load_rules(tmp_path / name)
    assert str(error.value).endswith('save it as UTF-8')


def test_a_file_that_is_spoilt(tmp_path: Path) -> None:
    """Cut off or changed anywhere, a file has rules or one line that says what is wrong."""
    rng, path = np.random.default_rng(0), tmp_path / 'rules.yaml'
    data = (CONFIG / 'watch.yaml').read_bytes()
    for i in range(300):
        spoilt = bytearray(data[: len(data) * i // 100] if i < 100 else data)
        for at in rng.integers(len(data), size=4 if i >= 100 else 0):
            spoilt[at] = rng.integers(256)
        path.write_bytes(spoilt)
        try:
            assert load_rules(path)
        except RuleError as error:
            assert str(error).startswith(str(path)) and str(error).isprintable()
    path.write_bytes(data)
    assert len(load_rules(path)) > 1


def test_answers_are_what_they_look_like(tmp_path: Path) -> None:
    """What older YAML takes for a number, by sixty or by eight, is a text."""
    answers = ['10:30', '010', '2026-01-31', '0x1F', '1_0', '7']
    written = f'rules: [{{name: a, question: b, kind: choice, answers: [{", ".join(answers)}]}}]'
    (rule,) = load(tmp_path, written)
    assert list(rule.answers) == answers


def test_a_rule_that_is_the_same(tmp_path: Path) -> None:
    """What is written in another order, or with its default, is the same rule."""
    (one,) = load(tmp_path, MINIMAL)
    (two,) = load(tmp_path, 'rules: [{question: "Is it?", hold: 2, kind: yes_no, name: a}]')
    assert one == two
