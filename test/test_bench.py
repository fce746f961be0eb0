"""The benchmark runs on any models, writes what it measured, and fails when a bar is missed."""

from __future__ import annotations

import itertools
import json
import os
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
from nano import CONFIG, MODELS, ROOT

from hobot_llamacpp_py import catalogue
from hobot_llamacpp_py.engine.threads import usable_cores
from hobot_llamacpp_py.tools import bench
from hobot_llamacpp_py.tools.bars import Bar
from hobot_llamacpp_py.tools.bench_plot import draw
from hobot_llamacpp_py.tools.bench_results import Results
from hobot_llamacpp_py.tools.bench_threads import neighbours

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


def bars(own: dict[str, Bar], value: float) -> dict[str, Bar]:
    """Return the bars with another value, which is the least."""
    return {name: Bar(True, value, bar.sentence) for name, bar in own.items()}


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


def test_measures_real_models(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All ratios and the published table's columns are there, on paper and as JSON; no bars."""
    monkeypatch.setattr(bench, 'BARS', bars(bench.BARS, 1e9))
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
    assert 'MISSED' not in printed and 'ok' not in printed.split()


@pytest.mark.parametrize(('value', 'missed'), [(0.0, False), (1e9, True)])
def test_a_missed_bar_is_an_error(
    value: float,
    missed: bool,
    measured: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A ratio of the stand-in that misses its bar is marked, and the exit status is 1."""
    monkeypatch.setattr(bench, 'BARS', bars(bench.BARS, value))
    stand_in = changed(
        measured, tmp_path / 'own.json', lambda found: found['model'].update(bench.STAND_IN)
    )
    for arguments in ((), ('--compare', stand_in)):
        assert call('--from', stand_in, *arguments) == missed
        assert capsys.readouterr().out.count('MISSED') == missed * len(bench.BARS)


@pytest.mark.parametrize(
    ('line', 'error'),
    [
        (f'--llm {MODELS["smolvlm"][1]}', '--llm and --encoder go together'),
        ('--encoder x.onnx', '--llm and --encoder go together'),
        ('--rounds 0', "argument --rounds: '0' is no number from 1 on"),
        ('--tolerance x', "argument --tolerance: 'x' is no number above 0"),
        ('--nonsense', 'unrecognized arguments: --nonsense'),
        ('--from b.json --sweep', '--from measures nothing: leave --sweep out'),
        ('--from b.json --n-ctx 512', '--from measures nothing: leave --n-ctx out'),
        ('--plot x.txt', '--plot draws .png, .svg, .pdf, and not x.txt'),
        ('--sweep --plot x.png', '--plot draws what is measured without --sweep'),
    ],
)
def test_wrong_options(line: str, error: str, capsys: pytest.CaptureFixture) -> None:
    """What is wrong with the options is told in one line, without the usage; status 2."""
    assert call(*line.split()) == 2
    assert capsys.readouterr() == ('', f'error: {error}\n')


def test_missing_model(capsys: pytest.CaptureFixture) -> None:
    """A model that is not here is one line, with the places tried; status 1."""
    assert call('--llm', 'nothing.gguf', '--encoder', 'nothing.onnx') == 1
    error = capsys.readouterr().err
    assert error.startswith('error: --llm: no such file, tried ') and error.count('\n') == 1


def test_exit_statuses_are_told(capsys: pytest.CaptureFixture) -> None:
    """The help says what each exit status means."""
    assert call('--help') == 0
    assert '1 if it could not be done' in ' '.join(capsys.readouterr().out.split())


def test_built_in_model_is_found_anywhere(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name is looked for in the package's share folder, too; the number of cores is a limit."""
    monkeypatch.chdir(tmp_path)
    quick = ['--rounds', 1, '--seconds', 0.01, '--threads', 9999]
    assert call('--sweep', '--llm', 'config/nano_smolvlm.gguf', *quick, '--json', 'b.json') == 0
    cores = json.loads(Path('b.json').read_text())['machine']['cores']
    assert f'--threads 9999: there are {cores} cores, so {cores}\n' in capsys.readouterr().err


def test_model_of_the_catalogue(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name of the catalogue takes encoder, decoder and type of it, once they are here."""
    monkeypatch.setenv('HOBOT_LLAMACPP_MODELS', str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert call('--llm', 'smolvlm2-256m') == 1
    error = capsys.readouterr().err
    assert 'ros2 run hobot_llamacpp_py models get SmolVLM2-256M' in error
    assert error.count('\n') == 1

    edition = catalogue.find('SmolVLM2-256M').editions['pc']
    folder = tmp_path / edition.model
    folder.mkdir()
    (folder / edition.encoder).symlink_to(CONFIG / 'mmproj-nano_smolvlm.gguf')
    (folder / edition.decoder).symlink_to(MODELS['smolvlm'][1])
    quick = ['--rounds', 1, '--tokens', 8, '--threads', 1, '--json', 'b.json']
    assert call('--llm', 'smolvlm2-256m', *quick) == 0
    model = json.loads(Path('b.json').read_text())['model']
    assert (model['encoder'], model['decoder']) == (edition.encoder, edition.decoder)


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


def test_how_light_the_node_is(tmp_path: Path) -> None:
    """All figures are there, on paper and as JSON, and later ones are held against them."""
    bench_light = pytest.importorskip('hobot_llamacpp_py.tools.bench_light')
    command = [sys.executable, '-m', bench_light.__name__, '--rounds', '1']
    for options in (['--json', 'b.json'], ['--compare', 'b.json']):
        result = subprocess.run(
            [*command, *options],
            cwd=tmp_path,
            env={**os.environ, 'PYTHONPATH': str(ROOT)},
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert result.returncode in (0, 1), result.stderr  # on a busy machine a bar is missed
        assert all(bar.sentence in result.stdout for bar in bench_light.BARS.values())
    assert '| start s |' in result.stdout
    found = json.loads((tmp_path / 'b.json').read_text())
    assert found['kind'] == 'light'
    assert found['ratios'].keys() == bench_light.BARS.keys()


def test_standing_questions_are_measured() -> None:
    """All ratios of standing questions are measured and held against their bars."""
    bench_watch = pytest.importorskip('hobot_llamacpp_py.tools.bench_watch')
    command = [sys.executable, '-m', bench_watch.__name__, '--rounds', '2', '--threads', '1']
    command += ['--llm', str(MODELS['internvl'][1])]
    result = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert result.returncode in (0, 1), result.stderr  # with a decoder of no size a bar is missed
    assert all(bar.sentence in result.stdout for bar in bench_watch.BARS.values())


@pytest.mark.parametrize(('value', 'status'), [(0.0, 0), (1e9, 1)])
def test_the_http_server_is_measured(
    value: float,
    status: int,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All ratios of the HTTP server are there, on paper and as JSON; bars decide the status."""
    pytest.importorskip('uvicorn', reason='needs requirements/web.txt')
    bench_http = pytest.importorskip('hobot_llamacpp_py.tools.bench_http')
    monkeypatch.setattr(bench_http, 'BARS', bars(bench_http.BARS, value))
    path = tmp_path / 'http.json'
    with pytest.raises(SystemExit) as end:
        quick = ['--rounds', '1', '--threads', '1', '--json', str(path)]
        bench_http.main(['--llm', 'config/nano_internvl.gguf', *quick])
    assert end.value.code == status
    printed = capsys.readouterr().out
    for bar in bench_http.BARS.values():
        assert bar.sentence in printed
    assert printed.count('MISSED') == status * len(bench_http.BARS)
    ratios = json.loads(path.read_text())['ratios']
    assert set(ratios) == set(bench_http.BARS)
    assert all(ratio > 0 for ratio in ratios.values())

    assert call('--from', path) == 1
    error = capsys.readouterr().err
    assert error == f"error: {path} is of another benchmark, of kind 'http'\n"


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


def test_change_within_the_noise(
    measured: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """A change that is smaller than the noise has no verdict, though the ranges lie apart."""
    old = changed(measured, tmp_path / 'old.json', times(1, 'cold ms', low=0.1, high=1))
    new = changed(old, tmp_path / 'new.json', times(1.5, 'cold ms'))
    assert call('--from', new, '--compare', old) == 0
    assert marks(capsys.readouterr().out) == {}


@pytest.mark.parametrize('few', ['old', 'new'])
def test_no_verdict_of_few_rounds(
    few: str, measured: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """With two rounds in either result nothing is marked, and the exit status is 0."""
    paths = {'old': tmp_path / 'old.json', 'new': tmp_path / 'new.json'}
    changed(measured, paths['old'], times(1, 'eval ms/token'))
    changed(measured, paths['new'], times(15, 'eval ms/token'))
    changed(paths[few], paths[few], lambda found: found.update(rounds=2))
    assert call('--from', paths['new'], '--compare', paths['old']) == 0
    printed = capsys.readouterr().out
    assert 'nobody can tell what is noise: no verdicts' in printed
    assert marks(printed) == {}


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
    assert call(*models, '--threads', 1, '--tokens', 12, '--compare', other) == 1
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
    assert call('--from', path) == 1
    error = capsys.readouterr().err
    assert error.startswith(f'error: {path}') and reason in error and error.count('\n') == 1


# -- drawn ---------------------------------------------------------------------------------------


def test_plot_is_a_png(measured: Path, tmp_path: Path) -> None:
    """--plot writes a picture of 900 pixels' width that is no more than a small file."""
    path = tmp_path / 'plot.png'
    call('--from', measured, '--plot', path)
    assert cv2.imread(str(path)).shape == (760, 900, 3)
    assert path.stat().st_size < 100_000


@pytest.mark.parametrize(('suffix', 'head'), [('svg', b'<?xml'), ('pdf', b'%PDF')])
def test_plot_is_of_its_suffix(suffix: str, head: bytes, measured: Path, tmp_path: Path) -> None:
    """--plot writes a drawing that can be enlarged, where the suffix says so."""
    path = tmp_path / f'plot.{suffix}'
    assert call('--from', measured, '--plot', path) == 0
    assert path.read_bytes().startswith(head)


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
    assert call(*models, '--plot', tmp_path / 'plot.png') == 1
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
        # Three digits that count, however small the model is.
        assert [float(cell) for cell in row[1:]] == pytest.approx(
            [figures[name] for name in names], rel=0.005
        )


def quiet(results: Json) -> None:
    """Let a sweep have had three rounds on a quiet machine."""
    results.update(rounds=3)
    results['figures']['cores that others took'] = 0.0


def fixed_takes(factor: float, noise: float) -> Callable:
    """Return what gives the fixed number of threads so many times the adaptive one's time."""

    def change(results: Json) -> None:
        quiet(results)
        for kind in ('prefill', 'eval'):
            for situation in ('alone', 'beside a busy core'):
                for threads, value in (('adaptive', 100.0), ('1', 100.0 * factor)):
                    name = f'{kind} ms/token, {threads} threads, {situation}'
                    results['figures'][name] = value
                    results['spread'][name] = [value * (1 - noise), value * (1 + noise)]

    return change


@pytest.mark.parametrize(
    ('factor', 'noise', 'advice'),
    [
        (0.5, 0.01, 'Set llm_threads to 1:'),
        (0.97, 0.001, 'Set llm_threads to 0, the default:'),
        (0.9, 0.2, 'All llm_threads are about the same here, leave it at 0, the default:'),
    ],
)
def test_sweep_says_what_to_set(
    factor: float,
    noise: float,
    advice: str,
    swept: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    """A fixed number is advised where it is clearly faster beside a busy core, else 0."""
    path = changed(swept, tmp_path / 'swept.json', fixed_takes(factor, noise))
    assert call('--from', path) == 0
    printed = capsys.readouterr().out
    assert f'\n{advice} 300 tokens of prompt' in printed
    assert 'noise' not in printed


BUSY = 'on a busy machine these are noise: measure again later'


def test_sweep_of_wide_ranges_is_noise(
    swept: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Where repetitions alone differ much, it is said that these figures are noise."""
    assert call('--from', changed(swept, tmp_path / 'swept.json', fixed_takes(0.5, 0.3))) == 0
    assert BUSY in capsys.readouterr().out


def test_sweep_of_few_rounds_gives_no_advice(swept: Path, capsys: pytest.CaptureFixture) -> None:
    """With one round there is no advice, and why."""
    capsys.readouterr()
    assert call('--from', swept) == 0
    printed = capsys.readouterr().out
    assert 'With fewer than 3 rounds nobody can tell what is noise: no advice.' in printed
    assert 'llm_threads to' not in printed


def test_sweep_notices_others(tmp_path: Path) -> None:
    """While others keep all cores busy, a sweep says that its figures are noise."""
    command = [sys.executable, '-m', bench.__name__, '--sweep', '--llm', MODELS['smolvlm'][1]]
    command += ['--rounds', '1', '--seconds', '0.2', '--threads', '1']
    with neighbours(2 * usable_cores()):
        result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert result.returncode == 0, result.stderr
    assert 'Others computed on ' in result.stdout and BUSY in result.stdout
