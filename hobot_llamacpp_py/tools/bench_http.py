"""Measure what the HTTP server costs, and what a conversation through it saves."""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import select
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hobot_llamacpp_py.config import ChatConfig, DecoderConfig, SamplingConfig
from hobot_llamacpp_py.engine import CancelToken, Chat, Engine, Vlm
from hobot_llamacpp_py.engine.decoder import Decoder
from hobot_llamacpp_py.engine.inbox import Look
from hobot_llamacpp_py.engine.threads import usable_cores
from hobot_llamacpp_py.errors import VlmError
from hobot_llamacpp_py.tools.arguments import EXIT_STATUS, ArgumentParser, count, find_decoder
from hobot_llamacpp_py.tools.bars import Bar, print_verdicts
from hobot_llamacpp_py.tools.bench_engine import StandInEncoder
from hobot_llamacpp_py.tools.bench_model import write_model
from hobot_llamacpp_py.tools.bench_results import (
    Figure,
    Results,
    check_folder,
    facts_of_model,
    figure,
)
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
KIND = 'http'  # of results
NO_TOKEN = 'an answer without a token measures nothing'
N_FRAMES, HEIGHT, WIDTH = 16, 720, 1280
# Short pieces in turn: the machine's speed wanders. A piece takes long enough for two frames.
N_TOKENS = 20
PIECES, PAIRS, CONVERSATIONS = 8, 4, 2  # of a round
FRAME_PERIOD, FIGURES_EVERY = 0.2, 5  # of the page: seconds, and frames
GREEDY = SamplingConfig(temperature=0)
QUESTION: list[dict[str, Any]] = [{'role': 'user', 'content': 'Why?!'}]


# -- clients: each is a process of its own, this file with a role --------------------------------


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
    if not first:
        raise VlmError(NO_TOKEN)
    return first, text


def _visitor() -> None:
    """Converse about a new frame for each line with a port; print seconds to the first tokens."""
    for line in sys.stdin:
        print(json.dumps(_conversation(int(line))), flush=True)


def _conversation(port: int) -> dict[str, float]:
    picture = {'type': 'image_url', 'image_url': {'url': 'camera:'}}
    messages: list[dict[str, Any]] = [
        {'role': 'user', 'content': [picture, {'type': 'text', 'text': 'Why?!'}]}
    ]
    seconds, text = _ask(port, messages)
    messages += [{'role': 'assistant', 'content': text}, *QUESTION]
    return {'first': seconds, 'follow-up': _ask(port, messages)[0]}


def _page() -> None:
    """Ask for what an open page asks for, at the port of the last line; 0 closes the page."""
    connection: http.client.HTTPConnection | None = None
    for n in itertools.count():
        due = time.monotonic() + FRAME_PERIOD
        if connection:
            for path in ('/frame', *(['/figures'] if n % FIGURES_EVERY == 0 else [])):
                connection.request('GET', path)
                connection.getresponse().read()
        wait = max(0.0, due - time.monotonic()) if connection else None
        if select.select([sys.stdin], [], [], wait)[0]:
            if not (line := sys.stdin.readline()):
                return
            if connection:
                connection.close()
            port = int(line)
            connection = http.client.HTTPConnection('127.0.0.1', port) if port else None
            print('done', flush=True)


_ROLES = {'visitor': _visitor, 'page': _page}


class _Client:
    """A client in a process of its own, which does what a line with a port says."""

    def __init__(self, role: str) -> None:
        command = [sys.executable, '-m', 'hobot_llamacpp_py.tools.bench_http', '--role', role]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> _Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def tell(self, port: int) -> str:
        """Tell it a port; return its line, once that is done."""
        assert self._process.stdin and self._process.stdout
        try:
            print(port, file=self._process.stdin, flush=True)
        except BrokenPipeError:
            raise VlmError('a process of the benchmark has ended') from None
        if line := self._process.stdout.readline():
            return line
        raise VlmError('a process of the benchmark has ended')


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
    """A task that decodes so many tokens; `seconds` a token afterwards, or the error."""

    def __init__(self) -> None:
        self.cancel, self.done, self.seconds = CancelToken(), threading.Event(), 0.0
        self.error: Exception | None = None

    def run(self, engine: Vlm, look: Look) -> None:
        """Decode."""
        try:
            config = ChatConfig(max_tokens=N_TOKENS, sampling=GREEDY, speculative=False)
            answer = Chat(engine, config).ask('Why?!')
            for _ in answer:
                pass
            self.seconds = answer.stats.decode_s / max(1, answer.stats.decoded)
        except Exception as error:  # raised again where it is waited for
            self.error = error
        finally:
            self.done.set()


def _token_seconds(backend: EngineThread) -> float:
    loop = _Loop()
    backend.put(loop)
    loop.done.wait()
    if loop.error:
        raise loop.error
    return loop.seconds


def _direct(backend: EngineThread, conversations: Conversations) -> float:
    """Ask the same without HTTP; return seconds to the first piece of the answer."""
    body = {'messages': QUESTION, 'temperature': 0, 'max_tokens': 4}
    ended, first, errors = threading.Event(), list[float](), list[str]()

    def tell(event: Event) -> None:
        if isinstance(event, Piece) and not first:
            first.append(time.perf_counter())
        if isinstance(event, Failed):
            errors.append(event.message)
        if isinstance(event, (Done, Failed)):
            ended.set()

    started = time.perf_counter()
    request = ChatRequest.of(body)
    backend.put(Completion(request, backend.defaults(), {}, conversations, tell))
    ended.wait()
    if not first:
        raise VlmError(errors[0] if errors else NO_TOKEN)
    return first[0] - started


@contextmanager
def _serving(backend: EngineThread) -> Iterator[int]:
    """Start a server, wait until it answers; give its port."""
    server = Server(backend, '127.0.0.1', 0)
    server.start()
    try:
        connection = http.client.HTTPConnection('127.0.0.1', server.port)
        connection.request('GET', '/figures')
        connection.getresponse().read()
        connection.close()
        yield server.port
    finally:
        server.stop()


def _costs(backend: EngineThread, rounds: int) -> dict[str, Figure]:
    """Measure the token loop without a server, with one, and with an open page, in turn."""
    on, opened = [], []
    with _Client('page') as page:
        for _ in range(PIECES * rounds + 1):
            bare = _token_seconds(backend)
            with _serving(backend) as port:
                on.append(bare / _token_seconds(backend))
                page.tell(port)
                opened.append(bare / _token_seconds(backend))
                page.tell(0)
    return {'server on': figure(on[1:]), 'page open': figure(opened[1:])}


def _first_tokens(backend: EngineThread, rounds: int) -> dict[str, Figure]:
    """Measure first tokens through HTTP, and without it, in turn."""
    conversations, added, ratios = Conversations(), [], []
    with _serving(backend) as port, _Client('visitor') as visitor:
        for _ in range(CONVERSATIONS * rounds + 1):
            row = json.loads(visitor.tell(port))
            ratios.append(row['follow-up'] / row['first'])
        # All but the very first find all but a token in the KV cache.
        for _ in range(PAIRS * rounds + 1):
            through = _ask(port, QUESTION)[0]
            added.append(1e3 * (through - _direct(backend, conversations)))
    return {'HTTP ms': figure(added[1:]), 'HTTP follow-up': figure(ratios[1:])}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark; exit with 1 if that fails or a ratio misses its bar."""
    parser = ArgumentParser(
        prog='bench_http', description=(__doc__ or '').strip(), epilog=EXIT_STATUS
    )
    cores = usable_cores()
    n = max(1, min(8, cores - 1))
    parser.add_argument('--threads', type=count, default=n, help='%(default)s here: one less')
    parser.add_argument('--rounds', type=count, default=5, help='measurements: %(default)s')
    help_llm = 'a GGUF decoder in place of the stand-in'
    parser.add_argument('--llm', metavar='MODEL', help=help_llm)
    help_json = 'write the results to this file, too'
    parser.add_argument('--json', type=Path, metavar='FILE', help=help_json)
    parser.add_argument('--role', choices=_ROLES, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.role:
        _ROLES[options.role]()
        return
    try:
        if options.json:
            check_folder(options.json)
        results = _measure(options)
        if options.json:
            results.write(options.json)
    except VlmError as error:
        print(f'error: {error}', file=sys.stderr)
        sys.exit(1)
    ratios = {name: item.value for name, item in results.ratios.items()}
    sys.exit(not print_verdicts(BARS, ratios))


def _measure(options: argparse.Namespace) -> Results:
    llm = find_decoder(options.llm) if options.llm else write_model()
    settings = {'threads': options.threads, 'tokens': N_TOKENS}
    results = Results(KIND, options.rounds, facts_of_model('decoder', llm), settings)
    decoder = Decoder(llm, DecoderConfig(n_ctx=1024, n_threads=options.threads))
    engine = Engine(decoder, StandInEncoder(decoder.n_embd))
    backend = EngineThread(lambda: engine, 'bench', ChatConfig(), 8, print, _Camera())
    backend.start()
    try:
        print('measuring: the token loop beside the server ...', file=sys.stderr, flush=True)
        results.ratios |= _costs(backend, options.rounds)
        print('measuring: first tokens ...', file=sys.stderr, flush=True)
        results.ratios |= _first_tokens(backend, options.rounds)
    finally:
        backend.close(60)
    return results


if __name__ == '__main__':
    main()
