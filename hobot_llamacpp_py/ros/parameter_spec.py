"""What is known of one parameter, and how a value becomes one of its.

ROS hands over what YAML made of a value, so `pre_infer:=true`, `temperature:=0` and
`user_prompt:=42` arrive as other types than declared: `coerce` brings them back, then checks.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import typing
from dataclasses import dataclass
from typing import Any

from hobot_llamacpp_py.errors import ParameterError

__all__ = ['ParameterSpec', 'Scalar', 'param', 'setting', 'specs_of']

Scalar = bool | int | float | str


@functools.cache
def _type_hints(config: type) -> dict[str, Any]:
    return typing.get_type_hints(config)


def param(
    default: Scalar,
    sentence: str,
    sentence_cn: str,
    *,
    at_least: float = -math.inf,
    at_most: float = math.inf,
    choices: tuple[Scalar, ...] = (),
    runtime: bool = False,
    sets: str = '',
) -> Any:
    """Declare a parameter as a field of a dataclass; see `ParameterSpec`."""
    metadata = dict(
        sentence=sentence,
        sentence_cn=sentence_cn,
        at_least=at_least,
        at_most=at_most,
        choices=choices,
        runtime=runtime,
        sets=sets,
    )
    return dataclasses.field(default=default, metadata=metadata)


def setting(config: type, field: str, sentence: str, sentence_cn: str, **options: Any) -> Any:
    """Declare a parameter that sets a field of the engine's settings.

    The default is the field's, and so are the choices where its type is a Literal.
    """
    hint = _type_hints(config)[field]
    if typing.get_origin(hint) is typing.Literal:
        options.setdefault('choices', typing.get_args(hint))
    default = getattr(config, field)
    return param(default, sentence, sentence_cn, sets=f'{config.__name__}.{field}', **options)


@dataclass(frozen=True)
class ParameterSpec:
    """One row of the table."""

    name: str
    type: type
    default: Scalar
    sentence: str
    """What it means, as `ros2 param describe` shows it."""
    sentence_cn: str
    """The same in Chinese, for the documents."""
    at_least: float
    at_most: float
    choices: tuple[Scalar, ...]
    runtime: bool
    """Can be set while the node runs."""
    sets: str
    """The setting of the engine that it sets, such as 'ChatConfig.max_tokens'; empty: none."""

    @property
    def range_text(self) -> str:
        """The allowed values in words, empty if there is no limit."""
        return self.range_in(', ', '{} to {}', 'at least {}')

    def range_in(self, comma: str, between: str, from_on: str) -> str:
        """Return the allowed values in the words of a language."""
        if self.choices:
            return comma.join(str(choice) for choice in self.choices)
        low, high = math.isfinite(self.at_least), math.isfinite(self.at_most)
        if low and high:
            return between.format(_shown(self.at_least), _shown(self.at_most))
        return from_on.format(_shown(self.at_least)) if low else ''

    def coerce(self, value: object) -> Scalar:
        """Bring a value to the parameter's type, as YAML may have read it, and check its range.

        Raises:
            ParameterError: with the parameter's name, the value and what it may be.
        """
        if isinstance(value, bool) and 'on' in self.choices:
            value = 'on' if value else 'off'  # YAML reads these two words as booleans
        converted = _convert(value, self.type)
        if converted is None:
            raise ParameterError(f'{self.name}: {value!r} is not {_TYPE_WORDS[self.type]}')
        if self.choices and converted not in self.choices:
            raise ParameterError(f'{self.name}: {converted!r} is not one of {self.range_text}')
        if not isinstance(converted, str) and not self.at_least <= converted <= self.at_most:
            raise ParameterError(f'{self.name}: {converted!r} is out of range ({self.range_text})')
        return converted


def specs_of(table: Any) -> dict[str, ParameterSpec]:
    """Return the rows of a dataclass of parameters by name."""
    rows = {}
    for field in dataclasses.fields(table):
        default: Any = field.default
        rows[field.name] = ParameterSpec(field.name, type(default), default, **field.metadata)
    return rows


_TYPE_WORDS = {bool: 'true or false', int: 'a whole number', float: 'a number', str: 'a text'}


def _shown(limit: float) -> str:
    return str(int(limit)) if float(limit).is_integer() else str(limit)


def _convert(value: object, to: type) -> Scalar | None:
    if to is str:
        if isinstance(value, bool):
            return 'true' if value else 'false'
        return str(value) if isinstance(value, (int, float, str)) else None
    if isinstance(value, str):
        return None
    if to is bool:
        return bool(value) if value in (0, 1) else None
    if to is int:
        whole = isinstance(value, (bool, int)) or isinstance(value, float) and value.is_integer()
        return int(value) if whole else None  # type: ignore[call-overload]
    return float(value) if isinstance(value, (bool, int, float)) and value == value else None
