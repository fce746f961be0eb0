"""Command lines of the tools: what cannot be read is one line; numbers, models by name."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from hobot_llamacpp_py import catalogue
from hobot_llamacpp_py.board import this_board
from hobot_llamacpp_py.catalogue import Edition
from hobot_llamacpp_py.errors import ModelFileError
from hobot_llamacpp_py.files import find_file

__all__ = [
    'EXIT_STATUS',
    'ArgumentParser',
    'count',
    'find_decoder',
    'find_edition',
    'number_below',
    'number_from',
    'positive',
    'topic',
]

EXIT_STATUS = (
    'Exit status: 0 if all is well; 1 if it could not be done, a ratio misses its bar or'
    ' something got worse; 2 for wrong options.'
)


class ArgumentParser(argparse.ArgumentParser):
    """Says in one line what is wrong, without the usage before it; exits with 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f'error: {" ".join(message.split())}\n')


def number_below(limit: float) -> Callable[[str], float]:
    """Return the type of an argument that is a number above 0 and below a limit."""

    def read(text: str) -> float:
        number = _number(text)
        if not 0 < number < limit:
            raise argparse.ArgumentTypeError(f'{text!r} is no number between 0 and {limit:g}')
        return number

    return read


def number_from(low: float, high: float) -> Callable[[str], float]:
    """Return the type of an argument that is a number of a range, its ends included."""

    def read(text: str) -> float:
        number = _number(text)
        if not low <= number <= high:
            raise argparse.ArgumentTypeError(f'{text!r} is no number from {low:g} to {high:g}')
        return number

    return read


def topic(text: str) -> str:
    """Return an argument that names a ROS topic."""
    from rclpy.exceptions import InvalidTopicNameException  # not all tools have ROS
    from rclpy.validate_topic_name import validate_topic_name

    try:
        validate_topic_name(text)
    except InvalidTopicNameException:
        raise argparse.ArgumentTypeError(f'{text!r} is no topic such as /image') from None
    return text


def count(text: str) -> int:
    """Return the number, from 1 on, that a text holds."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'{text!r} is no number from 1 on')
    return int(text)


def positive(text: str) -> float:
    """Return the number above 0 that a text holds."""
    number = _number(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f'{text!r} is no number above 0')
    return number


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan  # which is in no range


def find_edition(llm: str) -> Edition | None:
    """Return the files of the model that `--llm` names; None where it names a file.

    Raises:
        ModelFileError: the model is not on this machine; says how to get it.
    """
    if not catalogue.is_name(llm):
        return None
    model = catalogue.find(llm)
    if edition := model.ready():
        return edition
    raise ModelFileError(
        f'--llm: {model.name} is not on this machine, or not all of it; get it with:'
        f' {model.edition(this_board()).command}'
    )


def find_decoder(llm: str) -> Path:
    """Return the decoder that `--llm` names, as a file or as a model of the catalogue.

    Raises:
        ModelFileError: there is no such file, or the model is not on this machine.
    """
    edition = find_edition(llm)
    paths = edition.paths() if edition else None
    return paths[1] if paths else find_file('--llm', llm)
