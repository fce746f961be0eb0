"""Structured answers: what the user asks for, a schema or a grammar.

A `ConstraintCompiler` belongs to one vocabulary and makes a `Matcher` of it for each answer. The
work is llguidance's, which reads JSON Schema and grammars in Lark's notation.
"""

from __future__ import annotations

import functools
import json
import os
import re
import signal
import sys
from pathlib import Path
from typing import Any, NoReturn

from hobot_llamacpp_py.config import Constraint
from hobot_llamacpp_py.errors import ConstraintError

__all__ = ['check', 'grammar', 'json_schema', 'llguidance_form']

# The keywords whose values are schemas: in a list, by name, or by themselves.
LISTS = ('prefixItems', 'anyOf', 'oneOf', 'allOf')
MAPS = ('properties', 'patternProperties', '$defs', 'definitions')
SINGLE = ('items', 'additionalProperties')
_REFERRING = {'$ref', 'anyOf', 'oneOf'}
_OF_OBJECTS = {'properties', 'patternProperties', 'additionalProperties', 'required'}

_MOST_TEXT = 1 << 18  # bytes
_LARGEST_INTEGER = 2**53 - 1  # that all who read JSON read as it is
_FRACTION = 1e-6
# Bytes of a constant as JSON: from 35 on llguidance 1.6.1 gets one with escapes wrong.
_MOST_ESCAPED = 32
_CHECKED = 32  # constraints of which it is remembered that they are good
_TRIAL = Path(__file__).with_name('constraint_trial.py')
_TRIAL_SECONDS = 5.0  # the trial ends itself by its own clock, which stands while others compute
_SIGNALS: dict[int, str] = {
    signal.SIGPROF: 'it takes too long to compile',
    signal.SIGABRT: 'it takes too much memory to compile',
    signal.SIGKILL: 'it takes too much memory to compile',
    signal.SIGSEGV: 'it is nested too deeply, or its references lead through too many others',
}
_LARK_TEXTS = re.compile(r'//[^\n]*|#[^\n]*|"(?:\\.|[^"\\\n])*"|/(?:\\.|[^/\\\n])+/')
_LARK_REFUSED = {
    '<': 'a special token cannot be part of an answer',
    'stop': 'stop= is not supported, suffix= is',
    'max_tokens': 'max_tokens= is not supported',
}


def json_schema(schema: Any) -> Constraint:
    """Return the constraint of answers that are JSON and valid by a schema.

    JSON is compact, its properties come in the schema's order; `x-guidance` in the schema, as
    llguidance documents it, may say otherwise. What small models lose themselves in is not said,
    unless the schema asks for it: properties that it does not name, numbers of endless digits.

    Args:
        schema: JSON text, a dict, or anything with a `model_json_schema`, as pydantic's models.

    Raises:
        ConstraintError: it is no JSON; whether it is a schema, `check` tells.
    """
    if hasattr(schema, 'model_json_schema'):
        schema = schema.model_json_schema()
    try:
        if isinstance(schema, str):
            _check_size('json_schema', schema)
            schema = json.loads(schema, parse_constant=_no_number)
        if not isinstance(schema, dict):
            raise ConstraintError(f'json_schema: # is {json.dumps(schema)[:40]}, not an object')
        given = json.dumps(schema, allow_nan=False)
        schema = _tamed(schema, closes=not _merges(schema))
        own = schema.get('x-guidance', {})
        if isinstance(own, dict):
            schema = {**schema, 'x-guidance': {'whitespace_flexible': False, **own}}
        text = json.dumps(schema, allow_nan=False)
    except RecursionError:
        raise ConstraintError('json_schema is nested too deeply') from None
    except (TypeError, ValueError) as error:
        raise ConstraintError(f'json_schema is no JSON: {error}') from None
    _check_size('json_schema', text)
    return Constraint('json_schema', text, given)


def grammar(text: str) -> Constraint:
    """Return the constraint of answers that follow a grammar, in GBNF or in Lark's notation.

    GBNF begins with its rule `root`, Lark with `start`; which one it is tells the `::=` of GBNF.

    Raises:
        ConstraintError: it is no GBNF; says where. Whether it is Lark, `check` tells.
    """
    _check_size('grammar', text)
    if '::=' in text:
        from hobot_llamacpp_py.engine.gbnf import gbnf_to_lark

        return Constraint('grammar', gbnf_to_lark(text))
    plain = _LARK_TEXTS.sub('', text)
    for found in re.finditer(r'<|\b(?:stop|max_tokens)(?=\s*=)', plain):
        line = plain.count('\n', 0, found.start()) + 1
        raise ConstraintError(f'grammar: line {line}: {_LARK_REFUSED[found[0]]}')
    return Constraint('grammar', text)


def _tamed(schema: Any, *, closes: bool) -> Any:
    """Return a schema that allows less, wherever it leaves something open; never nothing at all.

    Args:
        closes: objects have the properties that are named, if nothing is said of others. (Not
            where schemas are merged: each would forbid what the others name.)
    """
    if not isinstance(schema, dict):
        return schema
    least = max(_numbers(schema, 'minimum', 'exclusiveMinimum'), default=None)
    most = min(_numbers(schema, 'maximum', 'exclusiveMaximum'), default=None)
    tamed = dict(schema)
    if least is not None and most is not None and 0 < most - least < 1:
        # llguidance lets through a whole number that bounds, but is not in, a range like that.
        step = min(_FRACTION, (most - least) / 1000)
        if tamed.pop('exclusiveMinimum', None) is not None:
            tamed['minimum'] = max(least, schema['exclusiveMinimum'] + step)
        if tamed.pop('exclusiveMaximum', None) is not None:
            tamed['maximum'] = min(most, schema['exclusiveMaximum'] - step)
    for keyword, value in schema.items():
        if keyword in MAPS and isinstance(value, dict):
            tamed[keyword] = {name: _tamed(part, closes=closes) for name, part in value.items()}
        elif keyword in LISTS and isinstance(value, list):
            tamed[keyword] = [_tamed(part, closes=closes) for part in value]
        elif keyword in SINGLE:
            tamed[keyword] = _tamed(value, closes=closes)
        elif keyword in ('const', 'enum'):
            _check_exact(value)
    kinds = schema.get('type')
    kinds = kinds if isinstance(kinds, list) else [kinds]
    if not schema.keys() & {'enum', 'const', '$ref', 'multipleOf', 'anyOf', 'oneOf'}:
        if 'integer' in kinds and 'number' not in kinds:
            if least is None and (most is None or most > -_LARGEST_INTEGER):
                tamed['minimum'] = -_LARGEST_INTEGER
            if most is None and (least is None or least < _LARGEST_INTEGER):
                tamed['maximum'] = _LARGEST_INTEGER
        # Which llguidance knows for numbers from 0 on only; and a narrow range may have none.
        is_wide = most is None or least is None or most - least >= 2 * _FRACTION
        if 'number' in kinds and is_wide and least is not None and least >= 0:
            tamed['multipleOf'] = _FRACTION
        if closes and isinstance(schema.get('properties'), dict):
            required = schema.get('required')
            required = required if isinstance(required, list) else []
            if {str(name) for name in required} <= schema['properties'].keys():
                tamed.setdefault('additionalProperties', False)
    return tamed


def _numbers(schema: dict[str, Any], *keywords: str) -> list[float]:
    """Return those values of some keywords that are numbers."""
    values = (schema.get(keyword) for keyword in keywords)
    return [v for v in values if isinstance(v, (int, float)) and not isinstance(v, bool)]


def _check_exact(value: Any) -> None:
    """Refuse a value that an answer could not hold: llguidance would write another."""
    if isinstance(value, (dict, list)):
        for part in value.values() if isinstance(value, dict) else value:
            _check_exact(part)
    elif isinstance(value, int) and abs(value) > _LARGEST_INTEGER:
        raise ConstraintError(
            f'json_schema: {value} cannot be told exactly, only up to {_LARGEST_INTEGER}'
        )
    elif isinstance(value, str):
        text = json.dumps(value, ensure_ascii=False)
        if len(text.encode('utf-8', 'replace')) > _MOST_ESCAPED and '\\' in text:
            raise ConstraintError(
                f'json_schema: {text[:40]} cannot be told exactly: a constant of more than'
                f' {_MOST_ESCAPED} bytes may have no quotation mark, backslash or line break'
            )


def _merges(schema: Any) -> bool:
    """Tell whether anywhere in a schema several say which properties one object has."""
    if isinstance(schema, list):
        return any(map(_merges, schema))
    if not isinstance(schema, dict):
        return False
    keywords = schema.keys()
    several = len(keywords & _REFERRING) + bool(keywords & _OF_OBJECTS) > 1
    return several or 'allOf' in schema or any(map(_merges, schema.values()))


def _check_size(what: str, text: str) -> None:
    if len(text) > _MOST_TEXT:
        raise ConstraintError(f'{what} is longer than {_MOST_TEXT >> 10} KiB')


def _no_number(name: str) -> NoReturn:
    raise ValueError(f'{name} is no number of JSON')


@functools.lru_cache(maxsize=_CHECKED)
def check(constraint: Constraint) -> None:
    """Check that answers can follow a constraint; from any thread, in at most 2 s.

    It is compiled and tried in a process of its own, since llguidance may end the process over
    it, or hang, or take all memory.

    Raises:
        ConstraintError: they cannot; says what it is about, and where.
    """
    import subprocess  # which takes its time, and most nodes need none of it

    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    try:
        trial = subprocess.run(
            [sys.executable, '-S', str(_TRIAL), json.dumps([LISTS, MAPS, SINGLE])],
            input=llguidance_form(constraint).encode(),
            capture_output=True,
            timeout=_TRIAL_SECONDS,
            # Where memory ends, making a backtrace hangs.
            env={**os.environ, 'PYTHONPATH': path, 'RUST_BACKTRACE': '0'},
        )
    except subprocess.TimeoutExpired:
        raise ConstraintError(f'{constraint.kind}: it takes too long to compile') from None
    except OSError as error:
        raise ConstraintError(f'{constraint.kind} cannot be checked: {error}') from None
    lines = trial.stdout.decode('utf-8', 'replace').splitlines()
    if not lines and trial.returncode >= 0:
        last = trial.stderr.decode('utf-8', 'replace').strip().rpartition('\n')[2]
        if "No module named 'llguidance'" in last:
            last = 'it needs llguidance: pip3 install llguidance==1.6.1'
        raise ConstraintError(f'{constraint.kind} cannot be checked: {last}')
    number = -trial.returncode
    reason, *places = lines or [_SIGNALS.get(number, f'it cannot be compiled (signal {number})')]
    if reason:
        raise ConstraintError(': '.join((constraint.kind, *places, reason)))


def llguidance_form(constraint: Constraint) -> str:
    """Return a constraint as llguidance takes it."""
    if constraint.kind == 'json_schema':
        return f'{{"grammars": [{{"json_schema": {constraint.text}}}]}}'
    return json.dumps({'grammars': [{'lark_grammar': constraint.text}]})
