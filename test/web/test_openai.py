"""OpenAI's protocol, with OpenAI's own client."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from nano import answer, draw_scene
from served import SAMPLE, Served, data_url

openai = pytest.importorskip('openai', reason='needs requirements/web_test.txt')

DESCRIBE, COLOR, COUNT = 'Describe the image.', 'What color is the circle?', '有几个图形？'
START = 'There is a yellow star at the top, '
IMAGE2 = f'{START}a red circle on the left and a blue square on the right.'
DIGITS = {'type': 'array', 'items': {'enum': [0, 1, 2, 3]}, 'minItems': 20000}
ENDLESS: dict[str, Any] = dict(
    max_tokens=30000,
    stream=True,
    response_format={'type': 'json_schema', 'json_schema': {'name': 'x', 'schema': DIGITS}},
)


@pytest.fixture(scope='module', params=['internvl', 'smolvlm'])
def served(request: pytest.FixtureRequest) -> Iterator[Served]:
    with Served(request.param, ['--picture', str(SAMPLE), '--n-ctx', '32768']) as server:
        yield server


@pytest.fixture(scope='module')
def client(served: Served) -> Any:
    return openai.OpenAI(base_url=f'{served.url}/v1', api_key='none', max_retries=0)


def message(text: str, picture: str = '') -> dict[str, Any]:
    """Return a question as the client sends it."""
    if not picture:
        return {'role': 'user', 'content': text}
    parts = [{'type': 'image_url', 'image_url': {'url': picture}}, {'type': 'text', 'text': text}]
    return {'role': 'user', 'content': parts}


def ask(client: Any, *messages: dict[str, Any], **options: Any) -> Any:
    """Return the client's answer, greedy unless told otherwise."""
    given = {'temperature': 0, **options}
    return client.chat.completions.create(model='any', messages=list(messages), **given)


@pytest.mark.parametrize('suffix', ['png', 'jpg', 'webp'])
def test_a_picture(client: Any, suffix: str) -> None:
    """A picture in the request is what the answer is about, in each of the formats."""
    scene, bgr = draw_scene(3)
    response = ask(client, message(DESCRIBE, data_url(bgr, suffix)))
    assert response.choices[0].message.content.strip() == answer(scene, DESCRIBE)
    assert response.choices[0].finish_reason == 'stop'


def test_the_camera(client: Any) -> None:
    """`camera:` is what the robot sees now."""
    response = ask(client, message(DESCRIBE, 'camera:'))
    assert response.choices[0].message.content.strip() == IMAGE2


def test_stream(client: Any) -> None:
    """The stream gives the answer in pieces, as they are decoded, and its cost at the end."""
    scene, bgr = draw_scene(4)
    stream = ask(
        client,
        message(DESCRIBE, data_url(bgr)),
        stream=True,
        stream_options={'include_usage': True},
    )
    *chunks, last = list(stream)
    pieces = [chunk.choices[0].delta.content or '' for chunk in chunks]
    assert ''.join(pieces).strip() == answer(scene, DESCRIBE)
    assert sum(bool(piece) for piece in pieces) > 5
    assert [chunk.choices[0].finish_reason for chunk in chunks][-1] == 'stop'
    assert last.choices == [] and last.usage.completion_tokens > 5


def test_follow_up_reuses_the_cache(client: Any) -> None:
    """A conversation that goes on pays for its new question only, picture included."""
    scene, bgr = draw_scene(5)
    first = message(DESCRIBE, data_url(bgr))
    response = ask(client, first)
    said = {'role': 'assistant', 'content': response.choices[0].message.content}
    # Another conversation between the two must not come into it.
    for question in (COLOR, COUNT):
        follow_up = ask(client, first, said, message(question))
        assert follow_up.choices[0].message.content.strip() == answer(scene, question)
        usage = follow_up.usage
        new = usage.prompt_tokens - usage.prompt_tokens_details.cached_tokens
        assert new < 30 < usage.prompt_tokens_details.cached_tokens


def test_a_conversation_that_was_had_elsewhere(client: Any) -> None:
    """An answer that this server never gave is part of the conversation all the same."""
    scene, bgr = draw_scene(6)
    said = {'role': 'assistant', 'content': 'Well, there are shapes.'}
    response = ask(client, message('What is it?', data_url(bgr)), said, message(DESCRIBE))
    assert response.choices[0].message.content
    again = ask(client, message('What is it?', data_url(bgr)), said, message(DESCRIBE))
    assert again.choices[0].message.content == response.choices[0].message.content


def test_limits_of_an_answer(client: Any) -> None:
    """max_tokens and stop end an answer, and say so."""
    cut = ask(client, message(DESCRIBE, 'camera:'), max_tokens=4)
    assert (cut.choices[0].finish_reason, cut.usage.completion_tokens) == ('length', 4)
    cut = ask(client, message(DESCRIBE, 'camera:'), max_completion_tokens=4)
    assert cut.usage.completion_tokens == 4
    stopped = ask(client, message(DESCRIBE, 'camera:'), stop=['never', 'a red circle'])
    choice = stopped.choices[0]
    assert (choice.message.content.lstrip(), choice.finish_reason) == (START, 'stop')
    streamed = ask(client, message(DESCRIBE, 'camera:'), stop='a red circle', stream=True)
    text = ''.join(chunk.choices[0].delta.content or '' for chunk in streamed)
    assert text.lstrip() == START


def test_json_answers(client: Any) -> None:
    """response_format makes the answer JSON, valid by its schema."""
    schema = {
        'type': 'object',
        'properties': {'color': {'enum': ['red', 'green']}, 'n': {'type': 'integer'}},
        'required': ['color'],
    }
    form = {'type': 'json_schema', 'json_schema': {'name': 'x', 'schema': schema}}
    response = ask(client, message(DESCRIBE, 'camera:'), response_format=form)
    assert json.loads(response.choices[0].message.content)['color'] in ('red', 'green')
    response = ask(
        client,
        message(DESCRIBE, 'camera:'),
        response_format={'type': 'json_object'},
        max_tokens=100,
    )
    assert response.choices[0].message.content.startswith('{')


def test_seed(client: Any) -> None:
    """The same seed gives the same answer, another one another."""

    def once(seed: int) -> str:
        noise = dict(temperature=100, top_p=1, extra_body={'min_p': 0, 'top_k': 0})
        response = ask(client, message(DESCRIBE), seed=seed, max_tokens=20, **noise)
        return str(response.choices[0].message.content)

    assert once(1) == once(1) != once(2)


def test_models_and_health(client: Any, served: Served) -> None:
    """The model has a name, and the server tells how it is."""
    import httpx2

    assert client.models.list().data[0].id.startswith('nano_')
    assert httpx2.get(f'{served.url}/health').json() == {'status': 'idle'}


@pytest.mark.parametrize(
    'options, word',
    [
        (dict(tools=[{'type': 'function', 'function': {'name': 'f'}}]), 'tools'),
        (dict(n=2), 'n'),
        (dict(logprobs=True), 'logprobs'),
        (dict(extra_body={'audio': {'voice': 'alloy'}}), 'audio'),
        (dict(frequency_penalty=1), 'frequency_penalty'),
        (dict(temperature=-1), 'temperature'),
        (dict(max_tokens=0), 'max_tokens'),
        (dict(stop=['a'] * 5), 'stop'),
        (dict(response_format={'type': 'xml'}), 'response_format'),
    ],
)
def test_what_is_not_supported(client: Any, options: dict[str, Any], word: str) -> None:
    """What this server does not do is refused by its name."""
    with pytest.raises(openai.BadRequestError) as error:
        ask(client, message('Hi'), **options)
    assert word in error.value.body['message']


@pytest.mark.parametrize(
    'messages, words',
    [
        ([], 'messages must be a list'),
        ([{'role': 'tool', 'content': 'x', 'tool_call_id': '1'}], "role 'tool'"),
        ([{'role': 'assistant', 'content': 'x'}], 'an answer must follow a question'),
        ([message('a'), {'role': 'assistant', 'content': 'b'}], 'must be a question'),
        ([message('')], 'has no text'),
        ([message('a', 'http://127.0.0.1/x.png')], 'no address is fetched'),
        ([message('a', 'file:///etc/passwd')], 'no address is fetched'),
        ([message('a', 'data:image/png;base64,AAAA')], 'is no JPEG, PNG or WebP'),
        ([message('a', 'data:image/png;base64,***')], 'is not base64'),
        ([message('a', 'data:text/html;base64,AAAA')], 'must be data:image/jpeg, png or webp'),
        ([message('x ' * 40000)], 'the context has 32768'),
    ],
)
def test_what_is_wrong(client: Any, messages: list[dict[str, Any]], words: str) -> None:
    """What is wrong with a conversation is said in one line."""
    with pytest.raises(openai.BadRequestError) as error:
        ask(client, *messages)
    assert words in error.value.body['message']


def test_a_client_that_goes_away(client: Any) -> None:
    """Its request ends within a token: the next one does not wait for the rest."""
    stream = ask(client, message(DESCRIBE), **ENDLESS)
    next(iter(stream))
    stream.close()
    response = ask(client.with_options(timeout=5), message(DESCRIBE, 'camera:'))
    assert response.choices[0].message.content.strip() == IMAGE2


def test_going_away_before_the_first_word() -> None:
    """Whoever leaves while a stream waits for its turn is no error of the server's."""
    with Served(arguments=['--picture', str(SAMPLE), '--n-ctx', '32768']) as server:
        client = openai.OpenAI(base_url=f'{server.url}/v1', api_key='none', max_retries=0)
        running = ask(client, message(DESCRIBE), **ENDLESS)
        next(iter(running))
        with pytest.raises(openai.APITimeoutError):
            ask(client.with_options(timeout=0.5), message('Hi'), stream=True)
        running.close()
        assert ask(client, message(DESCRIBE, 'camera:')).choices[0].finish_reason == 'stop'
    assert server.errors == ''


def test_one_after_the_other(client: Any) -> None:
    """Requests wait in line; where the line is full, one is told when to come again."""
    running = ask(client, message(DESCRIBE), **ENDLESS)
    next(iter(running))
    answers: list[str] = []

    def wait_in_line() -> None:
        while True:
            try:
                response = ask(client, message(DESCRIBE, 'camera:'))
            except openai.RateLimitError:
                continue
            answers.append(response.choices[0].message.content)
            return

    waiting = [threading.Thread(target=wait_in_line) for _ in range(8)]
    for thread in waiting:
        thread.start()
    while not answers:
        try:
            ask(client.with_options(timeout=0.5), message('Hi'))
        except openai.RateLimitError as error:
            assert int(error.response.headers['Retry-After']) > 0
            break
        except openai.APITimeoutError:
            continue
    assert answers == []
    running.close()
    for thread in waiting:
        thread.join()
    assert {text.strip() for text in answers} == {IMAGE2}
