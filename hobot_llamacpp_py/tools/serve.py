"""Serve a model over HTTP without ROS: OpenAI's protocol, a page, MCP and metrics."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue

from hobot_llamacpp_py import catalogue
from hobot_llamacpp_py.config import ChatConfig, DecoderConfig, EncoderConfig
from hobot_llamacpp_py.engine import Engine
from hobot_llamacpp_py.errors import ParameterError, VlmError, one_line
from hobot_llamacpp_py.families import FAMILIES, ModelFamily
from hobot_llamacpp_py.files import find_file, text_of
from hobot_llamacpp_py.health.packages import missing
from hobot_llamacpp_py.ros.parameters import coerce
from hobot_llamacpp_py.tools.arguments import ArgumentParser, find_edition
from hobot_llamacpp_py.vision.image_file import read_image
from hobot_llamacpp_py.web.server import Server, read_token
from hobot_llamacpp_py.web.standalone import EngineThread

__all__ = ['main']

QUEUE_SIZE = 8
STOP_TIMEOUT = 1.0  # seconds that native code gets to end


def main(arguments: list[str] | None = None) -> None:
    """Serve until Ctrl-C; exit with 1 if that cannot begin."""
    options = _parser().parse_args(arguments)
    # The models are loaded: nothing. The end: why, empty for Ctrl-C.
    news: SimpleQueue[str | None] = SimpleQueue()
    try:
        thread = _engine_thread(options, news.put)
        token = read_token(options.token_file) if options.token_file else ''
        server = Server(thread, options.host, options.port, token)
    except VlmError as error:
        print(f'error: {_explained(error)}', file=sys.stderr)
        sys.exit(1)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: news.put(''))
    thread.start()
    server.start()
    if (reason := news.get()) is None:
        print(f'http://{options.host}:{server.port}/', flush=True)
        reason = news.get()
    thread.close(STOP_TIMEOUT)
    server.stop()
    if reason:
        print(f'error: {reason}', file=sys.stderr)
    sys.exit(bool(reason))


def _parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(
        prog='serve',
        description=__doc__,
        epilog='Exit status: 0 after Ctrl-C, 1 if the models or the address cannot be had.',
    )
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
        type=_as('model_type'),
        metavar='NUMBER',
        help=f"{types} (0, or the name's)",
    )
    parser.add_argument('--picture', metavar='FILE', help='what `camera:` sees')
    parser.add_argument('--host', default='127.0.0.1', help='%(default)s')
    parser.add_argument('--port', type=_as('http_port'), required=True, help='0: any')
    parser.add_argument(
        '--token-file', metavar='FILE', help='what clients must bring; needed beyond this machine'
    )
    parser.add_argument(
        '--n-ctx', type=_as('n_ctx'), default=DecoderConfig.n_ctx, help='%(default)s'
    )
    parser.add_argument(
        '--threads', type=_as('llm_threads'), default=0, help='0: as many as others leave free'
    )
    parser.add_argument(
        '--system-prompt',
        default=ChatConfig.system_prompt,
        help='a text, or a .txt file: %(default)s',
    )
    return parser


def _as(parameter: str) -> Callable[[str], object]:
    """Return the type of an argument that means what a parameter of the node does."""

    def read(text: str) -> object:
        try:
            return coerce(parameter, int(text) if text.lstrip('-').isdecimal() else text)
        except ParameterError as error:
            raise argparse.ArgumentTypeError(str(error).removeprefix(f'{parameter}: ')) from None

    return read


def _engine_thread(
    options: argparse.Namespace, tell: Callable[[str | None], None]
) -> EngineThread:
    family, encoder, llm = _models(options)
    picture = find_file('--picture', options.picture) if options.picture else None
    if picture:
        read_image(picture)
    config = ChatConfig(system_prompt=text_of('--system-prompt', options.system_prompt))

    def load() -> Engine:
        engine = Engine.open(
            llm,
            encoder,
            family=family,
            config=DecoderConfig(n_ctx=options.n_ctx, n_threads=options.threads),
            encoder_config=EncoderConfig(),
        )
        tell(None)
        return engine

    see = (lambda: read_image(picture)) if picture else None
    return EngineThread(
        load, llm.stem, config, QUEUE_SIZE, lambda error: tell(_explained(error)), see
    )


def _models(options: argparse.Namespace) -> tuple[ModelFamily, Path | None, Path]:
    """Return the family, where the encoder is, if there is to be one, and the decoder."""
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
    return family, encoder, llm


def _explained(error: Exception) -> str:
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


if __name__ == '__main__':
    main()
