"""Command lines of the tools: what cannot be read is one line."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import NoReturn

__all__ = ['ArgumentParser', 'number_below', 'topic']


class ArgumentParser(argparse.ArgumentParser):
    """Says in one line what is wrong, without the usage before it; exits with 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f'error: {message}\n')


def number_below(limit: float) -> Callable[[str], float]:
    """Return the type of an argument that is a number above 0 and below a limit."""

    def read(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = 0.0
        if not 0 < number < limit:
            raise argparse.ArgumentTypeError(f'{text!r} is no number between 0 and {limit:g}')
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
