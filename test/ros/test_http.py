"""The node with its HTTP server: the same engine, the same camera, the same queue."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import s100
from nano import CONFIG, answer, draw_scene
from robot import Robot, without_stamps
from served import free_port

openai = pytest.importorskip('openai', reason='needs requirements/web_test.txt')

Start = Callable[..., AbstractContextManager[Robot]]
DESCRIBE = 'Describe the image.'
START = 'There is a yellow star at the top, '
IMAGE2 = f'{START}a red circle on the left and a blue square on the right.'


def client_of(port: int, token: str = 'none') -> Any:
    return openai.OpenAI(base_url=f'http://127.0.0.1:{port}/v1', api_key=token, max_retries=20)


def ask(client: Any, text: str, picture: str = 'camera:') -> str:
    parts = [{'type': 'text', 'text': text}, {'type': 'image_url', 'image_url': {'url': picture}}]
    response = client.chat.completions.create(
        model='any', messages=[{'role': 'user', 'content': parts}]
    )
    return str(response.choices[0].message.content).strip()


def test_camera(start: Start) -> None:
    """`camera:` is the newest frame of the topic; the answer is the client's alone."""
    port = free_port()
    with start(feed_type=1, http_port=port) as robot:
        robot.wait_until_ready()
        client = client_of(port)
        for seed in range(3):
            scene, bgr = draw_scene(seed)
            robot.show(bgr)
            assert ask(client, DESCRIBE) == answer(scene, DESCRIBE)
        # A prompt on the topic is answered as ever, and is all that listeners have heard.
        assert robot.ask(DESCRIBE) == answer(scene, DESCRIBE)
        said = answer(scene, DESCRIBE)
        robot.wait_for(lambda: ''.join(robot.partials).strip() == said, 'hearing nothing else')
        assert robot.texts == []


@pytest.mark.parametrize('wake_words', ['你好', ''])
def test_camera_beside_what_is_prepared(start: Start, wake_words: str) -> None:
    """`camera:` is the newest frame, and not the one that is prepared for somebody else."""
    port = free_port()
    options = dict(pre_infer=1, wake_words=wake_words, pre_infer_period=30.0)
    with start(feed_type=1, http_port=port, **options) as robot:
        robot.wait_until_ready()
        (prepared, bgr), (newest, other) = draw_scene(1), draw_scene(2)
        robot.show(bgr)
        if wake_words:
            robot.say(wake_words)
        assert robot.status
        robot._status.clear()
        robot.wait_for(lambda: robot.status['frames received'] == '1', 'preparing')
        robot.wait_for(lambda: robot.status['state'] == 'idle', 'having prepared')
        robot.show(other)
        assert ask(client_of(port), DESCRIBE) == answer(newest, DESCRIBE)
        # What a person has prepared stays hers; else there is the newest.
        mine = prepared if wake_words else newest
        assert robot.ask(DESCRIBE) == answer(mine, DESCRIBE)


def test_no_camera(start: Start) -> None:
    """Where no frame comes, the client is told what the log would say."""
    port = free_port()
    with start(feed_type=1, http_port=port, image_timeout=0.2) as robot:
        robot.wait_until_ready()
        with pytest.raises(openai.BadRequestError, match='no image came within'):
            ask(client_of(port), DESCRIBE)


def test_a_local_picture(start: Start) -> None:
    """With a local picture that is what the camera sees."""
    port = free_port()
    with start(image=CONFIG / 'image2.jpg', http_port=port) as robot:
        robot.wait_until_ready()
        assert ask(client_of(port), DESCRIBE) == IMAGE2


def test_cancel(start: Start) -> None:
    """~/cancel ends a client's answer, too."""
    port = free_port()
    digits = {'type': 'array', 'items': {'enum': [0, 1]}, 'minItems': 20000}
    form = {'type': 'json_schema', 'json_schema': {'name': 'x', 'schema': digits}}
    parameters = dict(image=CONFIG / 'image2.jpg', http_port=port, n_ctx=32768)
    with start(max_tokens=30000, **parameters) as robot:
        robot.wait_until_ready()
        stream = client_of(port).chat.completions.create(
            model='any',
            messages=[{'role': 'user', 'content': DESCRIBE}],
            stream=True,
            response_format=form,
        )
        chunks = iter(stream)
        next(chunks), next(chunks)
        assert robot.call('cancel').success
        assert [chunk.choices[0].finish_reason for chunk in chunks][-1] == 'stop'


def test_token(start: Start, tmp_path: Path) -> None:
    """With a token file only those who bring the token are let in."""
    port, token = free_port(), 'abcdefgh12345678'
    (tmp_path / 'token').write_text(token + '\n')
    (tmp_path / 'token').chmod(0o600)
    parameters = dict(http_port=port, http_token_file=tmp_path / 'token', http_host='0.0.0.0')
    with start(image=CONFIG / 'image2.jpg', **parameters) as robot:
        robot.wait_until_ready()
        with pytest.raises(openai.AuthenticationError):
            ask(client_of(port), DESCRIBE)
        assert ask(client_of(port, token), DESCRIBE) == IMAGE2


@pytest.mark.parametrize(
    'parameters, words',
    [
        (dict(http_host='0.0.0.0'), 'reached from other machines'),
        (dict(http_host='192.0.2.1', http_token_file='token'), 'cannot be had'),
        (dict(http_token_file='none'), 'the token file none cannot be read'),
        (dict(http_token_file='short'), 'at least 16 ASCII characters'),
        (dict(http_token_file='fifo'), 'it is no ordinary file'),
    ],
)
def test_what_is_refused(
    start: Start, tmp_path: Path, parameters: dict[str, str], words: str
) -> None:
    """What cannot be served ends the node with a line that says why."""
    (tmp_path / 'token').write_text('abcdefgh12345678')
    (tmp_path / 'short').write_text('secret')
    os.mkfifo(tmp_path / 'fifo')
    for name, value in parameters.items():
        if (tmp_path / value).exists():
            parameters = {**parameters, name: str(tmp_path / value)}
    with start(image=CONFIG / 'image2.jpg', http_port=free_port(), **parameters) as robot:
        assert robot.wait_for_end() == 1
        assert words in without_stamps(robot.log)[-1]


def test_more_clients_than_descriptors(start: Start) -> None:
    """That is said once, and takes no processor; when there is room again, they are served."""
    port = free_port()
    with start(image=CONFIG / 'image2.jpg', http_port=port) as robot:
        process = robot.wait_until_ready().process.pid
        assert ask(client_of(port), DESCRIBE) == IMAGE2
        unlimited = resource.prlimit(process, resource.RLIMIT_NOFILE)
        used = max(map(int, os.listdir(f'/proc/{process}/fd'))) + 1
        resource.prlimit(process, resource.RLIMIT_NOFILE, (used, unlimited[1]))
        with contextlib.ExitStack() as stack:
            for _ in range(30):
                stack.enter_context(socket.create_connection(('127.0.0.1', port)))
            robot.wait_for(lambda: 'no file descriptors left' in robot.log, 'saying so')
            robot.serve(3)
            assert robot.log.count('no file descriptors left') == 1
            assert 'Traceback' not in robot.log and len(robot.log.splitlines()) < 20
            resource.prlimit(process, resource.RLIMIT_NOFILE, unlimited)
            assert ask(client_of(port), DESCRIBE) == IMAGE2


def test_a_port_that_is_taken(start: Start) -> None:
    """A port that somebody else has is named."""
    with socket.socket() as taken:
        taken.bind(('127.0.0.1', 0))
        taken.listen()
        port = taken.getsockname()[1]
        with start(image=CONFIG / 'image2.jpg', http_port=port) as robot:
            assert robot.wait_for_end() == 1
            assert f'port {port} of 127.0.0.1 cannot be had' in without_stamps(robot.log)[-1]
            assert 'Address already in use' in without_stamps(robot.log)[-1]


def test_figures(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts from topics count as requests do; so do frames, and starts of a crashed encoder."""
    import httpx2
    from prometheus_client.parser import text_string_to_metric_families

    s100.use_double(monkeypatch)
    trigger, port = tmp_path / 'crash', free_port()
    name = tmp_path / 'nano.hbm'
    model = s100.write_nano(name, 'internvl', crash=True, **{'while': str(trigger)})
    scene, bgr = draw_scene(8)

    def figures() -> dict[str, float]:
        text = httpx2.get(f'http://127.0.0.1:{port}/metrics').text
        return {
            ' '.join([sample.name, *sorted(sample.labels.values())]): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    with start(feed_type=1, model_file_name=model, http_port=port) as robot:
        robot.wait_until_ready()
        assert httpx2.get(f'http://127.0.0.1:{port}/frame').status_code == 204
        robot.show(bgr)
        assert httpx2.get(f'http://127.0.0.1:{port}/frame').status_code == 200
        trigger.touch()
        assert robot.ask(DESCRIBE).startswith('[error] ')
        trigger.unlink()
        assert robot.ask(DESCRIBE) == answer(scene, DESCRIBE)
        assert ask(client_of(port), DESCRIBE) == answer(scene, DESCRIBE)
        found = figures()
        expected = {
            'requests_total failed topic': 1,
            'errors_total InferenceError': 1,
            'requests_total stop topic': 1,
            'requests_total http stop': 1,
            'wait_seconds_count': 3,
            'first_token_seconds_count': 2,
            'encoder_restarts_total': 1,
            'frames_received_total': 1,
            'frames_lost_total': 0,
            'queue_length': 0,
        }
        assert {key: found[f'hobot_llamacpp_{key}'] for key in expected} == expected
        assert found['hobot_llamacpp_kv_cells_used'] > 0
        # The page is installed with the package.
        assert '<title>' in httpx2.get(f'http://127.0.0.1:{port}/').text


def test_off_costs_nothing(start: Start) -> None:
    """Without a port nothing of the server is imported."""
    with start(image=CONFIG / 'image2.jpg') as robot:
        robot.wait_until_ready()
        maps = Path(f'/proc/{robot.process.pid}/maps').read_text()
        assert 'pydantic' not in maps
