"""A check: what the node refuses or warns of at its start, by its parameters alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from hobot_llamacpp_py.drawing.caption import caption
from hobot_llamacpp_py.drawing.fonts import Fonts
from hobot_llamacpp_py.errors import DrawingError, ModelFileError, ServerError, VlmError
from hobot_llamacpp_py.health.check import Result
from hobot_llamacpp_py.ros.parameters import explained
from hobot_llamacpp_py.ros.settings import (
    check_combinations,
    check_topics,
    find_inputs,
    unknown_parameters,
)
from hobot_llamacpp_py.tools.doctor_case import NODE, Asked
from hobot_llamacpp_py.web.server import INSTALL, bound, check_address, read_token

__all__ = ['check']

_OF_ROS = ('use_sim_time', 'start_type_description_service')  # of every node
_TOKEN = (
    '(umask 77; openssl rand -hex 16 > ~/robot_token), then -p http_token_file:=$HOME/robot_token'
)
_HOST = '-p http_host:=127.0.0.1, or another address of this machine'


def check(asked: Asked) -> Iterator[Result]:
    """Look for what the node would say, and end with."""
    parts = [_unknown, _combinations, _topics, _inputs]
    if asked.case.machine.is_live:
        parts += [_http, _overlay]
    is_fine = True
    for part in parts:
        try:
            results = list(part(asked))
        except VlmError as error:
            mend = error.mend if isinstance(error, ModelFileError) else ''
            fact = error.fact if isinstance(error, ModelFileError) else explained(error)
            results = [Result('failure', fact, mend)]
        is_fine = is_fine and not results
        yield from results
    if is_fine:
        yield Result('ok', 'the parameters go together')


def _unknown(asked: Asked) -> Iterator[Result]:
    # As ROS takes a map.
    names = [f'{n}.' if isinstance(v, dict) else n for n, v in asked.given.items()]
    for line in unknown_parameters(name for name in names if name not in _OF_ROS):
        yield Result('warning', line, 'docs/parameters.md lists them' * ('mean' not in line))


def _combinations(asked: Asked) -> Iterator[Result]:
    for line in check_combinations(asked.parameters):
        yield Result('warning', line)


def _topics(asked: Asked) -> Iterable[Result]:
    check_topics(asked.parameters, NODE, '/')
    return ()


def _inputs(asked: Asked) -> Iterable[Result]:
    find_inputs(asked.parameters)
    return ()


def _http(asked: Asked) -> Iterator[Result]:
    parameters = asked.parameters
    host, file = parameters.http_host, parameters.http_token_file
    if not parameters.http_port:
        return
    try:
        check_address(host, read_token(file) if file else '')
    except ServerError as error:
        fact, install, _ = str(error).partition(f': {INSTALL}')
        yield Result('failure', fact, INSTALL if install else _TOKEN)
    try:
        bound(host, 0).close()  # whether the port itself is free is another check
    except ServerError as error:
        reason = str(error).rpartition(': ')[2]
        yield Result('failure', f'http_host: {host} cannot be listened on: {reason}', _HOST)


def _overlay(asked: Asked) -> Iterator[Result]:
    if not asked.parameters.publish_overlay:
        return
    try:
        caption(np.zeros((48, 64, 3), np.uint8), 'question', 'answer', Fonts())
    except DrawingError as error:
        fact, _, mend = str(error).rpartition(': ')
        yield Result('failure', f'publish_overlay: {fact}', mend)
