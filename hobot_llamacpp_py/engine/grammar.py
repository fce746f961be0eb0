"""Constrained answers: a JSON Schema becomes a GBNF grammar, of what it can hold for certain.

llama-cpp-python converts schemas, but leaves out what it does not know without a word. So a schema
is checked first: what would be left out, or come out wrong, is refused by name.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator
from typing import Any

from hobot_llamacpp_py.errors import ParameterError

__all__ = ['KEYWORDS', 'schema_to_grammar']

_NOTES = {'title', 'description', 'default', 'examples', 'deprecated', 'readOnly', 'writeOnly'}
_NOTES |= {'$schema', '$id', '$comment', '$defs', 'definitions'}
# The keywords by the kind of schema that they make; a schema is of one kind only.
KEYWORDS = {
    'object': {'type', 'properties', 'required', 'additionalProperties'},
    'array': {'type', 'items', 'prefixItems', 'minItems', 'maxItems'},
    'string': {'type', 'minLength', 'maxLength', 'format'},
    'number': {'type'},
    'integer': {'type'},
    'boolean': {'type'},
    'null': {'type'},
    'enum': {'type', 'enum'},
    'const': {'type', 'const'},
    'anyOf': {'anyOf'},
    '$ref': {'$ref'},
    'types': {'type'},
}
"""What `json_schema` may contain, besides notes for the reader such as title and description."""
_DEFINITIONS = ('$defs', 'definitions')
_FORMATS = ('date', 'time', 'date-time', 'uuid')
_TYPES: dict[str, type | tuple[type, ...]] = {
    'object': dict,
    'array': list,
    'string': str,
    'number': (int, float),
    'integer': int,
    'boolean': bool,
    'null': type(None),
}
_LARGEST = 1000  # repetitions; llama.cpp refuses more than 2000
# A character of a JSON string may not be a control character, which the converter overlooks.
_CHAR, _JSON_CHAR = re.compile(r'^char ::= \[\^"\\\\\]', re.M), r'char ::= [^"\\\x00-\x1F\x7F]'


@functools.lru_cache(maxsize=8)
def schema_to_grammar(text: str) -> str:
    """Return the GBNF grammar of the JSON texts that a JSON Schema allows.

    Raises:
        ParameterError: it is no JSON Schema, or uses what a grammar cannot hold; says what, where.
    """
    try:
        schema = json.loads(text)
    except ValueError as error:
        raise ParameterError(f'json_schema is no JSON: {error}') from None
    for problem in _problems(schema, schema, '#'):
        raise ParameterError(f'json_schema: {problem}')
    from llama_cpp.llama_grammar import json_schema_to_gbnf

    try:
        grammar = json_schema_to_gbnf(json.dumps(_with_plain_names(schema)))
    except Exception as error:  # asserts and more, of a converter that is not ours
        raise ParameterError(f'json_schema cannot be made a grammar: {error}') from None
    return _CHAR.sub(lambda _: _JSON_CHAR, grammar)


def _with_plain_names(schema: Any) -> Any:
    """Rename the definitions: the converter takes one for any other rule of the same name."""
    names = {
        f'#/{place}/{name}': f'definition-{place.strip("$")}-{i}'
        for place in _DEFINITIONS
        for i, name in enumerate(schema.get(place, {}))
    }

    def renamed(node: Any) -> Any:
        if isinstance(node, list):
            return [renamed(item) for item in node]
        if not isinstance(node, dict):
            return node
        result = {key: renamed(value) for key, value in node.items()}
        if (target := node.get('$ref')) in names:
            result['$ref'] = f'#/{target.split("/")[1]}/{names[target]}'
        return result

    result = renamed(schema)
    for place in _DEFINITIONS:
        if place in schema:
            items = result[place].items()
            result[place] = {names[f'#/{place}/{name}']: value for name, value in items}
    return result


def _problems(schema: Any, root: Any, where: str) -> Iterator[str]:
    """Say what a schema and those within it hold that a grammar would not."""
    if not isinstance(schema, dict):
        yield f'{where} is {json.dumps(schema)}, not an object'
        return
    kind = _kind(schema)
    if kind not in KEYWORDS:
        known = ', '.join(_TYPES)
        yield f'{where} has no type; give one of {known}, or enum, const, anyOf or $ref'
        return
    for keyword in schema.keys() - KEYWORDS[kind] - _NOTES:
        allowed = ', '.join(sorted(KEYWORDS[kind] - {'type'}))
        beside = f'; {kind} takes {allowed}' if allowed else ''
        yield f'{where}: the keyword {keyword!r} is not supported here{beside}'
    yield from _CHECKS.get(kind, lambda *_: ())(schema, root, where)
    for name in _DEFINITIONS:
        for key, definition in schema.get(name, {}).items():
            yield from _problems(definition, root, f'{where}/{name}/{key}')


def _kind(schema: dict[str, Any]) -> str:
    for keyword in ('$ref', 'anyOf', 'const', 'enum'):
        if keyword in schema:
            return keyword
    kind = schema.get('type')
    if isinstance(kind, list):
        return 'types'
    if kind is None and 'properties' in schema:
        return 'object'
    return str(kind)


def _check_object(schema: dict[str, Any], root: Any, where: str) -> Iterator[str]:
    properties = schema.get('properties', {})
    extra = schema.get('additionalProperties', not properties)
    if not isinstance(properties, dict):
        yield f'{where}/properties is not an object'
        return
    for name, value in properties.items():
        yield from _text_problems(name, where)
        yield from _problems(value, root, f'{where}/properties/{name}')
    for name in schema.get('required', []):
        if name not in properties:
            yield f'{where}: {name!r} is required, but not among the properties'
    if extra is not False and properties:
        yield f'{where}: additionalProperties beside properties is not supported'
    if isinstance(extra, dict):
        yield from _problems(extra, root, f'{where}/additionalProperties')
    if not properties and extra is False:
        yield f'{where} allows nothing but an empty object'


def _check_array(schema: dict[str, Any], root: Any, where: str) -> Iterator[str]:
    least, most = schema.get('minItems', 0), schema.get('maxItems', _LARGEST)
    if 'prefixItems' in schema:
        if schema.keys() & {'items', 'minItems', 'maxItems'}:
            yield f'{where}: prefixItems stands alone: exactly these items are given'
        for i, item in enumerate(schema['prefixItems']):
            yield from _problems(item, root, f'{where}/prefixItems/{i}')
    elif 'items' in schema:
        yield from _problems(schema['items'], root, f'{where}/items')
    elif schema.keys() & {'minItems', 'maxItems'}:
        yield f'{where}: minItems and maxItems need items'
    yield from _range_problems(least, most, where)


def _check_string(schema: dict[str, Any], root: Any, where: str) -> Iterator[str]:
    form = schema.get('format')
    if form is not None and form not in _FORMATS:
        yield f'{where}: the format {form!r} is not supported; {", ".join(_FORMATS)} are'
    if form is not None and schema.keys() & {'minLength', 'maxLength'}:
        yield f'{where}: a format and a length together are not supported'
    yield from _range_problems(
        schema.get('minLength', 0), schema.get('maxLength', _LARGEST), where
    )


def _check_values(schema: dict[str, Any], root: Any, where: str) -> Iterator[str]:
    values = schema['enum'] if 'enum' in schema else [schema['const']]
    if not isinstance(values, list) or not values:
        yield f'{where}: enum is no list of values'
        return
    kinds = schema.get('type', list(_TYPES))
    for value in values:
        for kind in kinds if isinstance(kinds, list) else [kinds]:
            is_number = kind in ('number', 'integer') and not isinstance(value, bool)
            if isinstance(value, _TYPES.get(kind, ())) and (is_number or _is_not_number(kind)):
                break
        else:
            yield f'{where}: {json.dumps(value)} is not of type {kinds}'
        for text in _texts(value):
            yield from _text_problems(text, where)


def _check_any_of(schema: dict[str, Any], root: Any, where: str) -> Iterator[str]:
    for i, choice in enumerate(schema['anyOf']):
        yield from _problems(choice, root, f'{where}/anyOf/{i}')


def _check_ref(schema: dict[str, Any], root: Any, where: str) -> Iterator[str]:
    start, _, rest = str(schema['$ref']).partition('/')
    place, _, name = rest.partition('/')
    if start != '#' or place not in _DEFINITIONS or name not in root.get(place, {}):
        yield f'{where}: $ref {schema["$ref"]!r} leads nowhere; write #/$defs/NAME'


def _check_types(schema: dict[str, Any], root: Any, where: str) -> Iterator[str]:
    for kind in schema['type']:
        if kind not in _TYPES:
            yield f'{where}: there is no type {kind!r}'


_CHECKS = {
    'object': _check_object,
    'array': _check_array,
    'string': _check_string,
    'enum': _check_values,
    'const': _check_values,
    'anyOf': _check_any_of,
    '$ref': _check_ref,
    'types': _check_types,
}


def _is_not_number(kind: str) -> bool:
    return kind not in ('number', 'integer')


def _range_problems(least: Any, most: Any, where: str) -> Iterator[str]:
    if type(least) is not int or type(most) is not int or not 0 <= least <= most <= _LARGEST:
        yield f'{where}: from {least} to {most} is no range within 0 to {_LARGEST}'


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)


def _text_problems(text: str, where: str) -> Iterator[str]:
    """Say what the converter would write wrongly into a grammar's literal."""
    for character in text:
        if character in '"\\' or not ' ' <= character <= '\uffff' or character == '\x7f':
            yield f'{where}: {character!r} in {text!r} is not supported'
            return
