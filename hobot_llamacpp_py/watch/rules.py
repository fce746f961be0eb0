"""Standing questions as people write them down: a YAML file of rules, each of them checked."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from hobot_llamacpp_py.engine import Inquiry
from hobot_llamacpp_py.errors import RuleError
from hobot_llamacpp_py.files import MOST_CHARACTERS, whole_text
from hobot_llamacpp_py.watch.wording import YES_NO, instruction, is_chinese, worded

__all__ = ['KINDS', 'MOST_RULES', 'Rule', 'Value', 'load_rules']

KINDS = ('yes_no', 'choice', 'integer', 'text')
MOST_RULES = 100
MOST_ANSWERS = 1000
_LONGEST = 2000  # characters of a question
_DEEPEST, _MOST_EVENTS = 20, 20_000  # 100 rules of ten answers have half of it
_NAME = re.compile(r'[A-Za-z](?:_?[A-Za-z0-9])*')
_RESERVED = ('enable', 'picture')  # topics and services beside those of the rules

Value = bool | int | str
"""What a rule is about to say: of yes_no, of integer, of choice and text."""


@dataclass(frozen=True)
class Rule:
    """A standing question.

    Attributes:
        name: of its topic.
        kind: of its answer, one of `KINDS`.
        answers: the permitted ones: of a choice; of yes_no, first what means yes.
        range: the smallest and the largest answer of an integer.
        every: 0: it is asked about each picture that differs from the one before; else that many
            seconds lie between two questions, whether the picture differs or not.
        hold: answers in a row that must agree before a change counts.
        min_probability: an answer that is less likely than this counts as none.
        max_tokens: of a text.
        instruction: follows the question, and tells how to answer.
    """

    name: str
    question: str
    kind: str = 'yes_no'
    answers: tuple[str, ...] = ()
    range: tuple[int, int] = (0, 10)
    every: float = 0.0
    hold: int = 2
    min_probability: float = 0.0
    max_tokens: int = 32
    instruction: str = ''

    @cached_property
    def inquiry(self) -> Inquiry:
        """The question as the model is asked it."""
        return Inquiry(worded(self.question, self.instruction), self.answers, self.max_tokens)

    def value(self, answer: str) -> Value:
        """Return what an answer of the model says."""
        if self.kind == 'yes_no':
            return answer == self.answers[0]
        return int(answer) if self.kind == 'integer' else answer


def load_rules(path: Path) -> tuple[Rule, ...]:
    """Read and check a file of rules.

    Raises:
        RuleError: one of them cannot work; names the file, the rule and the reason.
    """
    try:
        content = _read_yaml(path)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise RuleError(f'{path} cannot be read: {_why(error)}') from None
    if not isinstance(content, dict) or set(content) != {'rules'}:
        signs = '' if isinstance(content, dict) else _signs(content)
        must = f'must hold `rules:` and nothing else, then a list of them{signs}'
        raise RuleError(f'{path}: {must}')
    entries = content['rules']
    if not isinstance(entries, list) or not entries:
        must = f'`rules:` must be a list with at least one rule{_signs(entries)}'
        raise RuleError(f'{path}: {must}')
    if len(entries) > MOST_RULES:
        raise RuleError(f'{path}: {len(entries)} rules; {MOST_RULES} at the most')
    rules: list[Rule] = []
    for number, entry in enumerate(entries, 1):
        name = entry.get('name') if isinstance(entry, dict) else None
        shown = f'rule {name!r}' if isinstance(name, str) else f'rule {number}'
        try:
            rule = _rule(entry)
            if any(rule.name == other.name for other in rules):
                raise RuleError('there are two of this name')
        except RuleError as error:
            raise RuleError(f'{path}: {shown}: {error}') from None
        rules.append(rule)
    return tuple(rules)


def _why(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f'it is not UTF-8 ({error.reason} at byte {error.start}): save it as UTF-8'
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        mark, told = error.problem_mark, error.context or ''
        place = f'in line {mark.line + 1}, column {mark.column + 1}'
        hint = 'a text that has `: ` in it, or begins with a sign, belongs in quotes'
        if "'\\t'" in str(error.problem):
            hint = 'indent with spaces, not with tabs'
        elif 'block' in str(error.problem):
            hint = f'what belongs together begins in the same column; {hint}'
        return f'{" ".join(f"{told} {error.problem}".split())} {place}; {hint}'
    return ' '.join(str(error).split())


def _signs(value: object) -> str:
    """Return a hint where the signs of YAML are those of a Chinese keyboard."""
    found = [sign for sign in '：，、【】“”' if sign in str(value)]
    return f'; of YAML are the signs : , [ ] ", not {" ".join(found)}' if found else ''


def _read_yaml(path: Path) -> object:
    text = whole_text(path)
    if text is None:
        raise ValueError(f'more than {MOST_CHARACTERS} characters are too many for rules')
    return yaml.load(text, _Loader)


_COMMENT = re.compile(r'[ \t]+(#[^\s#]\S*)')  # that may be meant as part of a text
_KEPT = ('bool', 'null', 'merge', 'value')  # tags by which a bare word is more than a text


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # PyYAML tells no types
    """Reads YAML without aliases, with which a small file can be made a huge one.

    Numbers are those of YAML 1.2: 10:30, 010 and 2026-01-31 are texts, as they look.
    """

    yaml_implicit_resolvers = {
        first: [(tag, written) for tag, written in known if tag.rpartition(':')[2] in _KEPT]
        for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    _depth = _n_events = 0

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._text = text

    def get_event(self) -> yaml.Event:
        """Take the next part of the text, unless it is one too many."""
        event = super().get_event()
        self._depth += isinstance(event, yaml.CollectionStartEvent)
        self._depth -= isinstance(event, yaml.CollectionEndEvent)
        if isinstance(event, yaml.AliasEvent):
            raise ValueError('aliases (*) are not supported')
        if self._depth > _DEEPEST or self._n_events > _MOST_EVENTS:  # it would take minutes
            raise ValueError('it is nested too deeply, or holds too much, for rules')
        self._n_events += 1
        return event

    def get_single_node(self) -> yaml.Node | None:
        """Take the whole text; maps made of it would hide a key that is there twice."""
        node = super().get_single_node()
        _check_keys(node)
        self._check_ends(node)
        return node

    def _check_ends(self, node: yaml.Node | None) -> None:
        """Check that no text ends where a `#` in it seems to begin a comment."""
        if isinstance(node, yaml.ScalarNode) and node.style is None:
            if found := _COMMENT.match(self._text, node.end_mark.index):
                line = node.end_mark.line + 1
                raise ValueError(
                    f'a comment begins at {found[1]!r} in line {line}: put the text that has a #'
                    ' in it in quotes, and a space behind the # of a comment'
                )
        elif isinstance(node, yaml.CollectionNode):
            for item in node.value:
                for each in item if isinstance(item, tuple) else (item,):
                    self._check_ends(each)


def _check_keys(node: yaml.Node | None) -> None:
    """Check that no map has a key twice, of which YAML would take the last one without a word."""
    if isinstance(node, yaml.MappingNode):
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if len(set(keys)) < len(keys):
            twice = next(key for key in keys if keys.count(key) > 1)
            line = node.start_mark.line + 1
            raise ValueError(f'{twice!r} is there twice in the map that begins in line {line}')
        for _, value in node.value:
            _check_keys(value)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _check_keys(item)


_Loader.add_implicit_resolver(
    'tag:yaml.org,2002:int', re.compile(r'-?(0|[1-9][0-9]*)$'), list('-0123456789')
)
_Loader.add_implicit_resolver(
    'tag:yaml.org,2002:float',
    re.compile(r'-?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?$'),
    list('-.0123456789'),
)
_KEYS = [field.name for field in fields(Rule)]
_ONLY_OF = {
    'answers': ('choice', 'yes_no'),
    'range': ('integer',),
    'max_tokens': ('text',),
    'min_probability': ('yes_no', 'choice', 'integer'),
}


def _rule(entry: object) -> Rule:
    if not isinstance(entry, dict):
        must = 'must be a map with at least `name:` and `question:`'
        raise RuleError(f'{must}{_signs(entry)}')
    for key in entry:
        if key not in _KEYS:
            similar = difflib.get_close_matches(str(key), _KEYS, 1)
            hint = f'; did you mean {similar[0]}?' if similar else f'; known are {_listed(_KEYS)}'
            raise RuleError(f'there is no key {key!r}{hint}')
    given = {key: _CHECKS[key](value) for key, value in entry.items()}
    for key in ('name', 'question'):
        if key not in given:
            raise RuleError(f'{key} is missing')
    kind = given.setdefault('kind', 'yes_no')
    for key, kinds in _ONLY_OF.items():
        if key in given and kind not in kinds:
            raise RuleError(f'{key} belongs to {" and ".join(kinds)}, this is {kind}')
    given['answers'] = _answers(given, kind)
    given.setdefault('hold', 1 if kind == 'text' else Rule.hold)
    told = instruction(kind, given['question'], given['answers'])
    given.setdefault('instruction', told)
    return Rule(**given)


def _answers(given: dict[str, Any], kind: str) -> tuple[str, ...]:
    """Return the permitted answers, none for a text."""
    answers: tuple[str, ...] = given.get('answers', ())
    if kind == 'choice' and len(answers) < 2:
        raise RuleError(f'a choice needs answers: a list of two or more{_signs(answers)}')
    if kind == 'yes_no' and 'answers' in given and len(answers) != 2:
        raise RuleError('answers of yes_no are two: first what means yes, then what means no')
    if kind == 'yes_no':
        return answers or YES_NO[is_chinese(given['question'])]
    if kind == 'integer':
        low, high = given.get('range', Rule.range)
        return tuple(str(number) for number in range(low, high + 1))
    return answers


def _listed(words: list[str]) -> str:
    return ', '.join(words)


# ---------------------------------------------------------------- one check a key


def _name(value: object) -> str:
    _refuse_bool('name', value)
    if not isinstance(value, str) or not _NAME.fullmatch(value) or len(value) > 100:
        raise RuleError(
            f'name {value!r} is no topic name: letters, digits and single underscores between'
            ' them, a letter first'
        )
    if value in _RESERVED:
        raise RuleError(f'the name {value!r} is taken: ~/watch/{value} is something else')
    return value


def _text(key: str, *, empty: bool = False) -> Callable[[object], str]:
    def check(value: object) -> str:
        _refuse_bool(key, value)
        if isinstance(value, float):
            raise RuleError(f'{key}: {value} is a number; put it in quotes, as it is to be')
        if not isinstance(value, (str, int)):
            raise RuleError(f'{key} must be a text')
        text = str(value).strip()
        if '\0' in text or not text.isascii() and text.encode('utf-8', 'ignore').decode() != text:
            raise RuleError(f'{key} {text!r} has a character that no text has')
        if not text and not empty:
            raise RuleError(f'{key} is empty')
        if len(text) > _LONGEST:
            raise RuleError(f'{key} has {len(text)} characters; {_LONGEST} at the most')
        return text

    return check


def _refuse_bool(key: str, value: object) -> None:
    if isinstance(value, bool):
        words = 'yes, on and true' if value else 'no, off and false'
        raise RuleError(f'{key}: YAML reads {words} as the same value; put it in quotes')


def _kind(value: object) -> str:
    if value not in KINDS:
        raise RuleError(f'kind is one of {", ".join(KINDS)}, not {value!r}')
    return str(value)


def _choices(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise RuleError('answers must be a list')
    if len(value) > MOST_ANSWERS:
        raise RuleError(f'{len(value)} answers; {MOST_ANSWERS} at the most')
    answers = tuple(_text('answers')(item) for item in value)
    bare = [answer.rstrip('.。').strip() for answer in answers]
    twice = next((one for one in bare if bare.count(one) > 1), None)
    if twice is not None:
        raise RuleError(f'the answer {twice!r} is there twice')
    if '' in bare:
        raise RuleError('an answer is empty')
    return answers


def _range(value: object) -> tuple[int, int]:
    numbers = value if isinstance(value, list) else []
    if len(numbers) != 2 or not all(type(number) is int for number in numbers):
        raise RuleError(f'range must be two whole numbers, such as [0, 10]{_signs(value)}')
    low, high = numbers
    if not low < high:
        raise RuleError(f'range [{low}, {high}] is empty: first the smaller number')
    if not -(2**31) <= low <= high < 2**31:
        raise RuleError(f'range [{low}, {high}] does not fit the 32 bits of a message')
    if high - low >= MOST_ANSWERS:
        raise RuleError(f'range [{low}, {high}] has more than {MOST_ANSWERS} numbers')
    return low, high


def _number(key: str, low: float, high: float, whole: bool = False) -> Callable[[object], Any]:
    def check(value: object) -> float:
        kinds = (int,) if whole else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds) or value != value:
            raise RuleError(f'{key} must be a {"whole " * whole}number, not {value!r}')
        if not low <= value <= high:
            raise RuleError(f'{key} must be from {low:g} to {high:g}, not {str(value)[:20]}')
        return value if whole else float(value)

    return check


_CHECKS: dict[str, Callable[[object], Any]] = {
    'name': _name,
    'question': _text('question'),
    'kind': _kind,
    'answers': _choices,
    'range': _range,
    'every': _number('every', 0, 86400),
    'hold': _number('hold', 1, 100, whole=True),
    'min_probability': _number('min_probability', 0, 1),
    'max_tokens': _number('max_tokens', 1, 1000, whole=True),
    'instruction': _text('instruction', empty=True),
}
