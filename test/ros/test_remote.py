"""The installed node with a server in place of its models: the same topics, the same answers."""

from __future__ import annotations

import json
import re
import socket
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from llama_served import LlamaServed, free_port
from nano import CONFIG, answer, draw_scene
from robot import Robot, without_stamps
from scripted_decoder import ASK, USER_DEFINED, write_decoder
from served import Served

from training.chat import facts

openai = pytest.importorskip('openai', reason='needs requirements/remote.txt')
pytest.importorskip('starlette', reason='needs requirements/web.txt')

Start = Callable[..., AbstractContextManager[Robot]]
DESCRIBE, DESCRIBE_ZH, COLOR = (
    'Describe the image.',
    '描述一下这张图片。',
    'What color is the circle?',
)
START = 'There is a yellow star at the top, '
IMAGE2 = f'{START}a red circle on the left and a blue square on the right.'
SCHEMA = {
    'type': 'object',
    'properties': {'color': {'enum': ['red', 'green']}, 'n': {'type': 'integer', 'maximum': 9}},
    'required': ['color', 'n'],
}
# Answers that would take minutes.
ENDLESS = json.dumps({'type': 'array', 'items': {'enum': [0, 1]}, 'minItems': 20000})
LONG = dict(max_tokens=30000, image=CONFIG / 'image2.jpg')
ROOM = ['--n-ctx', '32768']


@pytest.fixture(scope='module')
def served() -> Iterator[Served]:
    """A server for the tests that leave it as it was."""
    with Served('internvl', ROOM) as server:
        yield server


@pytest.fixture
def ask_server(start: Start) -> Callable[..., AbstractContextManager[Robot]]:
    """Return a function that starts the node with a server in place of its models."""

    @contextmanager
    def starter(url: str, **parameters: Any) -> Iterator[Robot]:
        models = dict(llm_model_name=url, model_file_name='none.bin', model_type=None)
        with start(**models, cute_words='', **parameters) as robot:
            robot.wait_until_ready()
            yield robot
            assert 'Traceback' not in robot.log

    return starter


def health(served: Served) -> str:
    with urllib.request.urlopen(f'{served.url}/health') as response:
        return str(json.load(response)['status'])


def post(port: int, body: dict[str, Any]) -> socket.socket:
    """Ask a question whose answer nobody waits for; closed, the client has gone."""
    data = json.dumps(body).encode()
    client = socket.create_connection(('127.0.0.1', port))
    head = f'Host: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(data)}'
    client.sendall(f'POST /v1/chat/completions HTTP/1.1\r\n{head}\r\n\r\n'.encode() + data)
    return client


class Silent(BaseHTTPRequestHandler):
    """Tells its models, and nothing else; counts who asks, and who leaves."""

    server: SilentServer

    def do_GET(self) -> None:
        body = json.dumps({'object': 'list', 'data': [{'id': 'mute', 'object': 'model'}]})
        self.send_response(200)
        self.send_header('Content-Type', 'application/json')
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers['Content-Length']))
        self.server.asked += 1
        assert self.connection.recv(1) == b''
        self.server.left += 1
        self.close_connection = True

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


class SilentServer(ThreadingHTTPServer):
    """Use as a context manager. `url` is its address."""

    asked = left = 0

    def __enter__(self) -> SilentServer:
        threading.Thread(target=self.serve_forever, daemon=True).start()
        self.url = f'http://127.0.0.1:{self.server_port}'
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


def silent() -> SilentServer:
    return SilentServer(('127.0.0.1', 0), Silent)


def warnings(robot: Robot) -> list[str]:
    return [line for line in without_stamps(robot.log) if line.startswith('WARN')]


class TestAnswers:
    """What a robot hears does not tell where its model is."""

    def test_a_local_picture(self, ask_server: Start, served: Served, picture_file: Any) -> None:
        """Follow-up questions are about the same picture; pieces add up; all is on its topic."""
        scene, bgr = draw_scene(1)
        with ask_server(f'{served.url}/v1', image=picture_file(bgr)) as robot:
            for question in (DESCRIBE, COLOR, '有几个图形？', DESCRIBE_ZH):
                assert robot.ask(question) == answer(scene, question)
            said = answer(scene, DESCRIBE_ZH)
            robot.wait_for(lambda: ''.join(robot.partials).endswith(said), 'all pieces')
            assert len(robot.partials) > 10
            robot.wait_for(lambda: ''.join(robot.speech).endswith(said), 'speaking')
            robot.wait_for(lambda: int(robot.status['KV cells reused']) > 60, 'diagnostics')
            assert robot.status['llm_model_name'] == f'{served.url}/v1'
            assert robot.status['remote model'] == 'nano_internvl'
            assert robot.status['last error'] == ''
            assert warnings(robot) == []

    def test_a_camera(self, ask_server: Start, served: Served) -> None:
        """Each question is about the newest frame, large ones included."""
        with ask_server(served.url, feed_type=1) as robot:  # without /v1
            for seed in range(3):
                scene, bgr = draw_scene(seed, (1600, 1200) if seed == 2 else (320, 240))
                robot.show(bgr)
                assert robot.ask(DESCRIBE) == answer(scene, DESCRIBE)

    def test_prepared_frames(self, ask_server: Start, served: Served) -> None:
        """With pre_infer a frame is prepared at the wake word, and the question is about it."""
        with ask_server(served.url, feed_type=1, pre_infer=1) as robot:
            prepared, bgr = draw_scene(1)
            robot.show(bgr)
            robot.say('你好')
            robot.wait_for(lambda: 'preparing, for the wake word' in robot.log)
            robot.wait_for(lambda: robot.status['frames received'] == '1', 'preparing')
            robot.show(draw_scene(2)[1])
            assert robot.ask(DESCRIBE) == answer(prepared, DESCRIBE)

    def test_continuous(self, ask_server: Start, served: Served) -> None:
        """With continuous the question is answered again, about new frames."""
        parameters = dict(feed_type=1, continuous=True, user_prompt=DESCRIBE)
        with ask_server(served.url, **parameters) as robot:
            for seed in (1, 2):
                scene, bgr = draw_scene(seed)
                robot.show(bgr)
                robot.wait_for(lambda s=scene: answer(s, DESCRIBE) in robot.texts, 'an answer')

    def test_once(self, start: Start, served: Served) -> None:
        """With once the answer is printed and the process ends."""
        parameters = dict(llm_model_name=served.url, model_file_name=None, model_type=None)
        parameters |= dict(once=True, user_prompt=DESCRIBE, image=CONFIG / 'image2.jpg')
        with start(**parameters) as robot:
            assert robot.wait_for_end() == 0
            assert robot.output == IMAGE2 + '\n'

    def test_passed_on(self, ask_server: Start, served: Served) -> None:
        """With http_port others ask the server through the node, about what the robot sees."""
        port, image = free_port(), CONFIG / 'image2.jpg'
        with ask_server(served.url, image=image, http_port=port):
            client = openai.OpenAI(base_url=f'http://127.0.0.1:{port}/v1', api_key='none')
            picture = {'type': 'image_url', 'image_url': {'url': 'camera:'}}
            messages: list[Any] = [
                {'role': 'user', 'content': [picture, {'type': 'text', 'text': DESCRIBE}]}
            ]
            for question, right in ((DESCRIBE, IMAGE2), (COLOR, 'The circle is red.')):
                if question != DESCRIBE:
                    messages.append({'role': 'user', 'content': question})
                response = client.chat.completions.create(model='any', messages=messages)
                said = response.choices[0].message.content
                assert said.strip() == right
                messages.append({'role': 'assistant', 'content': said})

    def test_json(self, ask_server: Start, served: Served) -> None:
        """An answer follows the schema; it is changed while the node runs."""
        with ask_server(served.url, image=CONFIG / 'image2.jpg') as robot:
            assert robot.set_parameter('json_schema', json.dumps(SCHEMA)) == (True, '')
            found = json.loads(robot.ask(DESCRIBE))
            assert found['color'] in ('red', 'green') and found['n'] <= 9
            assert robot.set_parameter('max_tokens', 3) == (True, '')
            assert robot.ask(DESCRIBE).startswith('[error] the answer is not complete')
            assert robot.set_parameter('json_schema', '') == (True, '')
            assert robot.set_parameter('max_tokens', 100) == (True, '')
            assert robot.ask(DESCRIBE) == IMAGE2
            success, reason = robot.set_parameter('grammar', 'root ::= "yes" | "no"')
            assert not success and "OpenAI's protocol has no grammars" in reason

    def test_thoughts(self, ask_server: Start, tmp_path: Path) -> None:
        """Thoughts are on ~/thinking alone; thinking is switched off while the node runs."""
        script = {ASK: '<think>', '<think>': 'I', 'I': ' see', ' see': '</think>'}
        script |= {'</think>': '\n\n', '\n\n': 'Hello', 'Hello': '.'}
        special = dict.fromkeys(['<think>', '</think>'], USER_DEFINED)
        model = write_decoder(tmp_path / 'thinks.gguf', script, special)
        thoughts: list[str] = []
        with (
            Served(llm=model) as thinker,
            ask_server(thinker.url, feed_type=2, system_prompt='') as robot,
        ):
            robot.listen('/llamacpp_node/thinking', lambda message: thoughts.append(message.data))
            robot.wait_for(lambda: robot.client.count_publishers('/llamacpp_node/thinking'))
            assert [robot.ask('Why?') for _ in range(2)] == ['Hello.'] * 2
            robot.wait_for(lambda: ''.join(thoughts) == 'I see' * 2, 'thoughts')
            robot.wait_for(lambda: robot.status['tokens of thoughts'] == '5', 'diagnostics')
            assert robot.set_parameter('thinking', 'off') == (True, '')
            assert robot.ask('Why?') == 'Hello.'
            assert robot.set_parameter('thinking', 'auto') == (True, '')
            assert robot.set_parameter('max_tokens', 3) == (True, '')
            still = '[error] the model was still thinking when max_tokens was reached: '
            assert robot.ask('Why?').startswith(still)
            robot.wait_for(lambda: ''.join(thoughts) == 'I see' * 3, 'thoughts')


class TestOtherServer:
    """llama-cpp-python's own server, which was not made for this node."""

    @pytest.fixture(autouse=True)
    def needs_its_extras(self) -> None:
        pytest.importorskip('fastapi', reason='needs requirements/web_test.txt')
        pytest.importorskip('starlette_context', reason='needs requirements/web_test.txt')

    def test_text_chat(self, ask_server: Start, tmp_path: Path) -> None:
        """It answers in both languages; that it cannot follow a schema is an error."""
        with (
            LlamaServed(tmp_path, ['--n_ctx', '2048']) as server,
            ask_server(server.url, feed_type=2, history_turns=0) as robot,
        ):
            for language in ('en', 'zh'):
                for wordings, right in facts(language)[4:12:3]:
                    assert robot.ask(wordings[0]).strip() == right
            assert robot.set_parameter('json_schema', json.dumps(SCHEMA)) == (True, '')
            text = robot.ask('Hello')
            assert text.startswith(f'[error] {server.url}/v1 answers with an error (status 500)')
            assert 'json_schema' in text
            success, reason = robot.set_parameter('json_schema', '[1]')
            assert not success and 'not an object' in reason

    def test_a_long_conversation(self, ask_server: Start, tmp_path: Path) -> None:
        """What does not fit the server's context is left out, the oldest turns first."""
        with (
            LlamaServed(tmp_path, ['--n_ctx', '256']) as server,
            ask_server(server.url, feed_type=2, max_tokens=20) as robot,
        ):
            for _ in range(20):
                assert not robot.ask('Hello there, how are you today?').startswith('[error]')
            assert 'is too long for its context' in robot.ask('x ' * 400)
            assert not robot.ask('Hello').startswith('[error]')


class TestCost:
    """What a robot with a server does not carry."""

    def test_no_llama(self, ask_server: Start, served: Served) -> None:
        """Neither llama.cpp nor an encoder is loaded."""
        with ask_server(served.url, image=CONFIG / 'image2.jpg') as robot:
            assert robot.ask(DESCRIBE) == IMAGE2
            maps = Path(f'/proc/{robot.process.pid}/maps').read_text()
            assert 'libllama' not in maps and 'onnxruntime' not in maps
            assert 'pydantic' in maps  # of OpenAI's client: the test looks at the right process


class TestCancel:
    """~/cancel ends the request on the server, too."""

    def test_an_answer(self, ask_server: Start, served: Served) -> None:
        """In the middle of an answer; the server is idle at once, and asked again."""
        with ask_server(served.url, json_schema=ENDLESS, **LONG) as robot:
            robot.say(DESCRIBE)
            robot.wait_for(lambda: len(robot.partials) > 5, 'pieces')
            assert health(served) == 'answering'
            assert robot.call('cancel').success
            assert robot.next_text().startswith('[error] the answer is not complete, it was')
            robot.wait_for(lambda: health(served) == 'idle', 'the end on the server')
            assert robot.set_parameter('json_schema', '') == (True, '')
            assert robot.ask(DESCRIBE) == IMAGE2

    def test_before_the_first_word(self, ask_server: Start) -> None:
        """While the server says nothing; the connection is closed."""
        with silent() as server, ask_server(server.url, image=CONFIG / 'image2.jpg') as robot:
            robot.say(DESCRIBE)
            robot.wait_for(lambda: server.asked == 1, 'the question')
            assert robot.call('cancel').success, robot.log
            assert robot.next_text() == '[error] cancelled before the first word'
            robot.wait_for(lambda: server.left == 1, 'the end of the connection')
            # The end of the node is not held up either.
            robot.say(DESCRIBE)
            robot.wait_for(lambda: server.asked == 2, 'the question')
            assert robot.stop()[0] == 0


class TestFailures:
    """Whatever is wrong with the server is one error, and the next question is tried."""

    def test_killed_in_the_middle(self, ask_server: Start) -> None:
        """A server that dies, is down and comes up again: an error each, then the answer."""
        with Served('internvl', ROOM) as server:
            port = str(server.port)
            with ask_server(server.url, json_schema=ENDLESS, **LONG) as robot:
                robot.say(DESCRIBE)
                robot.wait_for(lambda: len(robot.partials) > 5, 'pieces')
                server.process.kill()
                assert f'{port}/v1 broke off in the middle of an answer' in robot.next_text()
                assert robot.set_parameter('json_schema', '') == (True, '')
                down = f'[error] {server.url}/v1 cannot be reached: Connection refused'
                assert robot.ask(DESCRIBE) == down
                robot.wait_for(lambda: robot.status['last error'] == down[8:], 'diagnostics')
                with Served('internvl', ['--port', port]):
                    assert robot.ask(DESCRIBE) == IMAGE2
                assert robot.texts == []
                errors = [line for line in robot.log.splitlines() if line.startswith('[ERROR]')]
                assert len(errors) == 2

    def test_down_at_the_start(self, ask_server: Start) -> None:
        """A server that is down is a warning; it is asked as soon as it is up."""
        port = free_port()
        url = f'http://127.0.0.1:{port}/v1'
        with ask_server(url, image=CONFIG / 'image2.jpg') as robot:
            (warning,) = warnings(robot)
            assert f'{url} cannot be reached: Connection refused' in warning
            with Served('internvl', ['--port', str(port)]):
                assert robot.ask(DESCRIBE) == IMAGE2

    def test_full(self, ask_server: Start) -> None:
        """A server that has too much to do is named; later it answers."""
        with Served('internvl', ROOM) as server:
            client = openai.OpenAI(base_url=f'{server.url}/v1', api_key='none', max_retries=0)
            wrapped = {'name': 'x', 'schema': json.loads(ENDLESS)}
            question: Any = dict(
                model='any',
                messages=[{'role': 'user', 'content': 'Hi'}],
                response_format={'type': 'json_schema', 'json_schema': wrapped},
                max_tokens=30000,
            )
            with ask_server(server.url, image=CONFIG / 'image2.jpg') as robot:
                running = client.chat.completions.create(stream=True, **question)
                next(iter(running))
                waiting: list[socket.socket] = []

                def is_full() -> bool:
                    waiting.append(post(server.port, {**question, 'stream': True}))
                    try:
                        client.with_options(timeout=0.5).chat.completions.create(**question)
                    except openai.APITimeoutError:
                        return False
                    except openai.RateLimitError:
                        return True
                    raise AssertionError('that was answered')

                robot.wait_for(is_full, 'a full queue')
                assert re.fullmatch(
                    r'\[error\] \S+ has too much to do \(status 429\): too many requests wait.*',
                    robot.ask(DESCRIBE),
                )
                running.close()
                for other in waiting:
                    other.close()
                assert robot.ask(DESCRIBE) == IMAGE2

    def test_silent(self, ask_server: Start) -> None:
        """A server that takes a question and says nothing is left after remote_timeout."""
        parameters = dict(image=CONFIG / 'image2.jpg', remote_timeout=0.5)
        with silent() as server, ask_server(server.url, **parameters) as robot:
            for _ in range(2):
                said = f'[error] {server.url}/v1 has said nothing for 0.5 s (remote_timeout)'
                assert robot.ask(DESCRIBE) == said

    def test_a_token(
        self, ask_server: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Without the token, or with a wrong one, one is told so; it is never logged."""
        secret, other = 'abcdefgh12345678', 'not-the-token-at-all'
        (tmp_path / 'token').write_text(secret)
        (tmp_path / 'token').chmod(0o600)
        with Served('internvl', ['--token-file', str(tmp_path / 'token')]) as server:
            for token, words in (
                ('', r'wants a token: put it into \$OPENAI_API_KEY \(status 401\)'),
                (other, r'refuses the token in \$OPENAI_API_KEY \(status 401\)'),
                (secret, None),
            ):
                monkeypatch.setenv('OPENAI_API_KEY', token)
                with ask_server(server.url, image=CONFIG / 'image2.jpg') as robot:
                    text = robot.ask(DESCRIBE)
                    assert re.search(words, text) if words else text == IMAGE2
                    assert secret not in robot.log and other not in robot.log

    def test_html(self, ask_server: Start) -> None:
        """A server of web pages is no server of models."""
        pages = ThreadingHTTPServer(('127.0.0.1', 0), SimpleHTTPRequestHandler)
        threading.Thread(target=pages.serve_forever, daemon=True).start()
        url = f'http://127.0.0.1:{pages.server_port}'
        try:
            with ask_server(url, remote_model='x', image=CONFIG / 'image2.jpg') as robot:
                text = robot.ask(DESCRIBE)
                assert text.startswith(f"[error] {url}/v1 does not speak OpenAI's protocol: ")
        finally:
            pages.shutdown()
            pages.server_close()

    @pytest.mark.parametrize(
        'parameters, words',
        [
            ({'llm_model_name': 'http://'}, 'is no address of a server'),
            ({'llm_model_name': 'http://host:port/v1'}, 'is no address of a server'),
            ({'llm_model_name': 'http://me:secret@host/v1'}, 'of host holds a name or a token'),
            ({'grammar': 'root ::= "a"'}, "OpenAI's protocol has no grammars"),
            ({'image': 'no.jpg'}, 'image: no such file'),
            ({'remote_timeout': 0}, 'remote_timeout: 0.0 is out of range'),
        ],
    )
    def test_what_cannot_be_at_the_start(
        self, start: Start, parameters: dict[str, Any], words: str
    ) -> None:
        """What cannot work ends the node with one line."""
        given: dict[str, Any] = dict(llm_model_name='http://127.0.0.1:1', model_type=None)
        with start(**{**given, **parameters}) as robot:
            assert robot.wait_for_end() == 1
            last = without_stamps(robot.log)[-1]
            assert last.startswith('FATAL: ') and words in last and 'secret' not in last
