"""The benchmark runs on any models, writes what it measured, and fails when a bar is missed."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from nano import MODELS, ROOT

from hobot_llamacpp_py.tools import bench
from hobot_llamacpp_py.tools.bench_plot import draw
from hobot_llamacpp_py.tools.bench_results import Results

Json = dict[str, Any]


def call(*arguments: str | Path) -> int:
    """Run the benchmark as the command line does; return its exit status."""
    with pytest.raises(SystemExit) as end:
        bench.main([*map(str, arguments)])
    return int(end.value.code)


def run(results: Path, *arguments: str, rounds: int = 1) -> tuple[int, Json]:
    encoder, decoder, kind = MODELS['smolvlm']
    models = ['--llm', decoder, '--encoder', encoder, '--model-type', kind.number]
    quick = ['--rounds', rounds, '--tokens', 12, '--threads', 1, '--json', results]
    status = call(*models, *quick, *arguments)
    return status, json.loads(results.read_text())


@pytest.fixture(scope='module')
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of the nano model, in a file."""
    path = tmp_path_factory.mktemp('bench') / 'measured.json'
    run(path, rounds=3)
    return path


def changed(source: Path, path: Path, change: Callable[[Json], object]) -> Path:
    """Write results with something changed; return the path."""
    results = json.loads(source.read_text())
    change(results)
    path.write_text(json.dumps(results))
    return path


def times(factor: float, name: str, *, low: float = 0.999, high: float = 1.001) -> Callable:
    """Return what multiplies a figure, and gives it a range about its new value."""

    def change(results: Json) -> None:
        group = results['figures' if name in results['figures'] else 'ratios']
        group[name] *= factor
        results['spread'][name] = [group[name] * low, group[name] * high]

    return change


def bars(value: float) -> dict[str, bench.Bar]:
    return {name: bench.Bar(True, value, bar.sentence) for name, bar in bench.BARS.items()}


def test_measures_real_models(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All ratios and the published table's columns are there, on paper and as JSON."""
    monkeypatch.setattr(bench, 'BARS', bars(0.0))
    status, results = run(tmp_path / 'results.json')
    assert status == 0
    assert set(results['ratios']) == set(bench.BARS)
    assert results['figures']['tokens reused'] >= 64
    assert results['figures']['follow-up tokens'] < 40
    assert results['model']['decoder'] == 'nano_smolvlm.gguf'
    printed = capsys.readouterr().out
    assert 'image encoder ms | prefill ms/token | eval ms/token' in printed
    for bar in bench.BARS.values():
        assert bar.sentence in printed


def test_a_missed_bar_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ratio that misses its bar is marked, and the exit status is not zero."""
    monkeypatch.setattr(bench, 'BARS', bars(1e9))
    status, _ = run(tmp_path / 'results.json')
    assert status == 1
    assert capsys.readouterr().out.count('MISSED') == len(bench.BARS)


def test_models_go_together(capsys: pytest.CaptureFixture) -> None:
    """A decoder without its encoder is refused in one line."""
    assert call('--llm', MODELS['smolvlm'][1]) == 2
    assert capsys.readouterr().err == 'error: --llm and --encoder go together\n'


def test_the_node_is_measured() -> None:
    """All ratios of the node are measured and held against their bars."""
    bench_node = pytest.importorskip('hobot_llamacpp_py.tools.bench_node')
    command = [ROOT / 'test/with_interfaces.sh', sys.executable, '-m', bench_node.__name__]
    command += ['--seconds', '0.5', '--answers', '2', '--threads', '1']
    command += ['--llm', MODELS['internvl'][1]]
    result = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert result.returncode in (0, 1), result.stderr  # on a busy machine a bar may be missed
    expected = set(bench_node.BARS)
    if 'hbm_img_msgs is not installed' in result.stdout:
        expected.remove('idle, HbmMsg1080P')
    printed = {name for name, bar in bench_node.BARS.items() if bar.sentence in result.stdout}
    assert printed == expected


# -- compared with earlier results ---------------------------------------------------------------


def marks(printed: str) -> dict[str, str]:
    """Return the marked figures of a printed comparison."""
    table = printed.split('| figure |')[1]
    rows = [line.strip('| ').split(' | ') for line in table.splitlines() if line[:2] == '| ']
    return {row[0]: row[5] for row in rows if len(row) == 6 and row[5]}


def test_what_got_slower_is_named(
    measured: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """A figure that is worse than before by more than noise and limit is marked; status 1."""
    old = changed(measured, tmp_path / 'old.json', times(1, 'eval ms/token'))
    slow = changed(old, tmp_path / 'slow.json', times(1.5, 'eval ms/token'))
    capsys.readouterr()

    assert call('--from', slow, '--compare', old) == 1
    assert marks(capsys.readouterr().out) == {'eval ms/token': 'WORSE'}
    assert call('--from', slow, '--compare', old, '--tolerance', 0.6) == 0
    assert marks(capsys.readouterr().out) == {'eval ms/token': 'worse'}
    assert call('--from', old, '--compare', slow) == 0
    assert marks(capsys.readouterr().out) == {'eval ms/token': 'better'}


@pytest.mark.parametrize('name', ['token loop', 'tokens/s at 1024'])
def test_more_is_better_of_a_speed(
    name: str, measured: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Of a speed, or a ratio of speeds, less is worse."""
    old = changed(measured, tmp_path / 'old.json', times(1, name))
    slow = changed(old, tmp_path / 'slow.json', times(0.8, name))
    assert call('--from', slow, '--compare', old) == 1
    assert marks(capsys.readouterr().out) == {name: 'WORSE'}


def test_noise_is_no_change(measured: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """A figure whose repetitions overlap with those of before is not marked, however far off.

    One that is measured once is marked beyond the limit.
    """
    old = changed(measured, tmp_path / 'old.json', times(1, 'cold ms', high=1.6))
    new = changed(measured, tmp_path / 'new.json', times(1.5, 'cold ms'))
    more = changed(new, tmp_path / 'more.json', times(1.02, 'peak memory MB', low=1, high=1))
    assert call('--from', more, '--compare', old) == 0
    assert marks(capsys.readouterr().out) == {}
    most = changed(new, tmp_path / 'most.json', times(1.2, 'peak memory MB', low=1, high=1))
    assert call('--from', most, '--compare', old) == 1
    assert marks(capsys.readouterr().out) == {'peak memory MB': 'WORSE'}


def test_other_machine_is_named(
    measured: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Results of another machine are refused in one line, before anything is measured."""
    other = changed(
        measured, tmp_path / 'other.json', lambda found: found['machine'].update(cores=77)
    )
    capsys.readouterr()
    encoder, decoder, kind = MODELS['smolvlm']
    models = ['--llm', decoder, '--encoder', encoder, '--model-type', kind.number]
    assert call(*models, '--threads', 1, '--tokens', 12, '--compare', other) == 2
    cores = json.loads(measured.read_text())['machine']['cores']
    assert capsys.readouterr() == (
        '',
        f'error: {other} cannot be compared with this: cores is 77 there, {cores} here\n',
    )


def test_other_version_is_told(
    measured: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Results of another version of llama.cpp are compared, and both versions are named."""
    old = changed(
        measured, tmp_path / 'old.json', lambda found: found['versions'].update(numpy='1.2.3')
    )
    assert call('--from', measured, '--compare', old) == 0
    assert 'numpy was 1.2.3, is ' in capsys.readouterr().out


@pytest.mark.parametrize(
    ('text', 'reason'),
    [
        (None, 'No such file or directory'),
        ('nonsense', 'is no JSON'),
        ('[]', 'holds no results of `bench --json`'),
        ('{"machine": {}, "figures": {}}', 'holds no results of `bench --json`'),
    ],
)
def test_what_holds_no_results(
    text: str | None, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """A file that is missing or something else is named in one line."""
    path = tmp_path / 'results.json'
    if text is not None:
        path.write_text(text)
    assert call('--from', path) == 2
    error = capsys.readouterr().err
    assert error.startswith(f'error: {path}') and reason in error and error.count('\n') == 1


# -- drawn ---------------------------------------------------------------------------------------


def test_plot_is_a_png(measured: Path, tmp_path: Path) -> None:
    """--plot writes a picture of 900 pixels' width that is no more than a small file."""
    path = tmp_path / 'plot.png'
    call('--from', measured, '--plot', path)
    assert cv2.imread(str(path)).shape == (760, 900, 3)
    assert path.stat().st_size < 100_000


def test_bars_are_what_was_measured(measured: Path) -> None:
    """The bars of a way stand end to end, each as long as its part, to the whole time."""
    above, below = draw(results := Results.read(measured)).axes
    parts = [container.get_label() for container in above.containers]
    assert parts == ['new context', 'encoder', 'image prefill', 'question text', 'first token']
    for row, way in enumerate(('cold', 'follow-up', 'prepared', 'C++ order')):
        end = 0.0
        for part, container in zip(parts, above.containers, strict=True):
            bar = container[row]
            name = f'{way} ms: {part.replace("question text", "text prefill")}'
            expected = results.value(name) if name in results.figures else 0.0
            assert (bar.get_x(), bar.get_width()) == pytest.approx((end, expected))
            end += bar.get_width()
        assert end == pytest.approx(results.value(f'{way} ms'))
    assert results.value('cold ms: encoder') > 0
    assert results.value('C++ order ms: new context') > 0
    assert results.value('follow-up ms: encoder') == results.value('prepared ms: encoder') == 0

    at, speeds = below.lines[0].get_data()
    assert [*at] == [0, 256, 512, 768, 1024, 1280, 1536, 1792, 1920]
    assert [*speeds] == [results.value(f'tokens/s at {n}') for n in at]


@pytest.mark.parametrize('factor', [1, 1e3])
def test_no_text_overlaps(factor: float, measured: Path) -> None:
    """Each text is inside of the picture and apart from all others, a slow machine's, too."""
    results = Results.read(measured)
    results.model['decoder'] = 'qwen2_5_1.5b_q8_0_InternVL3_2B_Instruct.gguf'
    results.machine['processor'] = 'Intel(R) Xeon(R) Platinum 8370C CPU @ 2.80GHz'
    for name, figure in results.figures.items():
        if ' ms' in name:
            results.figures[name] = replace(figure, value=figure.value * factor)
    drawing = draw(results)
    FigureCanvasAgg(drawing).draw()
    texts = {text for text in drawing.findobj(Text) if text.get_text() and text.get_visible()}
    for axis in (axis for axes in drawing.axes for axis in (axes.xaxis, axes.yaxis)):
        least, most = sorted(axis.get_view_interval())
        labels = zip(axis.get_majorticklocs(), axis.get_majorticklabels(), strict=True)
        texts -= {label for at, label in labels if not least <= at <= most}  # not drawn
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts]
    words = {'cold', 'encoder', '1024', 'tokens per second', 'milliseconds after the question'}
    assert words <= {text for text, _ in boxes}
    for text, box in boxes:
        assert 0 <= box.x0 <= box.x1 <= 900 and 0 <= box.y0 <= box.y1 <= 760, text
    for (one, box), (other, other_box) in itertools.combinations(boxes, 2):
        assert not box.overlaps(other_box), (one, other)


def test_matplotlib_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without matplotlib the command that installs it is told before anything is measured."""
    for name in ('matplotlib', 'matplotlib.figure'):
        monkeypatch.setitem(sys.modules, name, None)
    encoder, decoder, kind = MODELS['smolvlm']
    models = ['--llm', decoder, '--encoder', encoder, '--model-type', kind.number]
    assert call(*models, '--plot', tmp_path / 'plot.png') == 2
    output = capsys.readouterr()
    assert output.out == ''
    assert output.err.startswith('error: --plot draws with matplotlib: pip3 install matplotlib')
    assert output.err.count('\n') == 1


# -- threads -------------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of a sweep with the nano model, in a file."""
    path = tmp_path_factory.mktemp('bench') / 'swept.json'
    quick = ['--rounds', 1, '--seconds', 0.05, '--threads', 1]
    assert call('--sweep', '--llm', MODELS['smolvlm'][1], *quick, '--json', path) == 0
    return path


def test_sweep_measures_all_numbers(swept: Path, capsys: pytest.CaptureFixture) -> None:
    """The table has a row for each number of threads, alone and beside a busy core."""
    figures = json.loads(swept.read_text())['figures']
    capsys.readouterr()
    assert call('--from', swept) == 0
    printed = capsys.readouterr().out
    rows = [line.strip('| ').split(' | ') for line in printed.splitlines() if line[:1] == '|']
    assert rows[0][1:] == [
        f'{kind} ms/token, {situation}'
        for kind in ('prefill', 'eval')
        for situation in ('alone', 'beside a busy core')
    ]
    assert [row[0] for row in rows[2:]] == ['0 (as many as others leave free)', '1']
    for row, threads in zip(rows[2:], ('adaptive', '1'), strict=True):
        names = [title.replace(',', f', {threads} threads,') for title in rows[0][1:]]
        assert row[1:] == [f'{figures[name]:.1f}' for name in names]
        assert all(figures[name] > 0 for name in names)


@pytest.mark.parametrize(('factor', 'best'), [(0.5, '1:'), (0.97, '0, the default:')])
def test_sweep_says_what_to_set(
    factor: float, best: str, swept: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """A fixed number is advised where it is clearly faster beside a busy core, else 0."""

    def change(results: Json) -> None:
        for kind in ('prefill', 'eval'):
            for situation in ('alone', 'beside a busy core'):
                name = f'{kind} ms/token, %s threads, {situation}'
                results['figures'][name % 'adaptive'] = 100.0
                results['figures'][name % '1'] = 100.0 * factor

    assert call('--from', changed(swept, tmp_path / 'swept.json', change)) == 0
    assert f'Set llm_threads to {best} 300 tokens of prompt' in capsys.readouterr().out
