"""Serve a model over HTTP without ROS: OpenAI's protocol, a page, MCP and metrics."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from hobot_llamacpp_py.allocator import give_back_large_blocks
from hobot_llamacpp_py.config import ChatConfig
from hobot_llamacpp_py.engine import Engine
from hobot_llamacpp_py.errors import VlmError
from hobot_llamacpp_py.files import find_file, text_of
from hobot_llamacpp_py.signals import News, on_end
from hobot_llamacpp_py.tools.arguments import ArgumentParser
from hobot_llamacpp_py.tools.model_options import (
    Models,
    add_model_options,
    as_parameter,
    explained,
)
from hobot_llamacpp_py.vision.image_file import read_image
from hobot_llamacpp_py.web.server import Server, read_token
from hobot_llamacpp_py.web.standalone import EngineThread

__all__ = ['main']

QUEUE_SIZE = 8
STOP_TIMEOUT = 1.0  # seconds that native code gets to end


def main(arguments: list[str] | None = None) -> None:
    """Serve until Ctrl-C; exit with 1 if that cannot begin."""
    options = _parser().parse_args(arguments)
    give_back_large_blocks()
    # The models are loaded: nothing. The end: why, empty for Ctrl-C.
    news: News[str | None] = News()
    try:
        thread = _engine_thread(options, news.put)
        token = read_token(options.token_file) if options.token_file else ''
        server = Server(thread, options.host, options.port, token)
    except VlmError as error:
        print(f'error: {explained(error)}', file=sys.stderr)
        sys.exit(1)
    on_end(lambda *_: news.put(''))
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
    add_model_options(parser)
    parser.add_argument('--picture', metavar='FILE', help='what `camera:` sees')
    parser.add_argument('--host', default='127.0.0.1', help='%(default)s')
    parser.add_argument('--port', type=as_parameter('http_port'), required=True, help='0: any')
    parser.add_argument(
        '--token-file', metavar='FILE', help='what clients must bring; needed beyond this machine'
    )
    parser.add_argument(
        '--system-prompt',
        default=ChatConfig.system_prompt,
        help='a text, or a .txt file: %(default)s',
    )
    return parser


def _engine_thread(
    options: argparse.Namespace, tell: Callable[[str | None], None]
) -> EngineThread:
    models = Models.of(options)
    picture = find_file('--picture', options.picture) if options.picture else None
    if picture:
        read_image(picture)
    config = ChatConfig(system_prompt=text_of('--system-prompt', options.system_prompt))

    def load() -> Engine:
        engine = models.open()
        tell(None)
        return engine

    see = (lambda: read_image(picture)) if picture else None
    return EngineThread(
        load, models.llm.stem, config, QUEUE_SIZE, lambda error: tell(explained(error)), see
    )


if __name__ == '__main__':
    main()
