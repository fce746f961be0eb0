"""The options of the tools that open an engine themselves: which models, and how."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hobot_llamacpp_py import catalogue
from hobot_llamacpp_py.config import DecoderConfig, VisionConfig
from hobot_llamacpp_py.engine import Engine
from hobot_llamacpp_py.errors import ParameterError, VlmError, one_line
from hobot_llamacpp_py.families import FAMILIES, ModelFamily
from hobot_llamacpp_py.files import find_file
from hobot_llamacpp_py.health.packages import missing
from hobot_llamacpp_py.ros.parameters import coerce
from hobot_llamacpp_py.tools.arguments import find_edition

__all__ = ['Models', 'add_model_options', 'as_parameter', 'explained']


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that `Models.of` reads."""
    parser.add_argument(
        '--llm',
        required=True,
        metavar='FILE',
        help='the GGUF text decoder, or a name that `models list` shows',
    )
    parser.add_argument(
        '--encoder', metavar='FILE', help="the vision encoder; none: text only, or the name's"
    )
    types = ', '.join(f'{family.number}: {family.name}' for family in FAMILIES.values())
    parser.add_argument(
        '--model-type',
        type=as_parameter('model_type'),
        metavar='NUMBER',
        help=f"{types} (0, or the name's)",
    )
    parser.add_argument(
        '--n-ctx', type=as_parameter('n_ctx'), default=DecoderConfig.n_ctx, help='%(default)s'
    )
    parser.add_argument(
        '--threads',
        type=as_parameter('llm_threads'),
        default=0,
        help='0: as many as others leave free',
    )


def as_parameter(parameter: str) -> Callable[[str], object]:
    """Return the type of an argument that means what a parameter of the node does."""

    def read(text: str) -> object:
        try:
            return coerce(parameter, int(text) if text.lstrip('-').isdecimal() else text)
        except ParameterError as error:
            raise argparse.ArgumentTypeError(str(error).removeprefix(f'{parameter}: ')) from None

    return read


@dataclass(frozen=True)
class Models:
    """The models that the options name.

    Attributes:
        encoder: its file; None for text only.
    """

    family: ModelFamily
    llm: Path
    encoder: Path | None
    config: DecoderConfig

    @classmethod
    def of(cls, options: argparse.Namespace) -> Models:
        """Find the models' files.

        Raises:
            VlmError: one of them is not there.
        """
        family, encoder = FAMILIES[0], None
        edition = find_edition(options.llm)
        if edition and (found := edition.paths()):
            family, (encoder, llm) = catalogue.find(options.llm).family, found
        else:
            llm = find_file('--llm', options.llm)
        if options.encoder:
            encoder = find_file('--encoder', options.encoder)
        if options.model_type is not None:
            family = FAMILIES[options.model_type]
        config = DecoderConfig(n_ctx=options.n_ctx, n_threads=options.threads)
        return cls(family, llm, encoder, config)

    def open(self, frame_reuse_threshold: float = 0.0) -> Engine:
        """Load them.

        Raises:
            VlmError: they cannot be used.
        """
        vision = VisionConfig(frame_reuse_threshold=frame_reuse_threshold)
        return Engine.open(
            self.llm, self.encoder, family=self.family, config=self.config, vision=vision
        )


def explained(error: Exception) -> str:
    """Return an error's line for the user, with the option that it is about."""
    line = missing(error) or one_line(error)
    if not isinstance(error, VlmError):
        return line
    if error.setting == 'http_token':
        return f'{line} (--token-file)'
    if error.setting == 'family':
        numbers = {family.name: family.number for family in FAMILIES.values()}
        number = numbers.get(str(error.value))
        return f'{line} (--model-type)' if number is None else f'{line}: set --model-type {number}'
    return line
