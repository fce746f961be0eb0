"""Measure what the HTTP server costs, and what a conversation through it saves."""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hobot_llamacpp_py.config import ChatConfig, DecoderConfig, SamplingConfig
from hobot_llamacpp_py.engine import CancelToken, Chat, Engine, Vlm
from hobot_llamacpp_py.engine.decoder import Decoder
from hobot_llamacpp_py.engine.inbox import Look
from hobot_llamacpp_py.errors import VlmError
from hobot_llamacpp_py.tools.bars import Bar, print_verdicts
from hobot_llamacpp_py.tools.bench_engine import StandInEncoder
from hobot_llamacpp_py.tools.bench_model import write_model
from hobot_llamacpp_py.web.chat_request import ChatRequest
from hobot_llamacpp_py.web.completion import Completion, Done, Event, Failed, Piece
from hobot_llamacpp_py.web.conversations import Conversations
from hobot_llamacpp_py.web.server import Server
from hobot_llamacpp_py.web.standalone import EngineThread

__all__ = ['main']

BARS = {
    'server on': Bar(
        True, 0.98, 'speed of the token loop with the server on and nobody connected, by without'
    ),
    'page open': Bar(
        True,
        0.97,
        'the same with the page open: five new frames a second, the figures each second',
    ),
    'HTTP ms': Bar(False, 5.0, 'milliseconds that HTTP adds to the first token'),
    'HTTP follow-up': Bar(
        False,
        0.15,
        "first token of a conversation's next question, picture included, by that of its first"
        ' one, both through HTTP and without the encoder',
    ),
}
N_FRAMES, HEIGHT, WIDTH = 16, 720, 1280
N_TOKENS = 64
GREEDY = SamplingConfig(temperature=0)
QUESTION: list[dict[str, Any]] = [{'role': 'user', 'content': 'Why?!'}]


# -- clients: each is a process of its own, this file with a word --------------------------------


def _ask(port: int, messages: Sequence[dict[str, Any]]) -> tuple[float, str]:
    """Ask over HTTP; return seconds to the first piece of the answer, and the answer."""
    connection = http.client.HTTPConnection('127.0.0.1', port)
    body = {'messages': messages, 'stream': True, 'temperature': 0, 'max_tokens': 4}
    started, first, text = time.perf_counter(), 0.0, ''
    headers = {'Content-Type': 'application/json'}
    connection.request('POST', '/v1/chat/completions', json.dumps(body), headers)
    response = connection.getresponse()
    if response.status != 200:
        raise VlmError(response.read().decode())
    for line in response:
        if line.startswith(b'data: {'):
            piece = json.loads(line[6:])['choices'][0]['delta'].get('content')
            if piece and not first:
                first = time.perf_counter() - started
            text += piece or ''
    connection.close()
    return first, text


def _visitor(port: int) -> None:
    """Converse about one frame after the other; print seconds to each first token, as JSON."""
    for line in sys.stdin:
        rows = [_conversation(port) for _ in range(int(line))]
        print(json.dumps(rows), flush=True)


def _conversation(port: int) -> dict[str, float]:
    picture = {'type': 'image_url', 'image_url': {'url': 'camera:'}}
    messages: list[dict[str, Any]] = [
        {'role': 'user', 'content': [picture, {'type': 'text', 'text': 'Why?!'}]}
    ]
    seconds, text = _ask(port, messages)
    messages += [{'role': 'assistant', 'content': text}, *QUESTION]
    return {'first': seconds, 'follow-up': _ask(port, messages)[0]}


def _page(port: int) -> None:
    """Ask for what an open page asks for, until we are killed."""
    connection = http.client.HTTPConnection('127.0.0.1', port)
    for n in itertools.count():
        started = time.monotonic()
        for path in ['/frame', *(['/figures'] if n % 5 == 0 else [])]:
            connection.request('GET', path)
            connection.getresponse().read()
        time.sleep(max(0.0, 0.2 + started - time.monotonic()))


_ROLES: dict[str, Callable[[int], None]] = {'visitor': _visitor, 'page': _page}


@contextmanager
def _role(name: str, port: int) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, '-m', 'hobot_llamacpp_py.tools.bench_http', '--role', name]
    with subprocess.Popen(
        [*command, str(port)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


# -- what is measured ----------------------------------------------------------------------------


class _Camera:
    """Sees another picture each time: a pattern that moves, as smooth as a camera's are."""

    def __init__(self) -> None:
        noise = np.random.default_rng(0).integers(0, 256, (HEIGHT // 16, WIDTH // 16, 3), np.uint8)
        picture = noise.repeat(16, 0).repeat(16, 1)
        shifted = (np.roll(picture, 16 * i, 1).copy() for i in range(N_FRAMES))
        self._frames = itertools.cycle(list(shifted))

    def __call__(self) -> npt.NDArray[np.uint8]:
        bgr = next(self._frames)
        bgr[0, 0] += 1  # so that none comes twice
        return bgr


class _Loop:
    """A task that decodes so many tokens; `seconds` a token afterwards."""

    def __init__(self) -> None:
        self.cancel, self.done, self.seconds = CancelToken(), threading.Event(), 0.0

    def run(self, engine: Vlm, look: Look) -> None:
        """Decode."""
        config = ChatConfig(max_tokens=N_TOKENS, sampling=GREEDY, speculative=False)
        answer = Chat(engine, config).ask('Why?!')
        for _ in answer:
            pass
        self.seconds = answer.stats.decode_s / max(1, answer.stats.decoded)
        self.done.set()


def _token_seconds(backend: EngineThread) -> float:
    loop = _Loop()
    backend.put(loop)
    loop.done.wait()
    return loop.seconds


def _direct(backend: EngineThread, conversations: Conversations) -> float:
    """Ask the same without HTTP; return seconds to the first piece of the answer."""
    body = {'messages': QUESTION, 'temperature': 0, 'max_tokens': 4}
    ended, first = threading.Event(), list[float]()

    def tell(event: Event) -> None:
        if isinstance(event, Piece) and not first:
            first.append(time.perf_counter())
        if isinstance(event, (Done, Failed)):
            ended.set()

    started = time.perf_counter()
    request = ChatRequest.of(body)
    backend.put(Completion(request, backend.defaults(), {}, conversations, tell))
    ended.wait()
    return first[0] - started


def _costs(backend: EngineThread, rounds: int) -> dict[str, float]:
    """Measure the token loop without a server, with one, and with an open page."""
    on, opened = [], []
    for _ in range(rounds + 1):
        bare = _token_seconds(backend)
        server = Server(backend, '127.0.0.1', 0)
        server.start()
        with _role('page', server.port) as page:
            page.send_signal(signal.SIGSTOP)  # not yet
            on.append(bare / _token_seconds(backend))
            page.send_signal(signal.SIGCONT)
            time.sleep(0.5)
            opened.append(bare / _token_seconds(backend))
        server.stop()
    return {'server on': statistics.median(on[1:]), 'page open': statistics.median(opened[1:])}


def _first_tokens(backend: EngineThread, rounds: int) -> dict[str, float]:
    """Measure first tokens through HTTP, and without it."""
    server, conversations = Server(backend, '127.0.0.1', 0), Conversations()
    server.start()
    added, ratios = [], []
    with _role('visitor', server.port) as visitor:
        assert visitor.stdin and visitor.stdout
        for _ in range(rounds + 1):
            print(1, file=visitor.stdin, flush=True)
            (row,) = json.loads(visitor.stdout.readline())
            ratios.append(row['follow-up'] / row['first'])
            # Both find all but a token in the KV cache.
            _ask(server.port, QUESTION)
            through = [_ask(server.port, QUESTION)[0] for _ in range(3)]
            direct = [_direct(backend, conversations) for _ in range(3)]
            added.append(1e3 * (min(through) - min(direct)))
    server.stop()
    return {
        'HTTP ms': statistics.median(added[1:]),
        'HTTP follow-up': statistics.median(ratios[1:]),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark; exit with 1 if a ratio misses its bar."""
    parser = argparse.ArgumentParser(prog='bench_http', description=(__doc__ or '').strip())
    cores = len(os.sched_getaffinity(0))
    n = max(1, min(8, cores - 1))
    parser.add_argument('--threads', type=int, default=n, help='%(default)s here: one less')
    parser.add_argument('--rounds', type=int, default=5, help='measurements of each: %(default)s')
    parser.add_argument('--llm', type=Path, help='a GGUF decoder in place of the stand-in')
    parser.add_argument('--role', nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.role:
        _ROLES[options.role[0]](int(options.role[1]))
        return
    figures: dict[str, float] = {}
    try:
        config = DecoderConfig(n_ctx=1024, n_threads=options.threads)
        decoder = Decoder(options.llm or write_model(), config)
        engine = Engine(decoder, StandInEncoder(decoder.n_embd))
        backend = EngineThread(lambda: engine, 'bench', ChatConfig(), 8, print, _Camera())
        backend.start()
        print('measuring: the token loop beside the server ...', file=sys.stderr, flush=True)
        figures |= _costs(backend, options.rounds)
        print('measuring: first tokens ...', file=sys.stderr, flush=True)
        figures |= _first_tokens(backend, options.rounds)
        backend.close(60)
    except VlmError as error:
        print(f'error: {error}', file=sys.stderr)
        sys.exit(2)
    sys.exit(not print_verdicts(BARS, figures))


if __name__ == '__main__':
    main()
