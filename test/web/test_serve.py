"""The command that serves a model without ROS: what it is given, and what it says."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from nano import CONFIG, ROOT, answer, draw_scene
from served import TIMEOUT, data_url

openai = pytest.importorskip('openai', reason='needs requirements/web_test.txt')

DESCRIBE = 'Describe the image.'
COMMAND = [sys.executable, '-m', 'hobot_llamacpp_py.tools.serve']
EYES = ('--encoder', str(CONFIG / 'nano_internvl_vit.onnx'))
LLM = ('--llm', str(CONFIG / 'nano_internvl.gguf'))


def variables(folder: Path) -> dict[str, str]:
    """Return the surroundings of a user whose models are in a folder."""
    return {**os.environ, 'PYTHONPATH': str(ROOT), 'HOBOT_LLAMACPP_MODELS': str(folder)}


def test_a_name_of_the_catalogue(tmp_path: Path) -> None:
    """A name is enough for decoder, encoder and type; the address comes with the models."""
    name = 'SmolVLM2-256M-Video-Instruct-Q8_0.gguf'
    shutil.copy(CONFIG / 'nano_smolvlm.gguf', tmp_path / name)
    shutil.copy(CONFIG / 'mmproj-nano_smolvlm.gguf', tmp_path / f'mmproj-{name}')
    (tmp_path / 'prompt.txt').write_text('You are a helpful assistant.\n')
    command = [*COMMAND, '--llm', 'smolvlm2-256m', '--port', '0', '--threads', '1']
    command += ['--system-prompt', 'prompt.txt']
    with subprocess.Popen(
        command, env=variables(tmp_path), cwd=tmp_path, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout
        url = server.stdout.readline().strip()
        client = openai.OpenAI(base_url=f'{url}v1', api_key='none', max_retries=0)
        assert client.models.list().data[0].id == Path(name).stem
        scene, bgr = draw_scene(3)
        parts = [
            {'type': 'image_url', 'image_url': {'url': data_url(bgr)}},
            {'type': 'text', 'text': DESCRIBE},
        ]
        response = client.chat.completions.create(
            model='any', temperature=0, messages=[{'role': 'user', 'content': parts}]
        )
        assert response.choices[0].message.content.strip() == answer(scene, DESCRIBE)
        server.send_signal(signal.SIGINT)
        assert server.wait(TIMEOUT) == 0


@pytest.mark.parametrize(
    'arguments, status, words',
    [
        ([*LLM], 2, 'required: --port'),
        ([*LLM, '--port', '99999'], 2, 'argument --port: 99999 is out of range (0 to 65535)'),
        ([*LLM, '--port', '-1'], 2, 'argument --port: -1 is out of range'),
        ([*LLM, '--port', 'http'], 2, "argument --port: 'http' is not a whole number"),
        ([*LLM, '--port', '0', '--n-ctx', '1'], 2, '--n-ctx: 1 is out of range (64 to 1048576)'),
        ([*LLM, '--port', '0', '--threads', '-4'], 2, '--threads: -4 is out of range'),
        ([*LLM, '--port', '0', '--model-type', '7'], 2, '--model-type: 7 is not one of 0, 1'),
        ([*LLM, '--port', '0', '--system-prompt', '/nope.txt'], 1, '--system-prompt: no such'),
        ([*LLM, '--port', '0', '--host', '0.0.0.0'], 1, 'needs a token there (--token-file)'),
        ([*LLM, *EYES, '--port', '0', '--model-type', '1'], 1, ': set --model-type 0'),
        (['--llm', 'nope.gguf', '--port', '0'], 1, '--llm: no such file, tried '),
        (
            ['--llm', 'InternVL2_5-1B', '--port', '0'],
            1,
            '--llm: InternVL2_5-1B is not on this machine, or not all of it; get it with: ',
        ),
    ],
)
def test_what_cannot_be(tmp_path: Path, arguments: list[str], status: int, words: str) -> None:
    """What makes no sense is one line that names the option, and no address is shown."""
    result = subprocess.run(
        [*COMMAND, *arguments],
        env={**variables(tmp_path), 'HOME': str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert (result.returncode, result.stdout) == (status, ''), result.stderr
    line = result.stderr.splitlines()[-1]
    assert line.startswith('error: ') and words in line
    assert status == 1 or result.stderr.count('\n') == 1
