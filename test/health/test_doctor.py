"""The doctor, looking at machines that lie in folders, and at this one."""

from __future__ import annotations

import http.server
import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from machines import Files, cores, heaps, memory, pc, reserved_memory, s100, write, x5, zone
from nano import CONFIG, ROOT
from served import free_port
from sparse_decoders import Sizes, write_sparse

from hobot_llamacpp_py.health.llama_cpp import _NEEDED, unused_features

QWEN = Sizes(n_layers=24, n_vocab=151936)  # 1 GB of weights in f16


@pytest.fixture(scope='module')
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models: a decoder, and an encoder of 400 MB for each kind of machine."""
    folder = tmp_path_factory.mktemp('models')
    write_sparse(folder / 'qwen.gguf', QWEN)
    for suffix in ('bin', 'hbm', 'onnx'):
        with (folder / f'vit.{suffix}').open('wb') as file:
            file.truncate(400 << 20)
    return folder


def doctor(
    *arguments: str | Path, variables: Mapping[str, str] | None = None, under: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """Run the command, under another one if there is one."""
    command = [
        *under,
        sys.executable,
        '-m',
        'hobot_llamacpp_py.tools.doctor',
        *map(str, arguments),
    ]
    environment = {**os.environ, 'PYTHONDONTWRITEBYTECODE': '1', **(variables or {})}
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
    )


def findings(
    root: Path, models: Path, encoder: str, *arguments: str | Path
) -> dict[str, list[tuple[str, str, str]]]:
    """Look at a folder's machine; return level, text and what mends it, by check."""
    chosen = ('--llm', models / 'qwen.gguf', '--encoder', models / encoder, *arguments)
    done = doctor('--root', root, '--json', *chosen)
    found: dict[str, list[tuple[str, str, str]]] = {}
    content = json.loads(done.stdout)
    for row in content['results']:
        found.setdefault(row['check'], []).append((row['level'], row['text'], row['mend']))
    failed = any(level == 'failure' for rows in found.values() for level, _, _ in rows)
    assert (done.returncode, content['ok']) == (int(failed), not failed)
    return found


def levels(found: dict[str, list[tuple[str, str, str]]]) -> set[str]:
    """Return the levels that there are."""
    return {level for rows in found.values() for level, _, _ in rows}


@pytest.mark.parametrize(
    ('machine', 'encoder', 'name'),
    [
        (x5(), 'vit.bin', 'D-Robotics RDK X5 V1.0, RDK OS 3.3.1, 8 cores'),
        (s100(), 'vit.hbm', 'D-Robotics RDK S100 V1P0, RDK OS 4.0.4, 6 cores'),
        (pc(), 'vit.onnx', 'Some CPU, 4 cores'),
    ],
)
def test_machines_as_they_should_be(
    tmp_path: Path, models: Path, machine: Files, encoder: str, name: str
) -> None:
    """A prepared machine has nothing to mend, and is told by its name."""
    found = findings(write(tmp_path, machine), models, encoder)
    assert levels(found) <= {'ok', 'skipped'}
    assert found['board'] == [('ok', name, '')]
    assert found['memory'][0][0] == found['models'][1][0] == found['ros'][0][0] == 'ok'


FULL = heaps(320, 640, 640, used=500 << 20)
NOT_ROOT: dict[str, None] = dict.fromkeys(heaps(1, 1, 1))


@pytest.mark.parametrize(
    ('changes', 'check', 'level', 'words', 'mend'),
    [
        (heaps(192, 382, 768), 'ion', 'failure', '1342 MiB', 'sudo srpi-config'),
        (FULL, 'ion', 'failure', 'vit.bin has 400 MiB, and at most 140 are free', 'camera'),
        (
            {**NOT_ROOT, **reserved_memory(320, 640, 640)},
            'ion',
            'ok',
            'ION has 1600 MiB (ion_cma 320 MiB, cma_reserved 640 MiB, carveout 640 MiB); what of'
            ' it is in use, only root can see',
            'sudo cat /sys/kernel/debug/ion/heaps/{ion_cma,cma_reserved,carveout}',
        ),
        (
            {**NOT_ROOT, **reserved_memory(192, 382, 768)},
            'ion',
            'failure',
            '1342 MiB',
            'sudo srpi-config',
        ),
        (NOT_ROOT, 'ion', 'warning', 'only root can', 'sudo cat'),
        (
            cores(8, 'asimd', 1_500_000, 'schedutil'),
            'clock',
            'warning',
            'schedutil',
            'performance',
        ),
        (
            {'/sys/devices/system/cpu/cpufreq/boost': '0\n'},
            'clock',
            'warning',
            'boost is off',
            'echo 1 | sudo tee /sys/devices/system/cpu/cpufreq/boost',
        ),
        (
            {'/sys/devices/system/cpu/cpu0/cpufreq/scaling_max_freq': '300000\n'},
            'clock',
            'warning',
            '1 of 8 cores are limited to 0.30 of 1.80 GHz',
            'echo 1800000 | sudo tee',
        ),
        (zone(1, 'cpu', 96.2, {'passive': 95}), 'clock', 'warning', 'cpu has 96 °C', 'fan'),
        (zone(1, 'cpu', 91.0, {'passive': 95}), 'clock', 'warning', 'throttles at 95', 'fan'),
        (memory(1.9, 1.0), 'memory', 'failure', 'needs 1.1 GB (weights', 'take a smaller model'),
        (memory(1.9, 1.1), 'memory', 'warning', 'that is tight', 'a smaller model'),
        (memory(3.9, 1.0, 2.0), 'memory', 'warning', 'swap 2.1 GB', ''),
    ],
)
def test_what_is_wrong_with_an_x5(
    tmp_path: Path,
    models: Path,
    changes: Mapping[str, str | bytes | None],
    check: str,
    level: str,
    words: str,
    mend: str,
) -> None:
    """Each thing that is not as it should be is told with its figures, and what mends it."""
    found = findings(write(tmp_path, {**x5(), **changes}), models, 'vit.bin')
    rows = found.pop(check)
    assert [row for row in rows if row[0] == level and words in row[1] and mend in row[2]], rows
    assert levels(found) <= {'ok', 'skipped'}


def test_a_control_group(tmp_path: Path, models: Path) -> None:
    """The limit of a container counts, without the files that its kernel keeps."""
    group = '/sys/fs/cgroup/box'
    files = {
        '/proc/self/cgroup': '0::/box/inner\n',
        f'{group}/memory.max': f'{1_000_000_000}\n',
        f'{group}/memory.current': f'{600_000_000}\n',
        f'{group}/memory.stat': 'anon 1\ninactive_file 100000000\nactive_file 200000000\n',
        f'{group}/memory.swap.max': '0\n',
        f'{group}/inner/memory.max': 'max\n',
    }
    found = findings(write(tmp_path, {**pc(), **files}), models, 'vit.onnx')
    level, text, _ = found['memory'][0]
    assert level == 'failure' and 'RAM 700 MB' in text


@pytest.mark.parametrize(
    ('machine', 'encoder', 'words'),
    [
        (x5(), 'vit.hbm', 'vit.hbm is for the RDK S100, this is D-Robotics RDK X5 V1.0'),
        (s100(), 'vit.bin', 'vit.bin is for the RDK X5, this is D-Robotics RDK S100 V1P0'),
        (pc(), 'vit.bin', 'vit.bin is for the RDK X5, this is Some CPU'),
    ],
)
def test_an_encoder_of_another_board(
    tmp_path: Path, models: Path, machine: Files, encoder: str, words: str
) -> None:
    """An encoder that is for another machine is told before it is loaded."""
    found = findings(write(tmp_path, machine), models, encoder)
    assert found['board'][0][:2] == ('failure', words)


def test_broken_machines(tmp_path: Path, models: Path) -> None:
    """Files that are missing, garbage or folders make no check fail by itself."""
    garbage = bytes(range(256)) * 3
    whole = x5()
    empty = write(tmp_path / 'empty', {'/proc/nothing': ''})
    scrambled = write(tmp_path / 'scrambled', dict.fromkeys(whole, garbage))
    folders = write(tmp_path / 'folders', {f'{name}/x': '' for name in whole})
    cut = write(tmp_path / 'cut', {name: text[: len(text) // 2] for name, text in whole.items()})
    for root in (empty, scrambled, folders, cut):
        found = findings(root, models, 'vit.bin')
        rows = [row for rows in found.values() for row in rows]
        assert not [row for row in rows if 'the check itself failed' in row[1]]
        assert len(found) >= 10


def test_what_only_root_may_read(tmp_path: Path, models: Path) -> None:
    """Without root, the sizes come from the device tree, and the line says how to see the rest."""
    root = write(tmp_path, {**x5(), **reserved_memory(320, 640, 640)})
    debug, under = root / 'sys' / 'kernel' / 'debug', []
    debug.chmod(0)
    if os.getuid() == 0:  # who may read everything, unless that is taken away
        under = ['setpriv', '--bounding-set', '-dac_override,-dac_read_search']
    chosen = ('--llm', models / 'qwen.gguf', '--encoder', models / 'vit.bin')
    done = doctor('--root', root, *chosen, under=under)
    debug.chmod(0o755)
    assert 'ION has 1600 MiB' in done.stdout and 'only root can see' in done.stdout, done.stderr


def test_this_machine() -> None:
    """On this machine, with a built-in model, nothing fails, and every check says something."""
    models = ('--llm', 'config/nano_internvl.gguf', '--encoder', 'config/nano_internvl_vit.onnx')
    done = doctor(*models, '--no-topics')
    assert done.returncode == 0, done.stdout
    checks = {line.split()[1] for line in done.stdout.splitlines() if line[:1].isalpha()}
    there = {path.stem for path in (ROOT / 'hobot_llamacpp_py' / 'health').glob('*.py')}
    helpers = {'__init__', 'boards', 'check', 'footprint', 'free_memory', 'machine', 'packages'}
    assert checks - {'0,'} >= there - helpers
    assert checks >= {'models', 'settings'}
    assert 'ONNX Runtime can be imported' in done.stdout
    assert 'llama-cpp-python 0' in done.stdout


def test_a_bpu_encoder_on_this_machine(tmp_path: Path) -> None:
    """A board's encoder fails here, and the broken binding does not end the doctor."""
    (tmp_path / 'vit.bin').write_bytes(bytes(5000))
    done = doctor('--llm', 'config/nano_internvl.gguf', '--encoder', tmp_path / 'vit.bin')
    assert done.returncode == 1
    assert 'vit.bin is for the RDK X5' in done.stdout
    assert 'Traceback' not in done.stdout + done.stderr


def test_missing_models() -> None:
    """Models that are not there are a failure, and what this PC can run is what mends it."""
    done = doctor('--no-topics', '--json')
    assert done.returncode == 1
    (row,) = [row for row in json.loads(done.stdout)['results'] if row['check'] == 'models']
    for name in ('vit_model_int16_v2.bin', 'Qwen2.5-0.5B-Instruct-Q4_0.gguf'):
        assert f'no such file, tried {name}' in row['text']
    command = 'ros2 run hobot_llamacpp_py models get InternVL2_5-1B'
    assert row['mend'] == f'{command}, then -p llm_model_name:=InternVL2_5-1B'
    assert 'models get' not in row['text']


LLM, ENCODER = 'config/nano_internvl.gguf', 'config/nano_internvl_vit.onnx'


@pytest.mark.parametrize(
    ('arguments', 'words', 'mend'),
    [
        (
            ['--llm', 'config/nano_smolvlm.gguf', '--encoder', 'config/nano_smolvlm_vit.onnx'],
            'nano_smolvlm.gguf: InternVL does not fit this GGUF: its vocabulary has no ',
            '-p model_type:=1',
        ),
        (['--llm', 'config/image2.jpg'], 'image2.jpg is not a GGUF file', 'models list'),
        (['--encoder', LLM], 'a text decoder is no vision encoder', 'models list'),
        (['--encoder', 'config/image2.jpg'], 'no encoder backend for the suffix', 'encoder_bac'),
        (['--encoder', '{broken}'], 'broken.onnx', 'models list'),
        (
            ['--encoder', 'config/mmproj-nano_smolvlm.gguf'],
            'is a vision encoder of SmolVLM2, not of InternVL',
            '-p model_type:=1',
        ),
    ],
)
def test_models_that_the_node_refuses(
    tmp_path: Path, arguments: list[str], words: str, mend: str
) -> None:
    """What the node dies of is a failure here: kind, family and content of the files."""
    broken = tmp_path / 'broken.onnx'
    broken.write_bytes(bytes(5000))
    options = [each.format(broken=broken) for each in arguments]
    done = doctor('--no-topics', '--json', '--llm', LLM, '--encoder', ENCODER, *options)
    (row,) = [row for row in json.loads(done.stdout)['results'] if row['level'] == 'failure']
    assert done.returncode == 1 and row['check'] == 'models'
    assert words in row['text'] and mend in row['mend']


@pytest.mark.parametrize(
    'arguments',
    [
        ['--llm', 'config/nano_smolvlm.gguf', '--model-type', '1'],
        ['--llm', 'config/nano_smolvlm.gguf', '--feed-type', '2'],
    ],
)
def test_models_that_the_node_takes(arguments: list[str]) -> None:
    """With the model_type of its family, or in a text chat, a decoder is right."""
    encoder = ['--encoder', 'config/nano_smolvlm_vit.onnx']
    done = doctor('--no-topics', *encoder, *arguments)
    assert done.returncode == 0, done.stdout


def test_a_damaged_model(tmp_path: Path, models: Path) -> None:
    """A file that is cut off is told before it is loaded."""
    path = tmp_path / 'cut.gguf'
    path.write_bytes((CONFIG / 'nano_internvl.gguf').read_bytes()[:100_000])
    done = doctor('--llm', path, '--encoder', models / 'vit.onnx', '--no-topics')
    assert done.returncode == 1
    assert 'cut.gguf is cut off' in done.stdout


def test_a_parameter_file(tmp_path: Path, models: Path) -> None:
    """The node's own parameter file chooses what is looked at; an option wins over it."""
    file = tmp_path / 'params.yaml'
    file.write_text(
        '/**:\n  ros__parameters:\n    kv_cache_type: q8_0\n    n_ctx: 8192\n'
        f'    llm_model_name: {models / "qwen.gguf"}\n'
    )
    root = write(tmp_path / 'x5', x5())
    found = findings(root, models, 'vit.bin', '--params-file', file, '--n-ctx', '1024')
    assert 'for n_ctx 1024 in q8_0' in found['memory'][0][1]


def test_ports() -> None:
    """A port at which somebody listens is a failure, a free one is not."""
    models = ('--llm', 'config/nano_internvl.gguf', '--encoder', 'config/nano_internvl_vit.onnx')
    with socket.socket() as listening:
        listening.bind(('127.0.0.1', 0))
        listening.listen()
        port = listening.getsockname()[1]
        done = doctor(*models, '--no-topics', '--port', str(port))
        assert done.returncode == 1
        assert f'port {port} is in use' in done.stdout
    done = doctor(*models, '--no-topics', '--port', str(port))
    assert f'port {port} is free' in done.stdout


def settings(tmp_path: Path, *lines: str, **options: Any) -> list[tuple[str, str, str]]:
    """Run the doctor with a parameter file; return level, text and mend of what is wrong."""
    file = tmp_path / 'params.yaml'
    given = (f'llm_model_name: {LLM}', f'model_file_name: {ENCODER}', *lines)
    body = ''.join(f'    {line}\n' for line in given)
    file.write_text(f'/**:\n  ros__parameters:\n{body}')
    done = doctor('--no-topics', '--json', '--params-file', file, **options)
    rows = json.loads(done.stdout)['results']
    checks = ('ports', 'settings')
    found = [(r['level'], r['text'], r['mend']) for r in rows if r['check'] in checks]
    return [row for row in found if row[0] in ('failure', 'warning')]


def test_all_of_a_parameter_file(tmp_path: Path) -> None:
    """A taken port, an open address without a token, and a typo are told, each with its mend."""
    with socket.socket() as listening:
        listening.bind(('127.0.0.1', 0))
        listening.listen()
        port = listening.getsockname()[1]
        found = settings(
            tmp_path, f'http_port: {port}', 'http_host: 0.0.0.0', 'max_tokns: 9', 'use_sim_time: 1'
        )
    (taken, typo, token) = found
    assert taken[:2] == ('failure', f'port {port} is in use')
    assert typo[:2] == ('warning', 'there is no parameter max_tokns; did you mean max_tokens?')
    assert token[0] == 'failure' and 'needs a token' in token[1]
    assert 'openssl rand -hex 16' in token[2] and 'http_token_file' in token[2]


@pytest.mark.parametrize(
    ('line', 'words'),
    [
        ('once: true', 'once needs a user_prompt to answer'),
        ('continuous: true', 'continuous needs images on a topic: set feed_type:=1'),
        ('image: none.jpg', 'image: no such file, tried none.jpg'),
        ('ai_msg_pub_topic_name: a//b', "ai_msg_pub_topic_name: 'a//b' is no topic: "),
        ('user_prompt: {a: b}', 'user_prompt is a map in YAML'),
    ],
)
def test_parameters_that_the_node_refuses(tmp_path: Path, line: str, words: str) -> None:
    """What the node ends with at its start is a failure in the same words."""
    (row,) = settings(tmp_path, line)
    assert row[0] == 'failure' and row[1].startswith(words)


HIDDEN = """
import importlib.util
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == 'mcp' else find_spec(name, *rest)
"""


def test_packages_of_what_is_asked_for(tmp_path: Path) -> None:
    """What http_port and publish_overlay need is looked for, and where it is missing is told."""
    (tmp_path / 'sitecustomize.py').write_text(HIDDEN)
    (tmp_path / 'PIL').mkdir()
    (tmp_path / 'PIL/__init__.py').write_text('raise ImportError')
    variables = {'PYTHONPATH': f'{tmp_path}:{os.environ.get("PYTHONPATH", "")}'}
    lines = (f'http_port: {free_port()}', 'publish_overlay: true')
    (http, overlay) = settings(tmp_path, *lines, variables=variables)
    assert http[0] == overlay[0] == 'failure'
    assert 'packages of the HTTP server are missing' in http[1]
    assert http[2] == 'pip3 install mcp==2.3.0'
    assert 'publish_overlay' in overlay[1] and 'pip3 install pillow' in overlay[2]
    assert settings(tmp_path) == []


class OpenAI(http.server.BaseHTTPRequestHandler):
    """A server with one model, for those who know the token."""

    def do_GET(self) -> None:
        known = self.headers['Authorization'] == 'Bearer right'
        body = json.dumps({'data': [{'id': 'big-one'}]}).encode()
        self.send_response(200 if known and self.path == '/v1/models' else 401)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


def test_a_server_in_place_of_models() -> None:
    """No files are wanted; whether the server answers is one line, with what mends it."""
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), OpenAI) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        port = server.server_address[1]
        llm = ('--no-topics', '--llm', f'http://127.0.0.1:{port}')
        taken = doctor(*llm, variables={'OPENAI_API_KEY': 'right'})
        refused = doctor(*llm, variables={'OPENAI_API_KEY': 'wrong'})
        server.shutdown()
    away = doctor(*llm)
    assert f'ok       server     http://127.0.0.1:{port}/v1 answers, with big-one' in taken.stdout
    assert taken.returncode == 0 and 'no such file' not in taken.stdout
    assert refused.returncode == 1 and 'HTTP 401' in refused.stdout
    assert '-> export OPENAI_API_KEY=' in refused.stdout
    assert away.returncode == 1 and 'cannot be reached: Connection refused' in away.stdout
    assert '-> start it, or give its address: -p llm_model_name:=' in away.stdout


def test_heaps_in_another_form(tmp_path: Path, models: Path) -> None:
    """Heaps that can be read but say something else are not a matter of who reads them."""
    garbage = dict.fromkeys(heaps(1, 1, 1), 'something new\n')
    found = findings(write(tmp_path, {**x5(), **garbage}), models, 'vit.bin')
    ((level, text, _),) = found['ion']
    assert level == 'warning' and 'not in the form known' in text and 'root' not in text


@pytest.mark.parametrize(
    ('machine', 'encoder', 'level', 'mend'),
    [
        (x5(), 'vit.bin', 'failure', 'sudo apt update && sudo apt install tros-humble'),
        (pc(), 'vit.onnx', 'skipped', ''),
    ],
)
def test_no_ros(
    tmp_path: Path, models: Path, machine: Files, encoder: str, level: str, mend: str
) -> None:
    """A board without TogetheROS is a failure, with the way to install it."""
    files = {name: text for name, text in machine.items() if not name.startswith('/opt')}
    found = findings(write(tmp_path, files), models, encoder)
    assert [(row[0], row[2]) for row in found['ros']] == [(level, mend)]


def test_a_report_that_cannot_be_written(tmp_path: Path) -> None:
    """It is refused before anything is looked at."""
    done = doctor('--report', tmp_path / 'none' / 'x')
    assert (done.returncode, done.stdout) == (2, '')
    assert 'none/x: No such file or directory' in done.stderr


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        (['--n-ctx', '1'], 'n_ctx: 1 is out of range (64 to 1048576)'),
        (['--n-ctx', '['], "n_ctx: '[' is not a whole number"),
        (['--kv-cache-type', 'f8'], "kv_cache_type: 'f8' is not one of"),
        (['--port', '70000'], 'http_port: 70000 is out of range (0 to 65535)'),
        (['--params-file', 'nowhere.yaml'], 'nowhere.yaml cannot be read'),
        (['--params-file', 'setup.cfg'], 'setup.cfg'),
        (['--root', 'nowhere'], 'nowhere: no such folder'),
        (['--unknown'], 'unrecognized arguments'),
    ],
)
def test_wrong_options(arguments: list[str], words: str) -> None:
    """Options that make no sense are one line and status 2."""
    done = doctor(*arguments)
    assert (done.returncode, done.stdout) == (2, '')
    (line,) = done.stderr.splitlines()
    assert words in line


def test_help() -> None:
    """The help names every parameter with its default."""
    done = doctor('--help')
    assert done.returncode == 0
    assert '--kv-cache-type' in done.stdout and '(4096)' in done.stdout


def test_an_unoptimised_llama_cpp() -> None:
    """What the processor can do and llama.cpp does not use is found, by both kinds of words."""
    flags = frozenset(['asimd', 'asimddp', 'asimdhp'])
    info = 'CPU : NEON = 1 | ARM_FMA = 1 | REPACK = 1 | '
    assert unused_features(_NEEDED.items(), flags, info) == ['DOTPROD']
    assert unused_features(_NEEDED.items(), flags, f'{info}DOTPROD = 1 |') == []
    flags = frozenset(['avx', 'avx2', 'fma', 'f16c'])
    info = 'CPU : SSE3 = 1 | SSSE3 = 1 | AVX = 1 | F16C = 1 | '
    assert unused_features(_NEEDED.items(), flags, info) == ['AVX2', 'FMA']


PRIVATE = {
    'user': 'miriam',
    'host': 'miriams-robot',
    'home': '/home/miriam',
    'ip': '192.168.17.23',
    'ip6': 'fe80::1c2d:3e4f:5a6b:7c8d',
    'mac': 'dc:a6:32:01:23:45',
    'serial': '10000000abcdef12',
    'token': 'hf_verysecret',
}


def test_a_report_has_nothing_private(tmp_path: Path, models: Path) -> None:
    """A report tells what the checks found; no name, address, folder or secret is in it."""
    home = tmp_path / PRIVATE['home'].lstrip('/')
    home.mkdir(parents=True)
    (home / 'vit.bin').symlink_to(models / 'vit.bin')
    (home / 'qwen.gguf').symlink_to(models / 'qwen.gguf')
    files = {
        '/etc/hostname': f'{PRIVATE["host"]}\n',
        '/etc/passwd': f'root:x:0:0::/root:/bin/sh\n{PRIVATE["user"]}:x:1000:1000::/home/m:x\n',
        '/etc/os-release': 'PRETTY_NAME="Ubuntu 22.04.5 LTS"\n',
        '/proc/version': f'Linux version 6.1.83 ({PRIVATE["user"]}@{PRIVATE["host"]}) (gcc) #1\n',
        '/proc/device-tree/serial-number': PRIVATE['serial'],
    }
    machine = x5()
    machine['/proc/cpuinfo'] = f'{machine["/proc/cpuinfo"]!s}Serial\t: {PRIVATE["serial"]}\n'
    zones = zone(1, f'{PRIVATE["user"]} {PRIVATE["ip"]} {PRIVATE["ip6"]} {PRIVATE["mac"]}', 50, {})
    root = write(tmp_path / 'root', {**machine, **zones, **files})
    report = tmp_path / 'report.md'
    done = doctor(
        *('--root', root, '--report', report),
        *('--llm', home / 'qwen.gguf', '--encoder', home / 'vit.bin'),
        variables={'HF_TOKEN': PRIVATE['token'], 'USER': PRIVATE['user'], 'HOME': str(home)},
    )
    assert done.returncode == 0, done.stdout
    text = report.read_text('utf-8')
    assert [name for name, value in PRIVATE.items() if value in text] == []
    for kept in ('RDK X5', 'qwen.gguf needs', 'Ubuntu 22.04.5', 'kernel: 6.1.83', 'asimddp'):
        assert kept in text


def version() -> str:
    """Return the version that the package is released under."""
    return re.findall("version='(.*)'", (ROOT / 'setup.py').read_text())[0]


def test_a_report_of_this_machine(tmp_path: Path) -> None:
    """The live report names versions and our own variables, and no other ones."""
    report = tmp_path / 'report.md'
    folder = tmp_path / 'home' / PRIVATE['user']
    folder.mkdir(parents=True)
    done = doctor(
        *('--report', report, '--no-topics', '--llm', 'config/nano_internvl.gguf'),
        *('--encoder', 'config/nano_internvl_vit.onnx'),
        variables={
            'HOBOT_LLAMACPP_MODELS': str(folder),
            'ROS_DOMAIN_ID': '7',
            'HF_TOKEN': PRIVATE['token'],
            'LOGNAME': PRIVATE['user'],
        },
    )
    assert done.returncode == 0, done.stdout
    text = report.read_text('utf-8')
    assert 'ROS_DOMAIN_ID=7' in text and 'llama-cpp-python: ' in text and 'Python: 3' in text
    assert f'hobot_llamacpp_py: {version()}' in text
    assert 'HOBOT_LLAMACPP_MODELS=…/<name>' in text
    assert PRIVATE['token'] not in text and PRIVATE['user'] not in text
    assert str(tmp_path) not in text and str(ROOT) not in text
    assert not re.search(rf'\b{re.escape(socket.gethostname())}\b', text)
