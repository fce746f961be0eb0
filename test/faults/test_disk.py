"""A full disk: whatever is written there is told in one line, and nothing half is left."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import fill, small_disk
from nano import CONFIG, MODELS, ROOT, answer, draw_scene
from robot import Robot
from video import RULES

from hobot_llamacpp_py.errors import ModelFileError
from hobot_llamacpp_py.tools.model_download import _note_checksum, read_checksums

ENCODER, DECODER, _ = MODELS['internvl']
MODEL = ['--llm', str(DECODER), '--encoder', str(ENCODER), '--threads', '1']
FULL = 'No space left on device'
DESCRIBE = 'Describe the image.'


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk with room for names, and for no content."""
    folder = tmp_path / 'disk'
    with small_disk(folder, '64k'):
        fill(folder)
        yield folder


def tool(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a tool of the package."""
    command = [sys.executable, '-m', f'hobot_llamacpp_py.tools.{name}', *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_doctors_report(disk: Path) -> None:
    """The report that cannot be written is told; what was found is printed all the same."""
    done = tool('doctor', '--report', disk / 'report.md')
    assert done.returncode == 2 and 'failures: ' in done.stdout
    assert done.stderr == f'error: {disk}/report.md: {FULL}\n'
    assert not (disk / 'report.md').read_bytes() and not list(disk.glob('*.partial'))


@pytest.mark.parametrize(('option', 'name'), [('--csv', 'found.csv'), ('--plot', 'found.png')])
def test_watchs_table_and_plot(disk: Path, tmp_path: Path, option: str, name: str) -> None:
    """Neither is left where it would be taken for whole."""
    if option == '--plot':
        pytest.importorskip('matplotlib')
    rules = tmp_path / 'rules.yaml'
    rules.write_text(RULES, 'utf-8')
    done = tool('watch', rules, CONFIG / 'image2.jpg', *MODEL, option, disk / name)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f'error: {disk / name}: {FULL}'
    assert 'Traceback' not in done.stderr
    left = disk / name
    assert not left.exists() or not left.read_bytes()
    (disk / 'other').unlink()
    done = tool('watch', rules, CONFIG / 'image2.jpg', *MODEL, option, tmp_path / name)
    assert done.returncode == 0 and (tmp_path / name).stat().st_size > 100


def test_results_of_before(disk: Path) -> None:
    """Results of an earlier run stay what they were when new ones do not fit."""
    (disk / 'other').unlink()
    path = disk / 'found.json'
    path.write_text('{}')
    fill(disk)
    code = (
        'from pathlib import Path; import sys\n'
        'from hobot_llamacpp_py.errors import VlmError\n'
        'from hobot_llamacpp_py.tools.whole_file import write_whole\n'
        'try: write_whole(Path(sys.argv[1]), lambda path: path.write_text("x" * 9999))\n'
        'except VlmError as error: sys.exit(str(error))'
    )
    done = subprocess.run([sys.executable, '-c', code, path], capture_output=True, text=True)
    assert done.stderr == f'{path}: {FULL}\n'
    assert path.read_text() == '{}'
    assert not list(disk.glob('*.partial'))


def test_checksums_of_models(disk: Path) -> None:
    """The checksums of what was downloaded before are not lost."""
    (disk / 'other').unlink()
    _note_checksum(disk, 'first.gguf', 'a' * 64)
    fill(disk)
    with pytest.raises(ModelFileError, match=f'{FULL}: free some of its disk, then run'):
        for i in range(99):  # what is there already fills a page up
            _note_checksum(disk, f'model-{i}.gguf', 'b' * 64)
    assert read_checksums(disk)['first.gguf'] == 'a' * 64
    (disk / 'other').unlink()
    _note_checksum(disk, 'last.gguf', 'c' * 64)
    assert read_checksums(disk)['last.gguf'] == 'c' * 64


@pytest.mark.parametrize('options', ['nr_inodes=1', 'ro'])
def test_log_directory_that_takes_no_file(installed: Path, tmp_path: Path, options: str) -> None:
    """A node that cannot even begin a log file says so once, and works as ever."""
    scene, bgr = draw_scene(5)
    models = dict(model_file_name=ENCODER, llm_model_name=DECODER, feed_type=1)
    with small_disk(tmp_path / 'disk', f'64k,{options}'):
        logs = ['env', f'ROS_LOG_DIR={tmp_path / "disk"}']
        with Robot(installed, tmp_path, models, command=logs) as robot:
            robot.wait_until_ready().show(bgr)
            assert robot.ask(DESCRIBE) == answer(scene, DESCRIBE)
            assert robot.log.count(f'no log file, {tmp_path / "disk"}: ') == 1
            assert robot.stop()[0] == 0


def test_standard_output(installed: Path, tmp_path: Path) -> None:
    """With `once` an answer that could not be written is no success."""
    models = dict(model_file_name=ENCODER, llm_model_name=DECODER, image=CONFIG / 'image2.jpg')
    full = ['sh', '-c', 'exec "$@" >/dev/full', 'sh']
    asked = dict(user_prompt=DESCRIBE, once=True)
    with Robot(installed, tmp_path, {**models, **asked}, command=full) as robot:
        assert robot.wait_for_end() == 1
        assert robot.log.count(f'standard output takes no answer: {FULL}') == 1
        assert 'Traceback' not in robot.log


def test_log_directory(disk: Path, installed: Path, tmp_path: Path) -> None:
    """A node whose log cannot be written works as ever."""
    scene, bgr = draw_scene(5)
    models = dict(model_file_name=ENCODER, llm_model_name=DECODER, feed_type=1)
    logs = ['env', f'ROS_LOG_DIR={disk}']
    with Robot(installed, tmp_path, models, command=logs) as robot:
        robot.wait_until_ready().show(bgr)
        for _ in range(3):
            assert robot.ask(DESCRIBE) == answer(scene, DESCRIBE)
        assert robot.stop()[0] == 0
