"""Broken files: each is told in one line, whatever is broken in it, and the right one works."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzz.run import load
from fuzz.target import is_clear
from nano import CONFIG, MODELS, ROOT, answer, draw_scene
from robot import PROFILES, Robot

from hobot_llamacpp_py.errors import ImageError, ParameterError
from hobot_llamacpp_py.files import read_text
from hobot_llamacpp_py.vision.image_file import read_image

Start = Callable[..., AbstractContextManager[Robot]]
DESCRIBE = 'Describe the image.'

LOADER = Path(__file__).with_name('load_each.py')
MANY = int(os.environ.get('HOBOT_LLAMACPP_FAULTS', '30'))
"""How many files are broken at random, of each kind in each way."""
MEMORY = 600 << 20  # bytes that a process may hold; these models take 100 MB
WALL = 120.0  # seconds; what is computed is bounded by the loader itself, this finds what hangs


def load_each(kind: str, how: str, n: int, first: int = 0) -> list[dict[str, Any]]:
    """Load n broken files and the whole one; return what came of each."""
    command = [sys.executable, str(LOADER), kind, how, str(first), str(n)]
    variables = {**os.environ, 'PYTHONPATH': f'{ROOT}:{ROOT / "test"}'}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize(
    ('kind', 'how', 'n'),
    [
        *((kind, 'other', 8) for kind in ('decoder', 'onnx', 'mmproj')),
        *((kind, 'short', 20) for kind in ('decoder', 'onnx', 'mmproj')),
        *((kind, 'cut', 100) for kind in ('decoder', 'onnx', 'mmproj')),
        *((kind, 'flipped', MANY) for kind in ('decoder', 'onnx', 'mmproj')),
        *((kind, 'set', 2 * MANY) for kind in ('decoder', 'mmproj')),
    ],
)
def test_broken_models(kind: str, how: str, n: int) -> None:
    """A model file that is broken anywhere is refused in one line, or can be used.

    So is a whole one, where memory is short. The process never ends by a signal, nor takes much
    time or memory; what is whole is used after that as ever.
    """
    *found, whole = load_each(kind, how, n, first=1)
    assert n == len(found)
    for each in found:
        # (glibc ends with 127 what has no memory for a thread's variables.)
        is_glibcs = how == 'short' and 'memory for thread-local data' in each['said']
        assert each['status'] in (0, 1) or is_glibcs, each
        # (ONNX Runtime, which hangs with the GIL: ended from outside, with a traceback.)
        assert each['said'].count('\n') == 1 or each['said'].startswith('Timeout ('), each
        assert 'internal error' not in each['said'], each
        assert each['memory'] < MEMORY and each['wall'] < WALL, each
        if how in ('cut', 'other'):  # of which nothing can be used
            assert each['status'] == 1, each
    right = answer(draw_scene(5)[0], DESCRIBE)
    assert (whole['status'], whole['said']) == (
        0,
        '(64, 128)\n' if kind == 'mmproj' else right + '\n',
    )


def damaged_decoder() -> bytes:
    """Return a decoder with one token twice, over which llama.cpp ends the process."""
    data = MODELS['internvl'][1].read_bytes()
    assert all(data.count(b'\xc4\xa0' + word) == 1 for word in (b'purple', b'circle'))
    return data.replace(b'\xc4\xa0purple', b'\xc4\xa0circle')


@pytest.mark.parametrize(
    ('parameter', 'suffix', 'content', 'words'),
    [
        ('llm_model_name', 'gguf', damaged_decoder(), 'llama.cpp does not go on: llama-vocab.cpp'),
        ('model_file_name', 'onnx', MODELS['internvl'][0].read_bytes()[:9999], 'cannot load'),
        ('model_file_name', 'gguf', (CONFIG / 'mmproj-nano_smolvlm.gguf').read_bytes()[:9999], ''),
        ('image', 'jpg', (CONFIG / 'image2.jpg').read_bytes()[:9999], 'is not a picture that'),
    ],
)
def test_node_with_a_broken_model(
    start: Start, tmp_path: Path, parameter: str, suffix: str, content: bytes, words: str
) -> None:
    """It ends with one line, the last, and status 1; with the right file it then answers."""
    broken = tmp_path / f'broken.{suffix}'
    broken.write_bytes(content)
    with start(feed_type=int(parameter != 'image'), **{parameter: broken}) as robot:
        assert robot.wait_for_end() == 1
        fatal = [line for line in robot.log.splitlines() if 'INFO' not in line]
        assert len(fatal) == 1 and words in fatal[0], robot.log
    scene, bgr = draw_scene(5)
    with start(feed_type=1, image_timeout=20.0) as robot:
        robot.wait_until_ready().show(bgr)
        assert robot.ask(DESCRIBE) == answer(scene, DESCRIBE)


NEVER_RIGHT = {
    'empty': b'',
    'zeros': bytes(4096),
    'no text': b'\xff\xfe\x00{"a":',
    'cut': b'{"type": "object", "properties": {"a": [',
    'deep': b'[' * 100_000,
}


def test_broken_files_while_it_runs(start: Start, tmp_path: Path) -> None:
    """A running node refuses each broken file in one line, and goes on answering rightly."""
    scene, bgr = draw_scene(5)
    with start(feed_type=1, image_timeout=20.0) as robot:
        robot.wait_until_ready().show(bgr)
        right = answer(scene, DESCRIBE)
        assert robot.ask(DESCRIBE) == right
        for parameter, suffix in (
            ('watch_file', 'yaml'),
            ('json_schema', 'json'),
            ('grammar', 'gbnf'),
            ('system_prompt', 'txt'),
        ):
            names = [tmp_path / f'{name}.{suffix}' for name in ('missing', 'folder', 'fifo')]
            names[1].mkdir()
            os.mkfifo(names[2])
            for name, content in NEVER_RIGHT.items():
                path = tmp_path / f'{name}.{suffix}'
                path.write_bytes(content)
                if parameter != 'system_prompt' or name == 'no text':  # others are texts
                    names.append(path)
            for path in names:
                successful, reason = robot.set_parameter(parameter, str(path))
                assert not successful, (parameter, path)
                assert reason and '\n' not in reason and 'internal error' not in reason, reason
            robot.set_parameter(parameter, '')
            assert robot.ask(DESCRIBE) == right
        # Whoever reads it waits for the kernel to say something.
        assert not robot.set_parameter('watch_file', '/proc/kmsg')[0]
        assert robot.ask(DESCRIBE) == right
        assert 'Traceback' not in robot.log


UNPRIVILEGED = ['setpriv', '--bounding-set=-all', '--inh-caps=-all']


@pytest.mark.skipif(shutil.which('setpriv') is None, reason='needs setpriv, of util-linux')
def test_no_permission(start: Start, installed: Path, tmp_path: Path) -> None:
    """Files of every kind that may not be read: a line each, and answers as before."""
    scene, bgr = draw_scene(5)
    right = answer(scene, DESCRIBE)
    contents = {
        'model_file_name': MODELS['internvl'][0].read_bytes(),
        'llm_model_name': MODELS['internvl'][1].read_bytes(),
        'image': (CONFIG / 'image2.jpg').read_bytes(),
        'system_prompt': b'You see a camera.',
        'watch_file': b'rules: [{name: a, question: b}]',
        'json_schema': b'{"type": "object"}',
        'grammar': b'root ::= "yes"',
    }
    suffixes = {'model_file_name': 'onnx', 'llm_model_name': 'gguf', 'image': 'jpg'}
    suffixes |= {'system_prompt': 'txt', 'watch_file': 'yaml', 'json_schema': 'json'}
    paths = {}
    for name, content in contents.items():
        paths[name] = tmp_path / f'{name}.{suffixes.get(name, "gbnf")}'
        paths[name].write_bytes(content)
        paths[name].chmod(0)
    at_start = [*list(contents)[:3], '']
    for name in at_start:
        options = {name: paths[name]} if name else {}
        options |= dict(feed_type=0 if name == 'image' else 1, image_timeout=20.0)
        with start(command=UNPRIVILEGED, **options) as robot:
            if name:
                assert robot.wait_for_end() == 1
                told = [line for line in robot.log.splitlines() if 'INFO' not in line]
                assert len(told) == 1 and 'Permission denied' in told[0], robot.log
                continue
            robot.wait_until_ready().show(bgr)
            for parameter in list(contents)[3:]:
                done, reason = robot.set_parameter(parameter, str(paths[parameter]))
                assert not done and 'Permission denied' in reason, (parameter, reason)
                assert robot.ask(DESCRIBE) == right
            assert 'Traceback' not in robot.log


def test_a_file_that_goes_while_it_runs(start: Start, tmp_path: Path) -> None:
    """What a prompt needs and is gone fails that prompt; when it is back, the next is answered."""
    scene, bgr = draw_scene(5)
    system = tmp_path / 'system.txt'
    system.write_text('You see a camera.')
    with start(feed_type=1, image_timeout=20.0, system_prompt=system) as robot:
        robot.wait_until_ready().show(bgr)
        assert robot.ask(DESCRIBE) == answer(scene, DESCRIBE)
        system.unlink()
        assert robot.ask(DESCRIBE).startswith('[error] system_prompt: no such file')
        system.write_bytes(b'\xff\xfe')
        assert robot.ask(DESCRIBE).startswith('[error] system_prompt: ')
        system.write_text('You see a camera.')
        assert robot.ask(DESCRIBE) == answer(scene, DESCRIBE)


@pytest.mark.parametrize('name', ['image1.png', 'image2.jpg'])
def test_cut_pictures(tmp_path: Path, name: str) -> None:
    """A picture that is cut off anywhere is none: it is not answered about a half of it."""
    data, path = (CONFIG / name).read_bytes(), tmp_path / name
    for i in range(100):
        path.write_bytes(data[: len(data) * i // 100])
        with pytest.raises(ImageError, match='is not a picture'):
            read_image(path)
    path.write_bytes(data)
    assert read_image(path).shape[2] == 3


def test_spoilt_pictures(tmp_path: Path) -> None:
    """With bytes changed at random it is a picture, or is not, and takes no long."""
    rng = np.random.default_rng(0)
    path = tmp_path / 'picture'
    for name in ('image1.png', 'image2.jpg'):
        data = (CONFIG / name).read_bytes()
        for _ in range(2 * MANY):
            spoilt = bytearray(data)
            for at in rng.integers(len(data) if rng.random() < 0.5 else 200, size=4):
                spoilt[at] = rng.integers(256)
            path.write_bytes(spoilt)
            with contextlib.suppress(ImageError):
                assert read_image(path).ndim == 3


SCHEMA = {
    'type': 'object',
    'properties': {
        'shapes': {'type': 'array', 'items': {'enum': ['circle', '圆']}, 'maxItems': 3},
        'place': {'type': 'string', 'pattern': '^(left|right)$'},
        'n': {'type': 'integer', 'minimum': 0, 'maximum': 9},
    },
    'required': ['shapes', 'n'],
}
GRAMMAR = """# what is seen
root ::= "The " shape " is " color ("." | " and " size ".")
shape ::= "circle" | "star" | "正方形"
color ::= [a-z]{3,6}
size ::= ("very ")? "large" | "small"
"""
TEXTS = {
    'json_schema': json.dumps(SCHEMA, ensure_ascii=False, indent=1).encode(),
    'grammar': GRAMMAR.encode(),
    'rules': (CONFIG / 'watch.yaml').read_bytes(),
    'params': (CONFIG / 'params.yaml').read_bytes(),
}


@pytest.mark.slow
@pytest.mark.parametrize('kind', TEXTS)
def test_broken_texts(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What people write, cut off at each of a hundred places, and with bytes flipped at random.

    It can be used, or one line says what is wrong; what that means is what fuzzing checks.
    """
    pytest.importorskip('rclpy' if kind == 'params' else 'llguidance')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('ROS_DOMAIN_ID', '0')  # until the target has one, and as it was after that
    monkeypatch.setenv(PROFILES, str(CONFIG / 'quick_discovery.xml'))
    whole, rng = TEXTS[kind], np.random.default_rng(0)
    broken = [whole[: len(whole) * i // 100] for i in range(100)]
    for _ in range(3 * MANY):
        spoilt = bytearray(whole)
        for at in rng.integers(len(whole), size=rng.choice((1, 2, 8))):
            spoilt[at] ^= int(rng.integers(1, 256))
        broken.append(bytes(spoilt))
    with load(kind) as target:
        for content in [*broken, whole]:
            if kind in ('rules', 'params'):
                target.check(content)
                continue
            path = tmp_path / 'broken'
            path.write_bytes(content)
            try:
                text = read_text(kind, str(path))
            except ParameterError as error:
                is_clear(error, kind, str(path), size=len(content))
                assert content != whole
            else:
                target.check((text, 0))


@pytest.mark.parametrize('content', [bytes(99), b'/**:\n  ros__param', b'a: ['])
def test_broken_params_files(start: Start, tmp_path: Path, content: bytes) -> None:
    """A params file that ROS cannot read ends the node with one line."""
    params = tmp_path / 'params.yaml'
    params.write_bytes(content)
    with start(arguments=['--params-file', str(params)]) as robot:
        assert robot.wait_for_end() == 1
        assert len(robot.log.splitlines()) == 1, robot.log
        assert 'Traceback' not in robot.log
