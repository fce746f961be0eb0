"""Tries a grammar in a process of its own: llguidance crashes or hangs over some.

It is run as a script, without the package: the grammar on standard input, and as its argument the
keywords whose values are schemas; on standard output a line with the reason for which the grammar
is refused, empty for none, and one with the place. What it gets are time, memory and a stack that
are smaller than those of the process that will use the grammar. The vocabulary has bytes only.
"""

from __future__ import annotations

import json
import re
import resource
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any, cast

import llguidance

__all__ = ['limits', 'refusals', 'without_noise']

_CPU_SECONDS = 0.8
_MEMORY = 192 << 20
_STACK = 4 << 20
_STEPS = 32  # bytes of an answer that are tried
_END = 256


class _Bytes:
    """A vocabulary of all bytes, for llguidance."""

    eos_token_id = _END
    bos_token_id = None
    tokens = [*(bytes([i]) for i in range(256)), b'\xff<end>']
    special_token_ids = [_END]
    is_tokenizer_wrapper = True

    def __call__(self, text: str | bytes) -> list[int]:
        return list(text.encode() if isinstance(text, str) else text)


def limits() -> Any:
    """Return what a matcher may take at most: a lexer's state has 1 to 2 KB."""
    return llguidance.LLParserLimits(
        verbose_errors=False, precompute_large_lexemes=False, max_lexer_states=50_000
    )


def without_noise(error: str) -> str:
    """Return an error of llguidance as one line, without its excerpts of the grammar."""
    error = error.partition('\n\nStack backtrace')[0].partition('\n<')[0]
    reason = re.search(r'^error: (.*)', error, re.MULTILINE)  # of a regular expression
    line = error.partition('\n')[0]
    line = re.sub(r'^(?:panic: )?called .* value: ', '', line)
    line = re.sub(r' at line \d+ column \d+$', '', line)
    if len(line) > 160:
        line = f'{line[:150]}…'
    return f'{line.rstrip(": ")}: {reason[1]}' if reason else line


def refusals(grammar: str) -> Iterator[str]:
    """Yield why a grammar in llguidance's JSON form is refused, then where, if it is.

    The search for the place may be cut: then there is still the reason.
    """
    tokenizer = llguidance.LLTokenizer(cast(Any, _Bytes()), slices=[])
    error = _error(tokenizer, grammar)
    line = without_noise(error)
    part = json.loads(grammar)['grammars'][0]
    if not error and (place := _overlap(tokenizer, part.get('json_schema', {}))):
        yield 'a property is named that it matches, and that has another schema'
        yield place
        return
    at = re.match(r'(?:at )?(\d+)\((\d+)\): ', line)
    yield line[at.end() :] if at else line
    if at:
        yield f'line {at[1]}, column {at[2]}'
    elif error and 'json_schema' in part:
        yield _place(tokenizer, part['json_schema'], line)


def _overlap(tokenizer: Any, schema: dict[str, Any], place: str = '#') -> str:
    """Return the pattern of patternProperties that a named property matches, too, as a pointer.

    By JSON Schema both hold for it, but llguidance knows the property's schema only.
    """
    properties, patterns = (schema.get(k, {}) for k in ('properties', 'patternProperties'))
    for pattern, part in patterns.items():
        others = [name for name, own in properties.items() if own != part]
        if others and part not in (True, {}):
            both = {'type': 'string', 'pattern': pattern, 'enum': others}
            if not _error(tokenizer, json.dumps({'grammars': [{'json_schema': both}]})):
                return f'{place}/patternProperties/{pattern}'
    found = (_overlap(tokenizer, part, f'{place}/{step}') for step, part in _parts(schema))
    return next(filter(None, found), '')


def _error(tokenizer: Any, grammar: str) -> str:
    matcher = llguidance.LLMatcher(tokenizer, grammar, log_level=0, limits=limits())
    if matcher.is_error():
        return str(matcher.get_error())
    for step in range(_STEPS):
        if matcher.is_stopped():
            break
        forced = matcher.compute_ff_tokens()[: _STEPS - step]
        mask = int.from_bytes(matcher.compute_bitmask(), 'little')
        if matcher.is_error():
            error: str = matcher.get_error()
            return 'it allows no text at all' if 'NoExtension' in error else error
        allowed = [i for i in range(_END) if mask >> i & 1]
        if not forced and not allowed:
            break
        # Any way on will do; the last ones are long characters and words.
        token = forced[0] if forced else allowed[(step * 7) % len(allowed)]
        if not matcher.consume_token(token):
            return str(matcher.get_error())
    if matcher.is_error():
        return str(matcher.get_error())
    return ''


def _place(tokenizer: Any, root: dict[str, Any], reason: str) -> str:
    """Return the innermost part of a schema that is refused for the same reason, as a pointer."""
    shared = {name: root[name] for name in ('$defs', 'definitions') if name in root}
    place, schema = '#', root
    while True:
        for step, part in _parts(schema):
            wrapped = json.dumps({'grammars': [{'json_schema': {**shared, **part}}]})
            if without_noise(_error(tokenizer, wrapped)) == reason:
                place, schema = f'{place}/{step}', part
                break
        else:
            return place


def _parts(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    lists, maps, single = json.loads(sys.argv[1])
    for keyword, value in schema.items():
        if keyword in single and isinstance(value, dict):
            yield keyword, value
        elif keyword in lists and isinstance(value, list):
            for i, part in enumerate(value):
                if isinstance(part, dict):
                    yield f'{keyword}/{i}', part
        elif keyword in maps and isinstance(value, dict):
            for name, part in value.items():
                if isinstance(part, dict):
                    yield f'{keyword}/{name}', part


def _main() -> None:
    with open('/proc/self/statm') as statm:
        size = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (size + _MEMORY, size + _MEMORY))
    signal.setitimer(signal.ITIMER_PROF, _CPU_SECONDS)  # the kernel ends it, whatever it does
    grammar = sys.stdin.buffer.read().decode('utf-8', 'surrogatepass')

    def work() -> None:
        for line in refusals(grammar):
            print(line, flush=True)

    threading.stack_size(_STACK)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


if __name__ == '__main__':
    _main()
