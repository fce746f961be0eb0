"""The boards' wheel of llama.cpp, as `make test-aarch64` compiles it and pip installs it there."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from emulated import FOLDER
from nano import ROOT
from tiny_decoders import write_q4_0

LLAMA = 'llama-cpp-python'
CACHE = Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache')
WORK = Path(os.environ.get('BPU_SIM_WORK') or CACHE / 'hobot_llamacpp_py/board')
# Processors that the emulator knows: what all ARMv8 have; like a Cortex-A55.
ARMV8_0, ARMV8_2 = 'cortex-a72', 'cortex-a76'
# What a manylinux wheel may ask for, as far as this one does.
SYSTEM = {'libc.so.6', 'libm.so.6', 'libstdc++.so.6', 'libgcc_s.so.1', 'ld-linux-aarch64.so.1'}


@pytest.fixture
def wheel() -> Path:
    """The wheel, if it was built and installed."""
    found = sorted((ROOT / 'dist').glob('llama_cpp_python-*_aarch64.whl'))
    if not found or not (WORK / 'packages.done').exists():
        pytest.skip('needs the wheel, built and installed: make test-aarch64')
    return found[-1]


@pytest.fixture
def libraries(wheel: Path, tmp_path: Path) -> list[Path]:
    """The libraries in the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    return sorted(tmp_path.glob('llama_cpp/lib/*'))


def run_on_board(
    script: str, *arguments: str | Path, processor: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run Python on the emulated X5 with what board.txt installs and nothing else."""
    folders = os.pathsep.join(map(str, (WORK / 'packages', ROOT, ROOT / 'test')))
    environment |= {'BPU_SIM_PYTHONPATH': folders, 'QEMU_CPU': processor}
    return subprocess.run(
        [FOLDER / 'emu.sh', 'x5', '-c', script, *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=240,
    )


def pip(*arguments: str | Path, python: str, glibc: int) -> subprocess.CompletedProcess[str]:
    """Run pip for another machine: an aarch64 one with glibc 2.`glibc`."""
    command = [sys.executable, '-m', 'pip', *arguments, '--only-binary', ':all:']
    command += ['--implementation', 'cp', '--python-version', python, '--platform', 'any']
    for minor in range(17, glibc + 1):
        command += ['--platform', f'manylinux_2_{minor}_aarch64']
    command += ['--platform', 'manylinux2014_aarch64', '--platform', 'linux_aarch64']
    return subprocess.run(command, capture_output=True, text=True, timeout=240)


# -- what it can be installed on -----------------------------------------------------------------


@pytest.mark.parametrize(
    ('python', 'glibc', 'fits'),
    [('3.10', 35, True), ('3.12', 39, True), ('3.8', 31, False)],
    ids=['Ubuntu 22.04', 'Ubuntu 24.04', 'Ubuntu 20.04'],
)
def test_installs_where_it_runs(
    wheel: Path, tmp_path: Path, python: str, glibc: int, fits: bool
) -> None:
    """Pip takes it for any Python where glibc is new enough, and refuses it where it is not."""
    options = ['download', '--no-index', '--no-deps', '-d', tmp_path, wheel]
    result = pip(*options, python=python, glibc=glibc)
    assert (result.returncode == 0) is fits, result.stderr
    assert fits or 'is not a supported wheel on this platform' in result.stderr


def test_board_compiles_nothing(wheel: Path, tmp_path: Path) -> None:
    """All of board.txt and board_onnx.txt comes as wheels for Python 3.10 of Ubuntu 22.04."""
    options = ['install', '--dry-run', '--ignore-installed', '--target', tmp_path]
    options += ['--find-links', wheel.parent, '--retries', '0', '--timeout', '20']
    for name in ('board', 'board_onnx'):
        options += ['-r', ROOT / f'requirements/{name}.txt']
    result = pip(*options, python='3.10', glibc=35)
    if 'No matching distribution' in result.stderr and LLAMA not in result.stderr:
        pytest.skip(f'PyPI cannot be had: {result.stderr.strip()[-200:]}')
    assert result.returncode == 0, result.stderr
    assert wheel.name in result.stdout


def test_holds_what_it_needs(libraries: list[Path]) -> None:
    """Its libraries ask for each other and for what every Linux with glibc has."""
    names = {path.name for path in libraries}
    assert {'libllama.so', 'libmtmd.so'} <= names
    command = ['aarch64-linux-gnu-readelf', '-d', *libraries]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    needed = set(re.findall(r'\(NEEDED\).*\[(.*)\]', output))
    assert needed - names <= SYSTEM
    assert needed & names == names - {'libllama.so', 'libmtmd.so'} | {'libllama.so'}


# -- what it runs on, and how fast ---------------------------------------------------------------


def instructions(libraries: list[Path]) -> set[tuple[int, str]]:
    """Return each word of the libraries' code with the instruction's name."""
    command = ['aarch64-linux-gnu-objdump', '-d', *libraries]
    found = set()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        for line in process.stdout:
            parts = line.split('\t', 3)
            if len(parts) > 2:
                found.add((int(parts[1], 16), parts[2].strip()))
    return found


def test_nothing_that_the_boards_lack(libraries: list[Path]) -> None:
    """It has dot products, and none of the newer instructions that a Cortex-A55 does not know."""
    names = {name for _, name in instructions(libraries)}
    assert 'sdot' in names
    newer = r'[su]mmla|us(mmla|dot)|bf(mmla|dot|mlal.)|ptrue|whilelo|cntw|ld1row|smstart'
    assert [name for name in sorted(names) if re.fullmatch(newer, name)] == []


LOGITS = """
import logging, sys
import llama_cpp
import numpy as np
from nano import logits_of
from hobot_llamacpp_py.config import DecoderConfig
from hobot_llamacpp_py.engine.decoder import Decoder

logging.basicConfig(level=logging.DEBUG)
with Decoder(sys.argv[1], DecoderConfig(n_ctx=256, n_threads=1)) as decoder:
    decoder.prefill(range(40, 60), 0)
    rows = [logits_of(decoder)]
    decoder.decode(60, (), 20)
    rows.append(logits_of(decoder))
np.save(sys.argv[2], rows)
print(llama_cpp.llama_print_system_info().decode())
"""


def test_dot_products(libraries: list[Path], tmp_path: Path) -> None:
    """A Q4_0 model is repacked for dot products, runs them, and gets the numbers of a PC."""
    model = write_q4_0(tmp_path / 'q4_0.gguf')
    here = [sys.executable, '-c', LOGITS, model, tmp_path / 'here.npy']
    environment = {**os.environ, 'PYTHONPATH': f'{ROOT}{os.pathsep}{ROOT}/test'}
    subprocess.run(here, env=environment, check=True, capture_output=True)
    result = run_on_board(
        LOGITS,
        model,
        tmp_path / 'board.npy',
        processor=ARMV8_2,
        QEMU_LOG='in_asm',
        QEMU_LOG_FILENAME=f'{tmp_path}/executed',
    )
    assert result.returncode == 0, result.stderr
    found, right = np.load(tmp_path / 'board.npy'), np.load(tmp_path / 'here.npy')
    assert np.linalg.norm(found - right) < 0.05 * np.linalg.norm(right)  # they round differently
    repacked = re.findall(r'repack tensor (\S+) with (\S+)', result.stderr)
    assert ('blk.0.ffn_down.weight', 'q4_0_4x4') in repacked
    assert 'CPU_REPACK model buffer size' in result.stderr
    for feature in ('DOTPROD = 1', 'FP16_VA = 1', 'REPACK = 1', 'OPENMP = 1'):
        assert feature in result.stdout
    assert 'MATMUL_INT8' not in result.stdout
    log = (tmp_path / 'executed').read_text(errors='replace')
    executed = {int(word, 16) for word in re.findall(r'^0x\w+:  (\w{8}) ', log, re.MULTILINE)}
    assert executed & {word for word, name in instructions(libraries) if name == 'sdot'}


def test_processor_without_dot_products(wheel: Path, tmp_path: Path) -> None:
    """On an older processor the process ends: pip cannot know what it needs of that."""
    model = write_q4_0(tmp_path / 'q4_0.gguf')
    result = run_on_board(LOGITS, model, tmp_path / 'board.npy', processor=ARMV8_0)
    assert result.returncode == -signal.SIGILL


# -- what is installed with it -------------------------------------------------------------------

MMPROJ = """
import os
os.environ['HOBOT_LLAMACPP_ENCODER_PYTHON'] = os.environ['BPU_SIM_PYTHON']
from nano import CONFIG, MODELS, answer, draw_scene, request_of
from hobot_llamacpp_py.config import DecoderConfig, SamplingConfig
from hobot_llamacpp_py.engine import Engine, Turn
_, decoder, kind = MODELS['smolvlm']
encoder, config = CONFIG / 'mmproj-nano_smolvlm.gguf', DecoderConfig(n_threads=1)
with Engine.open(decoder, encoder, family=kind, config=config) as engine:
    scene, bgr = draw_scene(0)
    turn = Turn('Describe the image.', engine.picture(bgr))
    request = request_of(turn, sampling=SamplingConfig(temperature=0))
    print(''.join(engine.generate(request)), answer(scene, turn.question), sep='\\n')
try:
    import onnxruntime
except ModuleNotFoundError:
    print('no ONNX Runtime')
"""


def test_answers_without_onnx_runtime(wheel: Path) -> None:
    """With board.txt alone a built-in model answers rightly, its picture encoded by libmtmd."""
    result = run_on_board(MMPROJ, processor=ARMV8_2)
    assert result.returncode == 0, result.stderr
    found, right, last = result.stdout.splitlines()
    assert (found, last) == (right, 'no ONNX Runtime')
