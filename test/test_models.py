"""The models command, against a hub on this machine that speaks as Hugging Face's does."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from commands import small_disk
from hub import Hub
from nano import CONFIG, ROOT

pytest.importorskip('huggingface_hub', reason='needs requirements/models.txt')

REPOSITORY = 'ggml-org/SmolVLM2-256M-Video-Instruct-GGUF'
ENCODER = f'{REPOSITORY}/mmproj-SmolVLM2-256M-Video-Instruct-Q8_0.gguf'
DECODER = f'{REPOSITORY}/SmolVLM2-256M-Video-Instruct-Q8_0.gguf'
BOARD = 'D-Robotics/SmolVLM2-256M-Video-Instruct-GGUF-BPU'
CHUNK = 10 << 20  # bytes that the library writes at once
Result = subprocess.CompletedProcess


@pytest.fixture
def hub() -> Iterator[Hub]:
    """A hub that has the built-in models under the names of the public ones.

    The decoder is longer than the library's chunks: llama.cpp does not mind what follows.
    """
    decoder = (CONFIG / 'nano_smolvlm.gguf').read_bytes() + bytes(CHUNK + (CHUNK >> 1))
    with Hub(
        {
            ENCODER: (CONFIG / 'mmproj-nano_smolvlm.gguf').read_bytes(),
            DECODER: decoder,
            f'{BOARD}/rdkx5/SigLip_int16_SmolVLM2_256M_Instruct_MLP_C1_UP_X5.bin': b'a' * 1000,
            f'{BOARD}/SmolVLM2-256M-Video-Instruct-Q8_0.gguf': decoder,
        }
    ) as served:
        yield served


@pytest.fixture
def environment(hub: Hub, tmp_path: Path) -> dict[str, str]:
    """Surroundings of a user who has nothing yet."""
    kept = {name: os.environ[name] for name in ('PATH', 'LD_LIBRARY_PATH') if name in os.environ}
    path = {'PYTHONPATH': str(ROOT), 'HF_ENDPOINT': hub.url, 'HF_HUB_DISABLE_TELEMETRY': '1'}
    return {**kept, **path, 'HOME': str(tmp_path / 'home'), 'PYTHONDONTWRITEBYTECODE': '1'}


Models = Callable[..., 'Result[str]']


@pytest.fixture
def models(environment: dict[str, str], tmp_path: Path) -> Models:
    """Return a function that runs the command in a folder of its own."""

    def run(*arguments: str, **more: str) -> Result[str]:
        return subprocess.run(
            [*COMMAND, *arguments],
            env={**environment, **more},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
        )

    return run


COMMAND = [sys.executable, '-m', 'hobot_llamacpp_py.tools.models']


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where models go by default."""
    return tmp_path / 'home/.local/share/hobot_llamacpp_py/models/SmolVLM2-256M'


def test_get(models: Models, folder: Path, hub: Hub) -> None:
    """Both files arrive where the node looks for them, and the line to run the node is printed."""
    result = models('get', 'smolvlm2-256m')
    assert result.returncode == 0, result.stderr
    assert (folder / Path(DECODER).name).read_bytes() == hub.files[DECODER]
    assert (folder / Path(ENCODER).name).read_bytes() == hub.files[ENCODER]
    last = result.stdout.splitlines()[-1].strip()
    assert last == (
        'ros2 run hobot_llamacpp_py hobot_llamacpp_py --ros-args'
        ' -p llm_model_name:=SmolVLM2-256M -p image:=config/image2.jpg'
        ' -p user_prompt:="Describe the image."'
    )
    assert subprocess.run(['sha256sum', '-c', 'SHA256SUMS'], cwd=folder).returncode == 0
    again = models('get', 'SmolVLM2-256M')
    assert again.returncode == 0 and ' 0 MB have to be downloaded' in again.stdout
    assert hub.starts[DECODER] == [0]


def test_get_for_programs(models: Models, folder: Path) -> None:
    """--json gives one object on standard output, and nothing else."""
    result = json.loads(models('get', 'SmolVLM2-256M', '--json').stdout)
    assert [Path(file['path']) for file in result['files']] == [
        folder / Path(ENCODER).name,
        folder / Path(DECODER).name,
    ]
    assert result['board'] == 'pc' and 'llm_model_name:=SmolVLM2-256M' in result['command']


def test_get_for_a_board(models: Models, tmp_path: Path) -> None:
    """A PC downloads what a board needs, into any folder, and says how to go on."""
    result = models('get', 'SmolVLM2-256M', '--board', 'x5', '--dir', 'for the board')
    assert result.returncode == 0, result.stderr
    folder = tmp_path / 'for the board/SmolVLM2-256M'
    assert (folder / 'rdkx5/SigLip_int16_SmolVLM2_256M_Instruct_MLP_C1_UP_X5.bin').is_file()
    assert f'Copy {folder} into the folder of models on the board' in result.stdout


def test_a_break_in_the_middle(models: Models, folder: Path, hub: Hub) -> None:
    """A transfer that breaks off goes on by itself, from where it was."""
    hub.breaks[DECODER] = CHUNK + 5
    assert models('get', 'SmolVLM2-256M').returncode == 0
    assert hub.starts[DECODER] == [0, CHUNK]
    assert (folder / Path(DECODER).name).read_bytes() == hub.files[DECODER]


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGKILL])
def test_goes_on_after_an_interruption(
    models: Models, environment: dict[str, str], tmp_path: Path, hub: Hub, number: signal.Signals
) -> None:
    """What an interrupted run has downloaded is not downloaded again."""
    hub.held[DECODER] = CHUNK + 5
    with subprocess.Popen(
        [*COMMAND, 'get', 'SmolVLM2-256M'],
        env=environment,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert hub.holding.wait(60)
        parts = tmp_path.rglob('*.incomplete')
        while not any(part.stat().st_size >= CHUNK for part in parts):
            parts = tmp_path.rglob('*.incomplete')
        process.send_signal(number)
        _, error = process.communicate(timeout=60)
    if number == signal.SIGINT:
        assert process.returncode == 130
        assert error.strip().endswith('interrupted: run the same command again to go on from here')
    result = models('get', 'SmolVLM2-256M')
    assert result.returncode == 0, result.stderr
    assert hub.starts[DECODER] == [0, CHUNK]


def test_wrong_checksum(models: Models, folder: Path, hub: Hub) -> None:
    """A file that differs from what was announced does not stay."""
    hub.announced[DECODER] = ('ab' * 32, len(hub.files[DECODER]))
    result = models('get', 'SmolVLM2-256M')
    assert result.returncode == 1
    assert 'the hub announced ' + 'ab' * 32 + ': it was deleted' in result.stderr
    assert not (folder / Path(DECODER).name).exists()


@pytest.mark.parametrize('options', [(), ('--board', 'x5')])
def test_a_hub_that_serves_an_error_page(
    models: Models, hub: Hub, options: tuple[str, ...]
) -> None:
    """What came as it was announced and is no model is no model to be run or copied."""
    for name in (DECODER, f'{BOARD}/{Path(DECODER).name}'):
        hub.files[name] = b'<!DOCTYPE html>' + bytes(1000)
    result = models('get', 'SmolVLM2-256M', *options)
    assert result.returncode == 1
    assert 'ros2 run' not in result.stdout and 'Copy' not in result.stdout
    (line,) = [line for line in result.stdout.splitlines() if line.startswith('FAILED')]
    assert line.count(Path(DECODER).name) == 1
    assert 'is an error page: what the hub serves there is no model file' in line
    printed = json.loads(models('get', 'SmolVLM2-256M', '--json', *options).stdout)
    assert 'is an error page' in printed['error'] and 'command' not in printed


def test_an_endpoint_that_is_none(models: Models) -> None:
    """HF_ENDPOINT is looked at before anything is asked."""
    result = models('get', 'SmolVLM2-256M', HF_ENDPOINT='foo')
    wanted = "error: HF_ENDPOINT must begin with https:// (or http://): 'foo'\n"
    assert (result.returncode, result.stderr) == (1, wanted)


def refuse_all(hub: Hub) -> None:
    hub.token = 'secret'


def gate(hub: Hub) -> None:
    hub.gated.add(REPOSITORY)


def lose_the_decoder(hub: Hub) -> None:
    del hub.files[DECODER]


def lose_the_repository(hub: Hub) -> None:
    del hub.files[DECODER], hub.files[ENCODER]


def make_it_huge(hub: Hub) -> None:
    hub.announced[DECODER] = ('ab' * 32, 10**15)


def go_away(hub: Hub) -> None:
    hub._server.server_close()
    hub._server.shutdown()


@pytest.mark.parametrize(
    'trouble, words',
    [
        (refuse_all, 'or it is private: then log in with `hf auth login`, or set HF_TOKEN'),
        (gate, 'asks for consent: give it there, then log in'),
        (lose_the_decoder, f'has no file {Path(DECODER).name}'),
        (lose_the_repository, f'has no repository {REPOSITORY}'),
        (make_it_huge, 'GB free: free some, or name another folder with --dir'),
        (go_away, 'check the network, or name a mirror with HF_ENDPOINT'),
    ],
)
def test_what_the_hub_refuses(
    models: Models, hub: Hub, trouble: Callable[[Hub], None], words: str
) -> None:
    """Each trouble is one line that says what to do."""
    trouble(hub)
    result = models('get', 'SmolVLM2-256M')
    assert result.returncode == 1
    assert words in result.stderr and result.stderr.count('\n') == 1, result.stderr


def test_token(models: Models, hub: Hub) -> None:
    """A private repository opens to the token that the hub's library finds."""
    hub.token = 'secret'
    assert models('get', 'SmolVLM2-256M', HF_TOKEN='secret').returncode == 0


def test_full_disk(environment: dict[str, str], tmp_path: Path, hub: Hub) -> None:
    """A disk that fills up while a file comes is named."""
    disk = tmp_path / 'disk'
    with small_disk(disk, '100m'):
        hub.held[DECODER] = CHUNK  # meanwhile somebody else takes the rest of the disk
        command = [*COMMAND, 'get', 'SmolVLM2-256M', '--dir', str(disk)]
        with subprocess.Popen(
            command, env=environment, stderr=subprocess.PIPE, text=True
        ) as process:
            assert hub.holding.wait(60)
            with contextlib.suppress(OSError):  # whether all of it is there does not matter
                (disk / 'other').write_bytes(bytes(100 << 20))
            hub.released.set()
            _, error = process.communicate(timeout=60)
        assert process.returncode == 1
        assert f'the disk of {disk}/SmolVLM2-256M is full: free some of it, then run' in error


def test_verify(models: Models, folder: Path) -> None:
    """What was downloaded is looked at again: whole, unchanged, belonging to each other."""
    assert models('get', 'SmolVLM2-256M').returncode == 0
    result = models('verify', 'SmolVLM2-256M')
    assert result.returncode == 0, result.stdout
    assert 'model_type 1 (SmolVLM2)' in result.stdout and 'of width 128' in result.stdout
    assert models('verify').stdout == result.stdout
    with (folder / Path(DECODER).name).open('r+b') as file:
        file.seek(-1, os.SEEK_END)
        file.write(b'x')
    result = models('verify', 'SmolVLM2-256M')
    assert result.returncode == 1
    assert 'has changed since it was downloaded' in result.stdout


def test_verify_files(models: Models, tmp_path: Path) -> None:
    """Files of one's own are told apart, and why one is no good."""
    decoder = (CONFIG / 'nano_smolvlm.gguf').read_bytes()
    (tmp_path / 'cut.gguf').write_bytes(decoder[: len(decoder) // 2])
    (tmp_path / 'pointer.gguf').write_bytes(b'version https://git-lfs.github.com/spec/v1\n')
    (tmp_path / 'vit.hbm').write_bytes(b'HBM')
    mmproj = str(CONFIG / 'mmproj-nano_smolvlm.gguf')
    result = models(
        'verify', '--json', '--board', 'x5', 'cut.gguf', 'pointer.gguf', 'vit.hbm', mmproj, 'no'
    )
    assert result.returncode == 1
    texts = {Path(row['file']).name: row['text'] for row in json.loads(result.stdout)}
    assert 'is cut off' in texts['cut.gguf']
    assert 'is a git-lfs pointer' in texts['pointer.gguf']
    assert texts['vit.hbm'] == 'is for an RDK S100, and this is an RDK X5'
    assert texts[Path(mmproj).name].startswith('a whole mmproj of SmolVLM2')
    assert texts['no'].startswith(f'no such file, tried no; searched: {tmp_path}, ')
    assert not any(str(tmp_path) in texts[name] for name in ('cut.gguf', 'pointer.gguf'))


def test_verify_a_pair_that_is_none(models: Models) -> None:
    """An encoder of another family than the decoder's is found out."""
    pair = [CONFIG / 'nano_internvl.gguf', CONFIG / 'mmproj-nano_smolvlm.gguf']
    result = models('verify', *map(str, pair))
    assert result.returncode == 1
    assert 'is a vision encoder of SmolVLM2, not of InternVL' in result.stdout


def test_verify_what_cannot_be_told(models: Models) -> None:
    """Samples are found from anywhere; of an ONNX encoder only the width can be compared."""
    result = models('verify', 'config/nano_internvl.gguf', 'config/nano_smolvlm_vit.onnx')
    assert result.returncode == 0, result.stdout
    last = result.stdout.splitlines()[-1]
    assert last.endswith('; fits in width; .onnx files do not tell their model')


def test_what_cannot_be_read(models: Models) -> None:
    """A wrong argument is one line, of the commands of the command, too."""
    result = models('get', 'SmolVLM2-256M', '--board', 'x7')
    assert result.returncode == 2
    assert result.stderr.startswith('error: argument --board: invalid choice')
    assert result.stderr.count('\n') == 1


def test_list(models: Models) -> None:
    """The list tells what there is, and what is here already."""
    assert '(here)' not in models('list').stdout
    assert models('get', 'SmolVLM2-256M').returncode == 0
    (line,) = [line for line in models('list').stdout.splitlines() if line.endswith('(here)')]
    assert line.split()[:2] == ['pc', Path(ENCODER).name]
    rows = json.loads(models('list', '--json').stdout)
    assert [row['board'] for row in rows if row['here']] == ['pc']


def test_names(models: Models) -> None:
    """A name that is not in the catalogue gets the nearest, or all there are."""
    assert 'did you mean InternVL3-1B?' in models('get', 'InternVL3_1b').stderr
    assert 'there are InternVL2_5-1B, ' in models('get', 'llava').stderr
    assert '--board pc`' in models('get', 'SmolVLM2-500M', '--board', 's100').stderr
