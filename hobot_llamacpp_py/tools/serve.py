"""Serve a model over HTTP without ROS: OpenAI's protocol, a page, MCP and metrics."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue

from hobot_llamacpp_py.config import ChatConfig, DecoderConfig, EncoderConfig
from hobot_llamacpp_py.engine import Engine
from hobot_llamacpp_py.errors import VlmError
from hobot_llamacpp_py.families import FAMILIES
from hobot_llamacpp_py.files import find_file
from hobot_llamacpp_py.vision.image_file import read_image
from hobot_llamacpp_py.web.server import Server, read_token
from hobot_llamacpp_py.web.standalone import EngineThread

__all__ = ['main']

QUEUE_SIZE = 8
STOP_TIMEOUT = 1.0  # seconds that native code gets to end


def main(arguments: list[str] | None = None) -> None:
    """Serve until Ctrl-C; exit with 1 if that cannot begin."""
    options = _parser().parse_args(arguments)
    ends: SimpleQueue[str] = SimpleQueue()
    try:
        thread = _engine_thread(options, ends.put)
        token = read_token(options.token_file) if options.token_file else ''
        server = Server(thread, options.host, options.port, token)
    except VlmError as error:
        print(f'error: {error}', file=sys.stderr)
        sys.exit(1)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ends.put(''))
    thread.start()
    server.start()
    print(f'http://{options.host}:{server.port}/', flush=True)
    reason = ends.get()
    thread.close(STOP_TIMEOUT)
    server.stop()
    if reason:
        print(f'error: {reason}', file=sys.stderr)
    sys.exit(bool(reason))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='serve',
        description=__doc__,
        epilog='Exit status: 0 after Ctrl-C, 1 if the models or the address cannot be had.',
    )
    parser.add_argument('--llm', required=True, metavar='FILE', help='the GGUF text decoder')
    parser.add_argument('--encoder', metavar='FILE', help='the vision encoder; none: text only')
    parser.add_argument('--model-type', type=int, choices=FAMILIES, default=0, help='%(default)s')
    parser.add_argument('--picture', metavar='FILE', help='what `camera:` sees')
    parser.add_argument('--host', default='127.0.0.1', help='%(default)s')
    parser.add_argument('--port', type=int, required=True, help='0: any')
    parser.add_argument(
        '--token-file', metavar='FILE', help='what clients must bring; needed beyond this machine'
    )
    parser.add_argument('--n-ctx', type=int, default=DecoderConfig.n_ctx, help='%(default)s')
    parser.add_argument('--threads', type=int, default=0, help='0: as many as others leave free')
    parser.add_argument('--system-prompt', default=ChatConfig.system_prompt, help='%(default)s')
    return parser


def _engine_thread(options: argparse.Namespace, on_failed: Callable[[str], None]) -> EngineThread:
    llm = find_file('--llm', options.llm)
    encoder = find_file('--encoder', options.encoder) if options.encoder else None
    picture = find_file('--picture', options.picture) if options.picture else None
    if picture:
        read_image(picture)

    def load() -> Engine:
        return Engine.open(
            llm,
            encoder,
            family=FAMILIES[options.model_type],
            config=DecoderConfig(n_ctx=options.n_ctx, n_threads=options.threads),
            encoder_config=EncoderConfig(),
        )

    config = ChatConfig(system_prompt=options.system_prompt)
    see = (lambda: read_image(picture)) if picture else None
    return EngineThread(load, Path(llm).stem, config, QUEUE_SIZE, on_failed, see)


if __name__ == '__main__':
    main()
