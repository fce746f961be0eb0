"""Constrained answers: a JSON Schema becomes a GBNF grammar, of what a grammar can hold.

llama-cpp-python has a converter, too. It leaves out what it does not know without a word, and what
it makes of control characters, of definitions named like properties and of quotes in an enum lets
answers through that do not validate. Here a schema is written out and checked in one go: what a
grammar cannot hold is refused by name.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable
from typing import Any, NoReturn

from hobot_llamacpp_py.errors import ConstraintError

__all__ = ['KEYWORDS', 'check_grammar_text', 'schema_to_grammar']

KEYWORDS: dict[str, set[str]] = {
    'object': {'properties', 'required', 'additionalProperties'},
    'array': {'items', 'prefixItems', 'minItems', 'maxItems'},
    'string': {'minLength', 'maxLength', 'format'},
    'number': set(),
    'integer': set(),
    'boolean': set(),
    'null': set(),
    'enum': {'enum'},
    'const': {'const'},
    'anyOf': {'anyOf'},
    '$ref': {'$ref'},
}
"""What a schema of each kind may contain besides `type` and notes for the reader."""
_NOTES = {'title', 'description', 'default', 'examples', 'deprecated', 'readOnly', 'writeOnly'}
_NOTES |= {'$schema', '$id', '$comment', '$defs', 'definitions'}
_DEFINITIONS = ('$defs', 'definitions')
_TYPES: dict[str, tuple[type, ...]] = {
    'object': (dict,),
    'array': (list,),
    'string': (str,),
    'number': (int, float),
    'integer': (int,),
    'boolean': (bool,),
    'null': (type(None),),
}
_KEYWORD_TYPES: dict[str, tuple[type, str]] = {
    **dict.fromkeys(('properties', '$defs', 'definitions'), (dict, 'an object')),
    **dict.fromkeys(('required', 'prefixItems', 'enum', 'anyOf'), (list, 'a list')),
    **dict.fromkeys(('minItems', 'maxItems', 'minLength', 'maxLength'), (int, 'a number')),
    **dict.fromkeys(('format', '$ref'), (str, 'a text')),
}
_MOST_LENGTH, _MOST_VALUES, _MOST_DEPTH = 2000, 100, 50

_RULES = {
    'space': '" "?',
    'value': 'object | array | string | number | boolean | null',
    'object': '"{" space ( member ( "," space member )* )? "}"',
    'member': 'string ":" space value',
    'array': '"[" space ( value ( "," space value )* )? "]"',
    'string': r'"\"" char* "\""',
    # No control characters, and no halves of a surrogate pair: two of them are one character.
    'char': r'[^"\\\x00-\x1F\x7F] | "\\" ( ["\\/bfnrt] | "u" unit )',
    'unit': '[0-9a-cefA-CEF] hex{3} | [dD] [0-7] hex{2}',
    'hex': '[0-9a-fA-F]',
    'number': 'integer ( "." [0-9]{1,15} )? ( [eE] [-+]? [0-9]{1,2} )?',
    'integer': '"-"? ( "0" | [1-9] [0-9]{0,14} )',
    'boolean': '"true" | "false"',
    'null': '"null"',
    'date': '[0-9]{4} "-" ( "0" [1-9] | "1" [0-2] ) "-" ( "0" [1-9] | "1" [0-9] | "2" [0-8] )',
    'time': 'clock ":" [0-5] [0-9] ( "." [0-9]{3} )? ( "Z" | [-+] clock )',
    'clock': '( [01] [0-9] | "2" [0-3] ) ":" [0-5] [0-9]',
    'date-time': 'date "T" time',
    'uuid': 'hex{8} "-" hex{4} "-" hex{4} "-" hex{4} "-" hex{12}',
}
_FORMATS = ('date', 'time', 'date-time', 'uuid')

_GBNF_PART = re.compile(
    r'"(?:\\.|[^"\\])*"|\[(?:\\.|[^\]\\])*\]|#[^\n]*|(?P<count>\{[^}]*\})|[()]', re.DOTALL
)
_COUNT = re.compile(r'\{\s*(\d{1,6})\s*(?:,\s*(\d{1,6})?\s*)?\}')


def check_grammar_text(grammar: str) -> None:
    """Refuse what llama.cpp's parser would never return from.

    Raises:
        ConstraintError: the grammar is very large or deep, or counts to less than it starts from.
    """
    if len(grammar) > 1 << 18:
        raise ConstraintError('the grammar is longer than 256 KiB')
    depth = 0
    for match in _GBNF_PART.finditer(grammar):
        depth += {'(': 1, ')': -1}.get(match[0], 0)
        if depth > 4 * _MOST_DEPTH:
            raise ConstraintError(f'the grammar nests more than {4 * _MOST_DEPTH} parentheses')
        if match['count']:
            count = _COUNT.fullmatch(match['count'])
            least = int(count[1]) if count else 0
            most = int(count[2]) if count and count[2] else least
            if not count or not least <= most <= _MOST_LENGTH:
                raise ConstraintError(
                    f'the grammar repeats {match["count"]}: from and to are numbers up to'
                    f' {_MOST_LENGTH}, the smaller one first'
                )


def schema_to_grammar(schema: str | dict[str, Any]) -> str:
    """Return the GBNF grammar of the JSON texts that a JSON Schema allows.

    Raises:
        ConstraintError: it is no JSON Schema, or uses what a grammar cannot hold: what, where.
    """
    return _grammar_of(schema if isinstance(schema, str) else json.dumps(schema))


@functools.lru_cache(maxsize=8)
def _grammar_of(text: str) -> str:
    try:
        schema = json.loads(text, parse_constant=_no_number)
        return _Writer(schema).grammar()
    except RecursionError:
        raise ConstraintError('json_schema is nested too deeply') from None
    except ValueError as error:
        raise ConstraintError(f'json_schema is no JSON: {error}') from None


def _no_number(name: str) -> NoReturn:
    raise ValueError(f'{name} is no number of JSON')


def _refuse(where: str, problem: str) -> NoReturn:
    raise ConstraintError(f'json_schema: {where}{problem}')


class _Writer:
    """Writes one schema's rules; `where` is the place in it, as a JSON pointer."""

    def __init__(self, root: Any) -> None:
        self._root = root
        self._rules: list[str] = []
        self._definitions: dict[tuple[str, str], str] = {}  # place and name -> rule

    def grammar(self) -> str:
        """Return the whole grammar."""
        root = self._expression(self._root, '#', 0, ())
        for place in _DEFINITIONS:  # those that are not used are checked as well
            for name in self._named(place):
                self._definition(place, name, 0, ())
        fixed = [f'{name} ::= {rule}' for name, rule in _RULES.items()]
        return '\n'.join([f'root ::= {root}', *self._rules, *fixed])

    def _rule(self, expression: str) -> str:
        name = f'r{len(self._rules)}'
        self._rules.append(f'{name} ::= {expression}')
        return name

    def _expression(self, schema: Any, where: str, depth: int, via: tuple[str, ...]) -> str:
        """Return an expression for a schema; `via` are the $refs that led here without a text."""
        if not isinstance(schema, dict):
            _refuse(where, f' is {json.dumps(schema)}, not an object')
        if depth > _MOST_DEPTH:
            _refuse(where, ' is nested too deeply')
        for keyword, value in schema.items():
            wanted, word = _KEYWORD_TYPES.get(keyword, (object, ''))
            if not isinstance(value, wanted) or isinstance(value, bool) and wanted is int:
                _refuse(where, f': {keyword} is {json.dumps(value)}, not {word}')
        for keyword in sorted(schema.keys() - _NOTES - {'type'}.union(*KEYWORDS.values())):
            _refuse(where, f': the keyword {keyword!r} is not supported')
        kind = self._kind(schema, where)
        allowed = KEYWORDS[kind] | ({'type'} if kind not in ('anyOf', '$ref') else set())
        for keyword in sorted(schema.keys() - allowed - _NOTES):
            takes = ', '.join(sorted(KEYWORDS[kind]))
            hint = f'; {kind} takes {takes}' if takes else ''
            _refuse(where, f': the keyword {keyword!r} is not supported here{hint}')
        if kind == 'anyOf':
            choices = schema['anyOf']
            if not choices:
                _refuse(where, ': anyOf is empty')
            inner = [
                self._expression(choice, f'{where}/anyOf/{i}', depth + 1, via)
                for i, choice in enumerate(choices)
            ]
            return self._rule(' | '.join(inner))
        if kind == '$ref':
            start, _, rest = schema['$ref'].partition('/')
            place, _, name = rest.partition('/')
            if start != '#' or place not in _DEFINITIONS or name not in self._named(place):
                _refuse(where, f': $ref {schema["$ref"]!r} leads nowhere; write #/$defs/NAME')
            return self._definition(place, name, depth, via)
        if kind in ('enum', 'const'):
            return self._values(schema, where)
        if isinstance(schema.get('type'), list):
            return self._rule(' | '.join(schema['type']))
        write: Callable[[dict[str, Any], str, int], str] | None
        write = {'object': self._object, 'array': self._array, 'string': self._string}.get(kind)
        return write(schema, where, depth) if write else kind

    def _kind(self, schema: dict[str, Any], where: str) -> str:
        for keyword in ('$ref', 'anyOf', 'const', 'enum'):
            if keyword in schema:
                return keyword
        types = schema.get('type', 'object' if 'properties' in schema else None)
        for kind in types if isinstance(types, list) else [types]:
            if not isinstance(kind, str) or kind not in _TYPES:
                known = ', '.join(_TYPES)
                found = 'has no type' if types is None else f'has type {json.dumps(types)}'
                _refuse(where, f' {found}; give one of {known}, or enum, const, anyOf or $ref')
        if isinstance(types, list):
            if not types:
                _refuse(where, ': type is an empty list')
            return 'null'  # which takes no keywords, as several types together do
        return str(types)

    def _named(self, place: str) -> dict[str, Any]:
        named: dict[str, Any] = self._root.get(place, {})
        return named

    def _definition(self, place: str, name: str, depth: int, via: tuple[str, ...]) -> str:
        path = f'#/{place}/{name}'
        if path in via:
            _refuse(path, ' leads back to itself with nothing in between')
        rule = self._definitions.get((place, name))
        if rule is None:
            rule = self._definitions[place, name] = f'd{len(self._definitions)}'
            inner = self._expression(self._named(place)[name], path, depth + 1, (*via, path))
            self._rules.append(f'{rule} ::= {inner}')
        return rule

    def _object(self, schema: dict[str, Any], where: str, depth: int) -> str:
        properties, required = schema.get('properties', {}), schema.get('required', [])
        extra = schema.get('additionalProperties', not properties)
        if len(properties) > _MOST_VALUES:
            _refuse(where, f' has more than {_MOST_VALUES} properties')
        for name in required:
            if not isinstance(name, str) or name not in properties:
                _refuse(where, f': {json.dumps(name)} is required, but not among the properties')
        if properties and extra is not False:
            _refuse(where, ': additionalProperties beside properties is not supported')
        if not properties:
            if extra is True:
                return 'object'
            if extra is False:
                _refuse(where, ' allows nothing but an empty object')
            value = self._expression(extra, f'{where}/additionalProperties', depth + 1, ())
            member = self._rule(f'string ":" space {value}')
            return self._rule(f'"{{" space ( {member} ( "," space {member} )* )? "}}"')
        # In the order of the schema; from the last one on: what may follow with and without
        # something before it, which decides on the comma.
        after, first = '', '""'
        for name, value in reversed(properties.items()):
            inner = self._expression(value, f'{where}/properties/{name}', depth + 1, ())
            member = self._rule(f'{_literal(name, where)} ":" space {inner}')
            if name in required:
                first = self._rule(f'{member} {after}')
                after = self._rule(f'"," space {member} {after}')
            else:
                first = self._rule(f'{member} {after} | {first}')
                after = self._rule(f'( "," space {member} )? {after}')
        return self._rule(f'"{{" space {first} "}}"')

    def _array(self, schema: dict[str, Any], where: str, depth: int) -> str:
        if 'prefixItems' in schema:
            if schema.keys() & {'items', 'minItems', 'maxItems'} or not schema['prefixItems']:
                _refuse(where, ': prefixItems stands alone, for exactly these items')
            items = [
                self._expression(item, f'{where}/prefixItems/{i}', depth + 1, ())
                for i, item in enumerate(schema['prefixItems'])
            ]
            return self._rule('"[" space ' + ' "," space '.join(items) + ' "]"')
        if 'items' in schema:
            item = self._expression(schema['items'], f'{where}/items', depth + 1, ())
        elif schema.keys() & {'minItems', 'maxItems'}:
            _refuse(where, ': minItems and maxItems need items')
        else:
            return 'array'
        least, most = _range(schema, 'minItems', 'maxItems', where)
        if most == 0:
            return '"[" space "]"'
        more = f'{{{max(0, least - 1)},{"" if most is None else most - 1}}}'
        content = f'{item} ( "," space {item} ){more}'
        return self._rule('"[" space ' + (content if least else f'( {content} )?') + ' "]"')

    def _string(self, schema: dict[str, Any], where: str, depth: int) -> str:
        form = schema.get('format')
        if form is not None:
            if form not in _FORMATS:
                _refuse(
                    where, f': the format {form!r} is not supported; {", ".join(_FORMATS)} are'
                )
            if schema.keys() & {'minLength', 'maxLength'}:
                _refuse(where, ': a format and a length together are not supported')
            return self._rule(rf'"\"" {form} "\""')
        if not schema.keys() & {'minLength', 'maxLength'}:
            return 'string'
        least, most = _range(schema, 'minLength', 'maxLength', where)
        count = f'{{{least},{"" if most is None else most}}}'
        return self._rule(rf'"\"" char{count} "\""')

    def _values(self, schema: dict[str, Any], where: str) -> str:
        values = schema['enum'] if 'enum' in schema else [schema['const']]
        if not 0 < len(values) <= _MOST_VALUES:
            _refuse(where, f': enum has {len(values)} values; from 1 to {_MOST_VALUES} are held')
        types = schema.get('type', list(_TYPES))
        for value in values:
            if not any(
                _is_of(value, kind) for kind in ([types] if isinstance(types, str) else types)
            ):
                _refuse(where, f': {json.dumps(value)} is not of type {json.dumps(types)}')
        return self._rule(' | '.join(_literal(value, where) for value in values))


def _is_of(value: Any, kind: Any) -> bool:
    if isinstance(value, bool):
        return bool(kind == 'boolean')
    return isinstance(value, _TYPES.get(kind, ()))


def _range(schema: dict[str, Any], low: str, high: str, where: str) -> tuple[int, int | None]:
    """Return the least and the most, None for no limit."""
    least, most = schema.get(low, 0), schema.get(high)
    if not 0 <= least <= (_MOST_LENGTH if most is None else most) <= _MOST_LENGTH:
        _refuse(where, f': {low} {least} and {high} {most} are no range within {_MOST_LENGTH}')
    return least, most


def _literal(value: Any, where: str) -> str:
    """Return a JSON value as a literal of the grammar."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        text.encode()
    except ValueError:  # infinity, or half a surrogate pair
        _refuse(where, f': {value!r} cannot be written as JSON')
    return '"' + text.replace('\\', '\\\\').replace('"', '\\"') + '"'
