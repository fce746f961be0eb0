"""Figures: for Prometheus, for the page, and the newest frame."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from served import SAMPLE, Served

httpx2 = pytest.importorskip('httpx2', reason='needs requirements/web.txt')
parser = pytest.importorskip('prometheus_client.parser', reason='needs requirements/web.txt')

CAMERA = {'type': 'image_url', 'image_url': {'url': 'camera:'}}
TEXT = {'type': 'text', 'text': 'Describe the image.'}
QUESTION: dict[str, Any] = {
    'messages': [{'role': 'user', 'content': [CAMERA, TEXT]}],
    'temperature': 0,
}


@pytest.fixture
def served() -> Iterator[Served]:
    with Served('internvl', ['--picture', str(SAMPLE)]) as server:
        yield server


def samples(url: str, **headers: str) -> dict[str, float]:
    """Return what Prometheus would collect: values by name, with labels behind it."""
    response = httpx2.get(f'{url}/metrics', headers=headers)
    assert response.status_code == 200
    return {
        ' '.join([sample.name.removeprefix('hobot_llamacpp_'), *sorted(sample.labels.values())]): (
            sample.value
        )
        for family in parser.text_string_to_metric_families(response.text)
        for sample in family.samples
    }


def ask(url: str, **changes: Any) -> Any:
    return httpx2.post(f'{url}/v1/chat/completions', json={**QUESTION, **changes}, timeout=60)


def test_answers_are_counted(served: Served) -> None:
    """Each answer counts with its outcome, its tokens and its times."""
    usages = [ask(served.url).json()['usage'] for _ in range(2)]
    ask(served.url, max_tokens=3)
    found = samples(served.url)
    assert found['requests_total http stop'] == 2
    assert found['requests_total http length'] == 1
    for name in ('wait', 'first_token', 'token'):
        assert found[f'{name}_seconds_count'] == 3
        assert 0 < found[f'{name}_seconds_sum'] < 60
    # The same question again finds all but its last token in the cache.
    assert found['prompt_tokens_total'] == 3 * usages[0]['prompt_tokens']
    assert found['completion_tokens_total'] == 2 * usages[0]['completion_tokens'] + 3
    cached = usages[1]['prompt_tokens_details']['cached_tokens']
    assert found['kv_reused_total'] == 2 * cached
    assert found['kv_prefilled_total'] == found['prompt_tokens_total'] - 2 * cached
    assert (found['kv_cells'], found['queue_length']) == (4096, 0)
    assert usages[0]['prompt_tokens'] < found['kv_cells_used'] < 4096
    assert (found['requests_refused_total'], found['encoder_restarts_total']) == (0, 0)


def test_errors_are_counted(served: Served) -> None:
    """A request that fails counts with the kind of its error."""
    assert ask(served.url, messages=[{'role': 'user', 'content': 'x ' * 9000}]).status_code == 400
    found = samples(served.url)
    assert found['requests_total failed http'] == found['errors_total PromptError'] == 1
    assert found['first_token_seconds_count'] == 0


def test_buckets(served: Served) -> None:
    """Times are told apart from 5 ms to a minute, those of a token from 1 ms to a second."""
    names = samples(served.url)

    def edges(name: str) -> list[float]:
        found = [key.rpartition(' ')[2] for key in names if key.startswith(f'{name}_bucket')]
        return sorted(map(float, found))[:-1]

    assert (edges('first_token_seconds')[0], edges('first_token_seconds')[-1]) == (0.005, 60)
    assert (edges('token_seconds')[0], edges('token_seconds')[-1]) == (0.001, 1)


def test_open_metrics(served: Served) -> None:
    """Prometheus gets the newer format where it asks for it."""
    accept = 'application/openmetrics-text; version=1.0.0'
    response = httpx2.get(f'{served.url}/metrics', headers={'Accept': accept})
    assert response.headers['content-type'].startswith('application/openmetrics-text')
    assert response.text.endswith('# EOF\n')


def test_figures(served: Served) -> None:
    """The page's figures tell of the newest answer and of this moment."""
    before = httpx2.get(f'{served.url}/figures').json()
    assert (before['model'], before['state'], before['answers']) == ('nano_internvl', 'idle', 0)
    assert before['can_see'] is True and 'first_token_ms' not in before
    ask(served.url)
    after = httpx2.get(f'{served.url}/figures').json()
    assert (after['answers'], after['queue']) == (1, 0)
    assert min(after[key] for key in ('first_token_ms', 'encoder_ms', 'tokens_per_second')) > 0
    assert after['kv_cells_used'] > before['kv_cells_used'] == 0


def test_temperature(tmp_path: Path) -> None:
    """The hottest part of the processor counts; sensors that cannot be read do not."""
    from hobot_llamacpp_py.web.metrics import temperature

    assert temperature(tmp_path) is None
    for i, text in enumerate(('47500\n', '61234\n', 'nonsense\n')):
        (tmp_path / f'thermal_zone{i}').mkdir()
        (tmp_path / f'thermal_zone{i}' / 'temp').write_text(text)
    assert temperature(tmp_path) == 61.234


def test_frame(served: Served) -> None:
    """The frame is a JPEG of the picture; who has it already is told so, and nothing is sent."""
    url = f'{served.url}/frame'
    response = httpx2.get(url)
    assert response.headers['content-type'] == 'image/jpeg'
    shown = cv2.imdecode(np.frombuffer(response.content, np.uint8), cv2.IMREAD_COLOR)
    expected = cv2.imread(str(SAMPLE))
    assert shown.shape == expected.shape
    assert np.abs(shown.astype(int) - expected.astype(int)).mean() < 3
    tag = response.headers['etag']
    again = httpx2.get(url, headers={'If-None-Match': tag})
    assert (again.status_code, again.content) == (304, b'')
    assert httpx2.get(url, headers={'If-None-Match': '"other"'}).status_code == 200


def test_large_frames_are_made_smaller(tmp_path: Path) -> None:
    """What a camera gives in full HD is shown at 960 pixels' width."""
    cv2.imwrite(str(tmp_path / 'large.png'), np.full((1080, 1920, 3), 90, np.uint8))
    with Served('internvl', ['--picture', str(tmp_path / 'large.png')]) as server:
        content = httpx2.get(f'{server.url}/frame').content
    shown = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    assert shown.shape == (540, 960, 3)


def test_no_frame() -> None:
    """Without a camera there is no frame."""
    with Served('internvl') as server:
        assert httpx2.get(f'{server.url}/frame').status_code == 204
        assert httpx2.get(f'{server.url}/figures').json()['can_see'] is False


def test_the_page_is_closed_to_others(served: Served) -> None:
    """The page takes scripts and styles of its own only, and no other page may show it."""
    response = httpx2.get(served.url + '/')
    policy = dict(
        rule.split(' ', 1) for rule in response.headers['content-security-policy'].split('; ')
    )
    assert policy['default-src'] == "'none'"
    assert policy['frame-ancestors'] == "'none'"
    assert 'unsafe' not in str(policy) and 'http' not in str(policy)
    assert response.headers['x-content-type-options'] == 'nosniff'
    assert 'http://' not in response.text.replace('http://www.w3.org/2000/svg', '')
    assert 'https://' not in response.text and 'innerHTML' not in response.text


@pytest.mark.parametrize('path', ['/frame', '/figures', '/metrics', '/v1/models'])
def test_data_needs_the_token(tmp_path: Path, path: str) -> None:
    """With a token only the empty page is open; all that it shows needs the token."""
    (tmp_path / 'token').write_text('abcdefgh12345678')
    options = ['--picture', str(SAMPLE), '--token-file', str(tmp_path / 'token')]
    with Served('internvl', options) as server:
        assert httpx2.get(server.url + '/').status_code == 200
        assert httpx2.get(server.url + path).status_code == 401
        headers = {'Authorization': 'Bearer abcdefgh12345678'}
        assert httpx2.get(server.url + path, headers=headers).status_code == 200
