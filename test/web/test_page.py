"""The page, in a browser."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import PHONE, Visitor, visit
from served import SAMPLE, Served

pytest.importorskip('selenium', reason='needs requirements/web_test.txt')

DESCRIBE = 'Describe the image.'
START = 'There is a yellow star at the top, '
IMAGE2 = f'{START}a red circle on the left and a blue square on the right.'
TOKEN = 'abcdefgh12345678'
HOSTILE = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>&lt;b&gt;'
HOSTILE_ANSWER = '<img src=x onerror=window.hacked=1><b>bold</b>'
TAB, SPACE, ESCAPE = '\ue004', ' ', '\ue00c'
ENDLESS = {'type': 'array', 'items': {'enum': [0, 1]}, 'minItems': 20000}
# Has the page's questions answered in another form.
AS_SCHEMA = """
const send = window.fetch, [schema, most] = arguments;
window.fetch = (path, options) => {
  if (!options.body) return send(path, options);
  const json_schema = {name: 'x', schema}, body = JSON.parse(options.body);
  Object.assign(body, {response_format: {type: 'json_schema', json_schema}, max_tokens: most});
  return send(path, {...options, body: JSON.stringify(body)});
};
"""


@pytest.fixture(scope='module')
def served() -> Iterator[Served]:
    with Served('internvl', ['--picture', str(SAMPLE), '--n-ctx', '32768']) as server:
        yield server


@pytest.fixture
def visitor(served: Served) -> Iterator[Visitor]:
    with visit(served.url) as found:
        yield found
        # Nothing was refused by the policy, and no script failed.
        assert [e for e in found.driver.get_log('browser') if e['source'] != 'network'] == []


def test_ask(visitor: Visitor) -> None:
    """A question about the picture is answered in pieces, as they are decoded, and rightly."""
    visitor.run("""
        window.seen = new Set();
        const note = () => {
          const answer = document.querySelector('.answer');
          if (answer) window.seen.add(answer.textContent);
        };
        new MutationObserver(note).observe(
          document.getElementById('log'), {childList: true, subtree: true, characterData: true});
    """)
    assert visitor.ask(DESCRIBE) == IMAGE2
    seen = visitor.run('return [...window.seen]')
    assert len([text for text in seen if 0 < len(text) < len(IMAGE2)]) > 1
    assert all(IMAGE2.startswith(text) for text in seen)
    assert 'first word after' in visitor.last()[1]
    assert visitor.texts('.turn .question') == [DESCRIBE]


def test_the_frame(visitor: Visitor) -> None:
    """The picture is there, in its colours, and beside the question that was asked about it."""
    width = 'return document.querySelector(arguments[0]).naturalWidth'
    visitor.wait_for(lambda: visitor.run(width, '#frame'), 'the frame')
    assert visitor.element('frame').get_attribute('alt') == 'The newest frame'
    visitor.ask(DESCRIBE)
    assert visitor.run(width, '.question img') == visitor.run(width, '#frame')


def test_same_picture(visitor: Visitor) -> None:
    """A follow-up goes on about its picture; any other question begins anew, with a new one."""
    bodies = 'window.bodies = []; const send = window.fetch; window.fetch = (path, options) => {'
    bodies += 'if (options.body) window.bodies.push(options.body); return send(path, options); };'
    visitor.run(bodies)
    assert not visitor.element('same').is_enabled()
    visitor.ask(DESCRIBE)
    visitor.element('same').click()
    assert visitor.ask('Where is the circle?') == 'The circle is on the left.'
    visitor.element('same').click()
    visitor.ask('How many shapes are there?')
    sent = [json.loads(body)['messages'] for body in visitor.run('return window.bodies')]
    assert [len(messages) for messages in sent] == [1, 3, 1]
    pictures = [[isinstance(m['content'], list) for m in messages] for messages in sent]
    assert pictures == [[True], [True, False, False], [True]]
    assert len(visitor.driver.find_elements('css selector', '.question img')) == 2


def test_cancel(visitor: Visitor, served: Served) -> None:
    """Escape ends an answer while it comes; the next question is answered at once."""
    visitor.run(AS_SCHEMA, ENDLESS, 30000)
    visitor.begin(DESCRIBE)
    visitor.wait_for(lambda: len(visitor.last()[0]) > 20, 'the answer')
    visitor.keys(ESCAPE)
    visitor.wait_for(lambda: visitor.last()[1] == 'cancelled', 'the end')
    assert not visitor.element('same').is_enabled()  # there is no whole answer to go on from
    visitor.driver.refresh()
    assert visitor.ask(DESCRIBE) == IMAGE2


def test_cancel_while_waiting(visitor: Visitor, served: Served) -> None:
    """The button takes back a question whose turn has not come; the queue is empty then."""
    import httpx2

    form = {'type': 'json_schema', 'json_schema': {'name': 'x', 'schema': ENDLESS}}
    question = {'messages': [{'role': 'user', 'content': 'Hi'}], 'stream': True}
    body = {**question, 'response_format': form, 'max_tokens': 30000}
    with httpx2.stream('POST', f'{served.url}/v1/chat/completions', json=body) as running:
        chunks = running.iter_bytes()
        next(chunks)
        visitor.begin(DESCRIBE)
        visitor.wait_for(lambda: '1 waiting' in visitor.element('state').text, 'waiting')
        visitor.element('cancel').click()
        visitor.wait_for(lambda: visitor.element('state').text == 'answering', 'an empty queue')
    assert visitor.last() == ('', 'cancelled')
    visitor.wait_for(lambda: visitor.element('state').text == 'idle', 'the end')


def test_error(visitor: Visitor) -> None:
    """What goes wrong is said beneath the question, in the server's words."""
    visitor.run(AS_SCHEMA, {'type': 'nothing'}, 10)
    assert visitor.ask(DESCRIBE) == ''
    assert visitor.last()[1].startswith('failed: ') and 'nothing' in visitor.last()[1]


def test_plots_move(visitor: Visitor) -> None:
    """Each answer gives a point to the plots of its times; the KV cache fills."""
    points = """return Object.fromEntries([...document.querySelectorAll('.tile')].map(
        tile => [tile.id, tile.querySelector('polyline').getAttribute('points') || '']))"""
    visitor.wait_for(lambda: visitor.run(points)['plot-kv'], 'the first figures')
    before = visitor.run(points)
    visitor.ask(DESCRIBE)

    def moved(name: str) -> bool:
        return bool(visitor.run(points)[name] != before[name])

    for name in ('encoder_ms', 'first_token_ms', 'tokens_per_second', 'kv'):
        visitor.wait_for(lambda name=f'plot-{name}': moved(name), f'a point of {name}')
    speed = visitor.texts('#plot-tokens_per_second dd')[0]
    assert float(speed) > 1


def test_new_conversation(visitor: Visitor) -> None:
    """The conversation can be cleared, and begins anew."""
    visitor.ask(DESCRIBE)
    visitor.element('reset').click()
    assert visitor.texts('.turn') == []
    assert not visitor.element('same').is_enabled()
    assert visitor.ask(DESCRIBE) == IMAGE2


def test_keyboard_only(visitor: Visitor) -> None:
    """All can be done with the keyboard: asking, following up, clearing."""
    assert visitor.focus() == 'question'
    visitor.keys(DESCRIBE, '\n')
    visitor.wait_for(lambda: visitor.texts('.turn .note') and visitor.last()[1], 'an answer')
    assert (visitor.last()[0], visitor.focus()) == (IMAGE2, 'question')
    visitor.keys(TAB, TAB)
    assert visitor.focus() == 'same'
    visitor.keys(SPACE, TAB)
    assert (visitor.element('same').is_selected(), visitor.focus()) == (True, 'reset')
    visitor.keys(SPACE)
    assert (visitor.texts('.turn'), visitor.focus()) == ([], 'question')


def test_hostile_text(visitor: Visitor) -> None:
    """HTML in questions and answers is text like any other."""
    visitor.run(AS_SCHEMA, {'const': HOSTILE_ANSWER}, 2000)
    assert visitor.ask(HOSTILE) == f'"{HOSTILE_ANSWER}"'
    assert visitor.texts('.question p') == [HOSTILE]
    assert visitor.run('return window.hacked') is None
    assert visitor.run("return document.querySelectorAll('#log script, .answer *').length") == 0


def test_phone(visitor: Visitor) -> None:
    """On a phone nothing has to be scrolled sideways, and the question box is in sight."""
    visitor.driver.execute_cdp_cmd('Emulation.setDeviceMetricsOverride', PHONE)
    visitor.ask('x' * 200)
    visitor.ask(DESCRIBE)
    width, seen = visitor.run('return [document.documentElement.scrollWidth, innerWidth]')
    assert (width, seen) == (PHONE['width'], PHONE['width'])
    box = visitor.run("return document.getElementById('ask').getBoundingClientRect().toJSON()")
    assert box['bottom'] <= PHONE['height']
    answer = visitor.run(
        "return document.querySelector('.turn:last-child .note').getBoundingClientRect().toJSON()"
    )
    assert 0 < answer['bottom'] <= box['top'] + 1


def test_names_for_those_who_listen(visitor: Visitor) -> None:
    """Each control has a name, and answers are read out when they are whole."""
    visitor.ask(DESCRIBE)
    for element in visitor.driver.find_elements('css selector', 'textarea, input, button'):
        if element.is_displayed():
            assert element.accessible_name, element.get_attribute('id')
    assert visitor.element('log').get_attribute('aria-live') == 'polite'
    assert visitor.element('#log .answer').get_attribute('aria-busy') == 'false'


@pytest.mark.parametrize('language, send', [('zh-CN', '提问'), ('en-GB', 'Ask')])
def test_language(served: Served, language: str, send: str) -> None:
    """The page speaks the browser's language."""
    with visit(served.url, f'--lang={language}', f'--accept-lang={language}') as visitor:
        assert visitor.element('send').text == send
        html = visitor.driver.find_element('css selector', 'html')
        assert html.get_attribute('lang') == language.replace('en-GB', 'en')
        assert visitor.ask('星形是什么颜色？') == '星形是黄色。'


def test_token(tmp_path: Path) -> None:
    """The page asks for the token once, again if it is wrong, and keeps it for this tab."""
    (tmp_path / 'token').write_text(TOKEN)
    options = ['--picture', str(SAMPLE), '--token-file', str(tmp_path / 'token')]
    with Served('internvl', options) as server, visit(server.url) as visitor:
        visitor.wait_for(lambda: visitor.element('door').is_displayed(), 'the dialog')
        visitor.keys('wrong\n')
        visitor.wait_for(lambda: 'wrong' in visitor.element('refused').text, 'the refusal')
        assert visitor.run('return document.getElementById("frame").naturalWidth') == 0
        visitor.keys(f'{TOKEN}\n')
        visitor.wait_for(lambda: visitor.element('frame').is_displayed(), 'the frame')
        assert visitor.ask(DESCRIBE) == IMAGE2
        visitor.driver.refresh()
        visitor.wait_for(lambda: visitor.element('frame').is_displayed(), 'the frame')
        assert not visitor.element('door').is_displayed()


def test_hidden(visitor: Visitor) -> None:
    """While nobody looks at the page nothing is polled; an answer still comes."""
    visitor.wait_for(lambda: visitor.element('frame').is_displayed(), 'the frame')
    # Time runs faster, so that a page that went on would ask very often.
    visitor.run("""
        const send = window.fetch;
        window.setTimeout = (done, ms) => queueMicrotask(done);
        window.polled = [];
        window.fetch = (path, options) => {
          if (window.isHidden && !options.body) window.polled.push(path);
          return send(path, options);
        };
        Object.defineProperty(document, 'hidden', {get: () => window.isHidden});
        window.isHidden = true;
    """)
    assert visitor.ask(DESCRIBE) == IMAGE2
    assert visitor.ask('Where is the circle?') == 'The circle is on the left.'
    assert len(visitor.run('return window.polled')) == 0
    visitor.run("""
        window.fetch = path => { window.polled.push(path); return new Promise(() => 0); };
        window.isHidden = false;
        document.dispatchEvent(new Event('visibilitychange'));
    """)
    polled = lambda: set(visitor.run('return window.polled')) == {'/frame', '/figures'}  # noqa: E731
    visitor.wait_for(polled, 'polling')


def test_text_chat() -> None:
    """Without a camera the page is a chat: no picture is sent, and the whole conversation is."""
    with Served('internvl') as server, visit(server.url) as visitor:
        visitor.wait_for(lambda: 'no camera' in visitor.element('dark').text, 'the caption')
        assert not visitor.element('same').is_displayed()
        visitor.ask(DESCRIBE)
        assert not visitor.last()[1].startswith('failed')
        cached = visitor.run(
            'const send = window.fetch; window.fetch = (path, options) => {'
            'if (options.body) window.body = options.body; return send(path, options); };'
        )
        assert cached is None
        visitor.ask('And now?')
        messages: list[dict[str, Any]] = json.loads(visitor.run('return window.body'))['messages']
        assert [message['role'] for message in messages] == ['user', 'assistant', 'user']
