"""What the doctor is to look at: a machine, and the parameters that the node will have there."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from hobot_llamacpp_py.errors import ModelFileError, ParameterError
from hobot_llamacpp_py.health.check import Case
from hobot_llamacpp_py.health.machine import Machine
from hobot_llamacpp_py.ros.parameters import Parameters, specs

__all__ = ['Asked', 'add_parameters', 'asked_by']

NODE = 'llamacpp_node'
# The parameters that are options; some have short names as well.
OPTIONS = (
    *('feed_type', 'model_type', 'model_file_name', 'llm_model_name', 'is_shared_mem_sub'),
    *('ros_img_sub_topic_name', 'ros_string_sub_topic_name'),
    *('n_ctx', 'n_ubatch', 'flash_attn', 'kv_cache_type', 'encoder_backend'),
    *('http_port', 'http_host', 'http_token_file', 'publish_overlay'),
)
SHORT = {'llm_model_name': '--llm', 'model_file_name': '--encoder', 'http_port': '--port'}
SHARED_TOPIC = '/hbmem_img'


@dataclass(frozen=True)
class Asked:
    """What is looked at.

    Attributes:
        given: what stands in the parameter file and the options, by name.
        missing: the error about the models' files that were not found.
    """

    case: Case
    parameters: Parameters
    given: Mapping[str, Any]
    missing: ModelFileError | None


def add_parameters(parser: argparse.ArgumentParser) -> None:
    """Add the node's parameters as options."""
    parser.add_argument(
        '--params-file', type=Path, metavar='FILE', help="the node's parameters, as it is given"
    )
    group = parser.add_argument_group("the node's parameters, with its defaults")
    for name in OPTIONS:
        spec = specs()[name]
        flags = [SHORT[name]] if name in SHORT else []
        group.add_argument(
            *flags,
            f'--{name.replace("_", "-")}',
            dest=name,
            metavar=spec.type.__name__.upper(),
            help=f'{spec.sentence} ({spec.default})'.replace('%', '%%'),
        )


def asked_by(options: argparse.Namespace) -> Asked:
    """Return what is to be looked at.

    Raises:
        ModelFileError: a model of the catalogue that is not published for this board.
        ParameterError: a value that a parameter cannot have, or a file that holds none.
    """
    given = _from_file(options.params_file) if options.params_file else {}
    for name in OPTIONS:
        if (text := getattr(options, name)) is not None:
            given[name] = text if specs()[name].type is str else _from_yaml(text)
    known = {n: v for n, v in given.items() if n in specs() and not isinstance(v, dict)}
    parameters, edition = Parameters.from_values(known).with_catalogue(known)
    files, missing = parameters.find_models(edition, known)
    topic = SHARED_TOPIC if parameters.is_shared_mem_sub else parameters.ros_img_sub_topic_name
    case = Case(
        machine=Machine((options.root or Path('/')).absolute()),
        llm=files.get('llm_model_name'),
        encoder=files.get('model_file_name'),
        decoder_config=parameters.decoder_config(),
        encoder_config=parameters.encoder_config(),
        image_topic=topic if parameters.feed_type == 1 and not options.no_topics else '',
        prompt_topic='' if options.no_topics else parameters.ros_string_sub_topic_name,
        port=parameters.http_port,
    )
    return Asked(case, parameters, given, missing)


def _from_yaml(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _from_file(path: Path) -> dict[str, Any]:
    """Return what a ROS parameter file sets for our node; what stands further down wins."""
    try:
        content = yaml.safe_load(path.read_text('utf-8'))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ParameterError(f'{path} cannot be read: {" ".join(str(error).split())}') from None
    values: dict[str, Any] = {}
    for entry in _entries(content):
        values |= {str(name): value for name, value in entry.items()}
    if not values:
        raise ParameterError(f'{path} sets no parameters of {NODE}')
    return values


def _entries(content: Any) -> Iterator[dict[Any, Any]]:
    for name, entry in content.items() if isinstance(content, dict) else ():
        if str(name).rpartition('/')[2] in (NODE, '*', '**') and isinstance(entry, dict):
            values = entry.get('ros__parameters')
            yield values if isinstance(values, dict) else {}
