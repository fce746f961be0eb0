"""What the command lines of the benchmarks share: one line for a wrong option, numbers, models."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import NoReturn

from hobot_llamacpp_py import catalogue
from hobot_llamacpp_py.board import this_board
from hobot_llamacpp_py.catalogue import Edition
from hobot_llamacpp_py.errors import ModelFileError
from hobot_llamacpp_py.files import find_file

__all__ = ['EXIT_STATUS', 'Parser', 'count', 'find_decoder', 'find_edition', 'positive']

EXIT_STATUS = (
    'Exit status: 0 if all is well; 1 if it could not be done, a ratio misses its bar or'
    ' something got worse; 2 for wrong options.'
)


class Parser(argparse.ArgumentParser):
    """Says what is wrong with the options in one line, without the usage above it."""

    def error(self, message: str) -> NoReturn:
        """Exit with 2."""
        self.exit(2, f'error: {" ".join(message.split())}\n')


def count(text: str) -> int:
    """Return the number, from 1 on, that a text holds."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'{text!r} is no number from 1 on')
    return int(text)


def positive(text: str) -> float:
    """Return the number above 0 that a text holds."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f'{text!r} is no number above 0')
    return number


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
