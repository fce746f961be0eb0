"""A server in place of the models, without ROS: what is sent, and what servers send back."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import cv2
import numpy as np
import pytest

from hobot_llamacpp_py.config import ChatConfig, RemoteConfig, SamplingConfig, VisionConfig
from hobot_llamacpp_py.engine import CancelToken, Chat, grammar, json_schema
from hobot_llamacpp_py.errors import CancelledError, ConstraintError, RemoteError
from hobot_llamacpp_py.remote.backoff import Backoff
from hobot_llamacpp_py.remote.engine import RemoteEngine

pytest.importorskip('openai', reason='needs requirements/remote.txt')


@dataclass
class Reply:
    """What a server sends: a stream of chunks, or something else."""

    chunks: list[Any] = field(default_factory=list)
    status: int = 200
    body: Any = None
    kind: str = 'application/json'
    headers: dict[str, str] = field(default_factory=dict)
    is_done: bool = True

    def data(self) -> tuple[str, bytes]:
        if self.body is not None:
            text = self.body if isinstance(self.body, str) else json.dumps(self.body)
            return self.kind, text.encode()
        lines = [c if isinstance(c, str) else json.dumps(c) for c in self.chunks]
        lines += ['[DONE]'] if self.is_done else []
        return 'text/event-stream', ''.join(f'data: {line}\n\n' for line in lines).encode()


def chunk(finish: str | None = None, **delta: Any) -> dict[str, Any]:
    """Return a chunk as vLLM sends it."""
    return {'id': 'x', 'choices': [{'index': 0, 'delta': delta, 'finish_reason': finish}]}


GOOD = Reply([chunk(role='assistant', content=''), chunk(content='Hi'), chunk('stop')])


class Scripted(ThreadingHTTPServer):
    """Sends replies one after the other, such as no good server gives; keeps what is asked."""

    def __init__(self, replies: list[Reply]) -> None:
        super().__init__(('127.0.0.1', 0), _Handler)
        self.replies, self.requests = replies, list[dict[str, Any]]()
        self.url = f'http://127.0.0.1:{self.server_port}/v1'
        self.models = ['first', 'second']


class _Handler(BaseHTTPRequestHandler):
    server: Scripted

    def do_GET(self) -> None:
        models = [{'id': name, 'object': 'model'} for name in self.server.models]
        self._send(Reply(body={'object': 'list', 'data': models}))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers['Content-Length'])))
        self.server.requests.append(body)
        self._send(self.server.replies.pop(0))

    def _send(self, reply: Reply) -> None:
        kind, data = reply.data()
        self.send_response(reply.status)
        for name, value in {'Content-Type': kind, **reply.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


Connect = Callable[..., AbstractContextManager[tuple[Scripted, Chat]]]


@pytest.fixture
def connect() -> Connect:
    """Return a function that starts a server with replies, and a chat with it."""

    @contextmanager
    def starter(*replies: Reply, model: str = '') -> Iterator[tuple[Scripted, Chat]]:
        with Scripted(list(replies)) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            with RemoteEngine.open(server.url, RemoteConfig(model), VisionConfig()) as engine:
                yield server, Chat(engine, ChatConfig(system_prompt=''))
            server.shutdown()

    return starter


def ask(chat: Chat, question: str = 'Why?', picture: Any = None) -> str:
    return ''.join(chat.ask(question, picture))


# -- what is sent --------------------------------------------------------------------------------


def test_a_conversation(connect: Connect) -> None:
    """It is sent as a whole, each picture in its turn and to the last byte as before."""
    bgr = np.full((1080, 1920, 3), 127, np.uint8)
    with connect(GOOD, GOOD) as (server, chat):
        picture = chat.engine.picture(bgr)
        assert chat.engine.encode_ahead(picture).result().startswith('data:image/jpeg;base64,')
        chat.config = ChatConfig('Be brief.')
        assert [ask(chat, question, picture) for question in ('Why?', 'And?')] == ['Hi', 'Hi']
        first, second = (request['messages'] for request in server.requests)
    assert first == second[:2]
    image, text = first[1].pop('content')
    assert first == [{'role': 'system', 'content': 'Be brief.'}, {'role': 'user'}]
    assert text == {'type': 'text', 'text': 'Why?'}
    assert second[2:] == [
        {'role': 'assistant', 'content': 'Hi'},
        {'role': 'user', 'content': 'And?'},
    ]
    data = chat.engine.encode_ahead(picture).result()
    assert image == {'type': 'image_url', 'image_url': {'url': data}}
    import base64

    jpeg = np.frombuffer(base64.b64decode(data.partition(',')[2]), np.uint8)
    assert cv2.imdecode(jpeg, cv2.IMREAD_COLOR).shape == (576, 1024, 3)


def test_what_was_not_set_is_not_sent(connect: Connect) -> None:
    """Servers that refuse what they do not know are sent OpenAI's own words only."""
    with connect(GOOD, GOOD) as (server, chat):
        ask(chat)
        chat.config = ChatConfig(
            thinking='off',
            max_tokens=7,
            sampling=SamplingConfig(top_k=5, min_p=0.1, repeat_penalty=1.1, seed=3, temperature=1),
        )
        ask(chat)
    plain, full = server.requests
    words = {'model', 'messages', 'max_tokens', 'temperature', 'top_p', 'stream'}
    assert plain.keys() == words | {'stream_options'}
    assert (plain['model'], plain['temperature'], plain['max_tokens']) == ('first', 0.5, 256)
    assert full.items() >= dict(top_k=5, min_p=0.1, seed=3, temperature=1, max_tokens=7).items()
    assert (full['repeat_penalty'], full['repetition_penalty']) == (1.1, 1.1)
    assert full['chat_template_kwargs'] == {'enable_thinking': False}


def test_a_schema_is_sent_as_it_was_given(connect: Connect) -> None:
    """What only llguidance knows is added for it alone."""
    schema = {'type': 'object', 'properties': {'n': {'type': 'number', 'minimum': 0}}}
    sampling = SamplingConfig(constraint=json_schema(schema))
    with connect(Reply([chunk(content='{"n": 1}'), chunk('stop')])) as (server, chat):
        chat.config = ChatConfig(sampling=sampling)
        assert ask(chat) == '{"n": 1}'
    wrapped = {'name': 'answer', 'schema': schema, 'strict': True}
    (request,) = server.requests
    assert request['response_format'] == {'type': 'json_schema', 'json_schema': wrapped}


def test_a_grammar_is_refused(connect: Connect) -> None:
    """A server that passes over a grammar would answer anything: it is not asked."""
    with connect() as (server, chat):
        chat.config = ChatConfig(sampling=SamplingConfig(constraint=grammar('root ::= "a"')))
        with pytest.raises(ConstraintError, match='has no grammars'):
            ask(chat)
    assert server.requests == []


def test_the_model(connect: Connect) -> None:
    """It is the server's first one, or the one that was named; one that has gone is forgotten."""
    gone = Reply(status=404, body={'error': {'message': 'The model `first` does not exist.'}})
    with connect(GOOD, gone, GOOD) as (server, chat):
        ask(chat)
        server.models = ['third']
        with pytest.raises(RemoteError, match=r'\(status 404\): The model `first` does not exist'):
            ask(chat)
        ask(chat)
    assert [request['model'] for request in server.requests] == ['first', 'first', 'third']
    with connect(GOOD, model='second') as (server, chat):
        ask(chat)
    assert server.requests[0]['model'] == 'second'


# -- what comes back -----------------------------------------------------------------------------


@pytest.mark.parametrize('name', ['reasoning_content', 'reasoning'])
def test_thoughts(connect: Connect, name: str) -> None:
    """Both names that servers have for thoughts are known; they are no part of the history."""
    reply = Reply(
        [chunk(**{name: 'Hm'}), chunk(**{name: '.'}), chunk(content='Yes'), chunk('stop')]
    )
    unfinished = Reply([chunk(**{name: 'Hm'}), chunk('length')])
    with connect(reply, unfinished) as (_, chat):
        answer, thoughts = chat.ask('Why?'), list[str]()
        answer.on_thought = thoughts.append
        assert (''.join(answer), answer.thoughts, thoughts) == ('Yes', 'Hm.', ['Hm', '.'])
        assert bytes(chat.turns[0].answer or ()) == b'Yes'
        answer = chat.ask('Why?')
        assert (''.join(answer), answer.finish, answer.is_thinking) == ('', 'length', True)


def test_what_it_cost(connect: Connect) -> None:
    """Counts are the server's, where it counts."""
    usage = {
        'prompt_tokens': 100,
        'completion_tokens': 20,
        'prompt_tokens_details': {'cached_tokens': 60},
        'completion_tokens_details': None,
    }
    counted = Reply([*GOOD.chunks, {'id': 'x', 'choices': [], 'usage': usage}])
    with connect(counted, GOOD) as (_, chat):
        given = chat.ask('Why?')
        assert ''.join(given) == 'Hi'
        stats = given.stats
        assert (stats.reused, stats.prefilled, given.n_tokens, stats.thinking) == (60, 40, 20, 0)
        given = chat.ask('Why?')
        assert (''.join(given), given.n_tokens) == ('Hi', 1)


def test_halves_of_characters(connect: Connect) -> None:
    """What is no Unicode is replaced: topics could not carry it."""
    with connect(Reply([r'{"choices": [{"delta": {"content": "a\ud800b"}}]}', chunk('stop')])) as (
        _,
        chat,
    ):
        assert ask(chat) == 'a?b'


@pytest.mark.parametrize(
    'reply, words',
    [
        (Reply([chunk(content='Hi')], is_done=False), 'broke off in the middle of an answer$'),
        (Reply([chunk(content='Hi'), '{"choi']), 'broke off in the middle of an answer: .+'),
        (Reply([{'error': {'message': 'CUDA\nis out'}}]), 'failed: CUDA is out$'),
        (Reply([]), 'gave no answer; perhaps the question is too long'),
        (Reply(body={'choices': []}), 'it sent application/json'),
        (Reply(status=500, body='oops', kind='text/plain'), r'an error \(status 500\): oops$'),
        (Reply(status=502, body='<html>', kind='text/html'), r'status 502: an HTML page'),
        (Reply(status=503, body={}), r'has too much to do \(status 503\)'),
        (Reply(status=422, body={'detail': 'no'}), r'cannot answer that \(status 422\): no$'),
        (Reply(status=400, body={'message': 'x' * 999}), 'x{200}$'),
    ],
)
def test_what_goes_wrong(connect: Connect, reply: Reply, words: str) -> None:
    """It is one line that names the server; the next question is tried."""
    with connect(reply, GOOD) as (server, chat):
        with pytest.raises(RemoteError, match=words) as error:
            ask(chat)
        assert str(error.value).startswith(server.url) and '\n' not in str(error.value)
        assert chat.turns == ()
        assert ask(chat) == 'Hi'


def test_an_answer_that_is_no_json(connect: Connect) -> None:
    """A server that passes over the schema is told apart from one that keeps to it."""
    with connect(GOOD) as (_, chat):
        chat.config = ChatConfig(sampling=SamplingConfig(constraint=json_schema({})))
        with pytest.raises(RemoteError, match='does not keep to json_schema: Hi'):
            ask(chat)


def test_a_conversation_that_is_too_long(connect: Connect) -> None:
    """Half of it is dropped, the newest picture stays, and the rest is answered."""
    said = "This model's maximum context length is 4096 tokens."
    too_long = Reply(status=400, body={'error': {'message': said}})
    replies = [GOOD] * 4 + [too_long, GOOD, too_long, too_long, too_long]
    with connect(*replies) as (server, chat):
        picture = chat.engine.picture(np.zeros((48, 64, 3), np.uint8))
        for number in range(5):
            assert ask(chat, str(number), picture) == 'Hi'
        *_, failed, last = server.requests
        assert len(failed['messages']) == 9 and len(last['messages']) == 5
        assert [part['type'] for part in last['messages'][0]['content']] == ['image_url', 'text']
        assert [turn.question for turn in chat.turns] == ['2', '3', '4']
        with pytest.raises(RemoteError, match='maximum context length'):
            ask(chat)


# -- patience ------------------------------------------------------------------------------------


def test_a_server_that_fails_is_left_alone() -> None:
    """For longer each time, for as long as it says, and no more once it works."""
    backoff, rests = Backoff(), list[int]()
    for _ in range(7):
        backoff.failed()
        rests.append(round(2 * backoff.rest))
    assert rests == [1, 2, 4, 8, 16, 16, 16]
    backoff.failed(retry_after=60)
    assert 16 < backoff.rest <= 60
    cancel = CancelToken()
    cancel.set()
    with pytest.raises(CancelledError):
        backoff.wait(cancel)
    backoff.succeeded()
    assert backoff.rest == 0


def test_a_long_retry_after(connect: Connect) -> None:
    """A server that wants to be left alone for long is, and questions do not wait for it."""
    busy = Reply(status=429, body={'detail': 'Busy.'}, headers={'Retry-After': '3600'})
    with connect(busy) as (server, chat):
        with pytest.raises(RemoteError, match=r'too much to do \(status 429\): Busy.'):
            ask(chat)
        with pytest.raises(RemoteError, match='to be left alone for another 3600 s'):
            ask(chat)
    assert len(server.requests) == 1


# -- what it needs -------------------------------------------------------------------------------


def test_without_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where OpenAI's client is missing, one is told what to install."""
    monkeypatch.setitem(sys.modules, 'openai', None)
    with pytest.raises(RemoteError, match='pip3 install -r requirements/remote.txt'):
        RemoteEngine('http://127.0.0.1:1/v1')


def test_a_token_that_cannot_be_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused, and not shown."""
    monkeypatch.setenv('OPENAI_API_KEY', 'geheim\x07')
    with pytest.raises(RemoteError, match=r'token in \$OPENAI_API_KEY has') as error:
        RemoteEngine('http://127.0.0.1:1/v1')
    assert 'geheim' not in str(error.value)
