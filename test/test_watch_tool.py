"""`watch`: rules tried on pictures and recordings, without ROS."""

from __future__ import annotations

import csv
from pathlib import Path

import cv2
import pytest
from nano import CONFIG, MODELS, draw_scene
from video import RULES, TRUTHS, video

from hobot_llamacpp_py.tools import watch

ENCODER, DECODER, _ = MODELS['internvl']
MODEL = ['--llm', str(DECODER), '--encoder', str(ENCODER), '--threads', '1']


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    path = tmp_path / 'rules.yaml'
    path.write_text(RULES, 'utf-8')
    return path


def fails(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    """Run the command; return its status and its only line."""
    with pytest.raises(SystemExit) as end:
        watch.main([str(argument) for argument in arguments])
    line = capsys.readouterr().err
    assert line.startswith('error: ') and line.count('\n') == 1
    return int(end.value.code or 0), line


def test_pictures(rules: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder of pictures becomes a table: a line each, a column a rule; CSV has the figures."""
    folder = tmp_path / 'pictures'
    folder.mkdir()
    scenes = {}
    for seed in range(4):
        scene, bgr = draw_scene(seed)
        cv2.imwrite(str(folder / f'{seed}.png'), bgr)
        scenes[f'{seed}.png'] = scene
    (folder / 'broken.png').write_bytes(b'no picture')
    table = tmp_path / 'found.csv'
    command = [str(rules), str(folder), *MODEL, '--csv', str(table)]
    watch.main([*command, '--frame-reuse-threshold', '0'])
    printed = capsys.readouterr()
    assert 'left out: ' in printed.err and 'broken.png' in printed.err
    lines = printed.out.splitlines()
    assert lines[0].split() == list(TRUTHS)
    assert [line.split()[0] for line in lines[1:5]] == list(scenes)
    assert 'asked' in printed.out and '4 pictures judged' in printed.out

    found = list(csv.DictReader(table.open(encoding='utf-8')))
    assert len(found) == 4 * len(TRUTHS)
    for row in found:
        truth = TRUTHS[row['rule']](scenes[row['picture']])
        shown = ('yes' if truth else 'no') if isinstance(truth, bool) else str(truth)
        assert row['answer'] == shown
        assert 0.5 < float(row['probability']) <= 1


def test_a_video(rules: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A video is gone through at the rate that is asked for, by its own time."""
    pytest.importorskip('matplotlib', reason='needs requirements/plot.txt')
    path, frames = tmp_path / 'video.avi', list(video(20, seed=3, still=10))
    height, width = frames[0].bgr.shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*'MJPG'), 10, (width, height))
    for frame in frames:
        writer.write(frame.bgr)
    writer.release()
    table, drawing = tmp_path / 'found.csv', tmp_path / 'found.png'
    options = ['--rate', '5', '--csv', str(table), '--plot', str(drawing)]
    watch.main([str(rules), str(path), *MODEL, *options])
    found = [
        row for row in csv.DictReader(table.open(encoding='utf-8')) if row['rule'] == 'shapes'
    ]
    assert [float(row['seconds']) for row in found] == [n / 5 for n in range(10)]
    expected = [str(TRUTHS['shapes'](frame.scene)) for frame in frames[::2]]
    assert [row['answer'] for row in found] == expected
    assert drawing.read_bytes().startswith(b'\x89PNG')
    assert 'video.avi 1.00 s' in capsys.readouterr().out


def test_pictures_a_second(rules: Path, tmp_path: Path) -> None:
    """Pictures have no time of their own: each is looked at, so many a second."""
    folder, table = tmp_path / 'pictures', tmp_path / 'found.csv'
    folder.mkdir()
    for n in range(4):
        cv2.imwrite(str(folder / f'{n}.png'), draw_scene(n)[1])
    watch.main([str(rules), str(folder), *MODEL, '--rate', '2', '--csv', str(table)])
    found = {(row['picture'], row['seconds']) for row in csv.DictReader(table.open('r'))}
    assert {(name, float(seconds)) for name, seconds in found} == {
        (f'{n}.png', n / 2) for n in range(4)
    }


def test_what_cannot_be_done(
    rules: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever is missing or wrong is one line, before any model is loaded."""
    picture = CONFIG / 'image2.jpg'
    assert fails(capsys, 'no.yaml', picture, *MODEL)[0] == 1
    assert 'must hold `rules:`' in fails(capsys, CONFIG / 'params.yaml', picture, *MODEL)[1]
    assert 'SOURCE: no such file' in fails(capsys, rules, 'nowhere.mp4', *MODEL)[1]
    empty = tmp_path / 'empty'
    empty.mkdir()
    assert 'there is no picture in it' in fails(capsys, rules, empty, *MODEL)[1]
    assert '--encoder: rules are about pictures' in fails(capsys, rules, picture, *MODEL[:2])[1]
    assert 'must end with' in fails(capsys, rules, picture, *MODEL, '--plot', 'a.txt')[1]
    status, line = fails(capsys, rules, picture, *MODEL, '--csv', tmp_path / 'no' / 'a.csv')
    assert (status, 'No such file or directory' in line) == (1, True)
    line = fails(capsys, rules, picture, *MODEL, '--plot', tmp_path / 'no' / 'a.png')[1]
    assert 'there is no folder' in line
    assert 'neither a picture nor a video' in fails(capsys, rules, picture, rules, *MODEL)[1]
    assert fails(capsys, rules, picture, *MODEL, '--rate', '0')[0] == 2
    assert fails(capsys, rules, picture, *MODEL, '--frame-reuse-threshold', '256')[0] == 2
    assert fails(capsys, rules)[0] == 2
