"""The benchmark runs on any models, writes what it measured, and fails when a bar is missed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from nano import MODELS, ROOT

from hobot_llamacpp_py.tools import bench


def run(tmp_path: Path, *arguments: str) -> tuple[int, dict[str, dict[str, float]]]:
    encoder, decoder, kind = MODELS['smolvlm']
    results = tmp_path / 'results.json'
    models = ['--llm', str(decoder), '--encoder', str(encoder), '--model-type', str(kind.number)]
    quick = ['--rounds', '1', '--tokens', '12', '--threads', '1', '--json', str(results)]
    with pytest.raises(SystemExit) as end:
        bench.main([*models, *quick, *arguments])
    return end.value.code, json.loads(results.read_text())


def bars(value: float) -> dict[str, bench.Bar]:
    return {name: bench.Bar(True, value, bar.sentence) for name, bar in bench.BARS.items()}


def test_measures_real_models(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All ratios and the published table's columns are there, on paper and as JSON."""
    monkeypatch.setattr(bench, 'BARS', bars(0.0))
    status, results = run(tmp_path)
    assert status == 0
    assert set(results['ratios']) == set(bench.BARS)
    assert results['figures']['tokens reused'] >= 64
    assert results['figures']['follow-up tokens'] < 40
    assert results['machine']['decoder'] == 'nano_smolvlm.gguf'
    printed = capsys.readouterr().out
    assert 'image encoder ms | prefill ms/token | eval ms/token' in printed
    for bar in bench.BARS.values():
        assert bar.sentence in printed


def test_a_missed_bar_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ratio that misses its bar is marked, and the exit status is not zero."""
    monkeypatch.setattr(bench, 'BARS', bars(1e9))
    status, _ = run(tmp_path)
    assert status == 1
    assert capsys.readouterr().out.count('MISSED') == len(bench.BARS)


def test_models_go_together(capsys: pytest.CaptureFixture) -> None:
    """A decoder without its encoder is refused in one line."""
    with pytest.raises(SystemExit, match='2'):
        bench.main(['--llm', str(MODELS['smolvlm'][1])])
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
