"""What holds for the source tree as a whole."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from nano import ROOT

PACKAGE = ROOT / 'hobot_llamacpp_py'
# The only modules that may import a binding, so that it can be replaced and is optional.
BINDINGS = {
    'onnxruntime': {'vision/onnx.py'},
    'llama_cpp': {
        'llama_log.py',
        'engine/decoder.py',
        'engine/sampler.py',
        'tools/bench.py',
        'vision/mmproj.py',
    },
    'hobot_dnn': {'vision/bpu_x5.py'},
    'hobot_dnn_rdkx5': {'vision/bpu_x5.py'},
    'hbm_runtime': {'vision/bpu_s100.py'},
}


def imports(path: Path) -> set[str]:
    """Return the dotted names of all that a file imports, wherever it does so."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text('utf-8'))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


@pytest.mark.parametrize('folder', ['engine', 'vision'])
def test_core_knows_no_ros(folder: str) -> None:
    """Engine and vision import neither ROS nor the ROS side of the package."""
    for path in (PACKAGE / folder).glob('*.py'):
        for name in imports(path):
            assert name.split('.')[0] not in {'rclpy', 'std_msgs', 'sensor_msgs', 'launch'}
            assert not name.startswith(('hobot_llamacpp_py.ros', 'hobot_llamacpp_py.tools'))
            assert folder == 'engine' or not name.startswith('hobot_llamacpp_py.engine')


@pytest.mark.parametrize('binding', BINDINGS)
def test_bindings_are_imported_in_one_place(binding: str) -> None:
    """Each binding is imported by its own module alone."""
    found = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob('*.py')
        if binding in {name.split('.')[0] for name in imports(path)}
    }
    assert found == BINDINGS[binding]


def test_lists_of_parameters_are_up_to_date() -> None:
    """Both READMEs and config/params.yaml list the parameters as they are declared."""
    script = ROOT / 'scripts' / 'update_parameters.py'
    result = subprocess.run([sys.executable, script, '--check'], capture_output=True, text=True)
    assert (result.stdout, result.returncode) == ('', 0)


def test_make_explains_itself() -> None:
    """Without a target, make lists every one that there is."""
    targets = re.findall(r'^([a-z0-9-]+):', (ROOT / 'Makefile').read_text('utf-8'), re.MULTILINE)
    result = subprocess.run(['make', '-C', ROOT], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    listed = re.findall(r'^make ([a-z0-9-]+) ', result.stdout, re.MULTILINE)
    assert sorted(listed) == sorted(set(targets) - {'help'})


def test_readme_example_runs(tmp_path: Path) -> None:
    """The Python example of the README answers rightly when it is run as it stands."""
    readme = (ROOT / 'README.md').read_text('utf-8')
    example = readme.split('```python\n')[1].split('```')[0]
    assert len([line for line in example.splitlines() if line.strip()]) <= 6

    result = subprocess.run(
        [sys.executable, '-c', example], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == (
        'There is a yellow star at the top, a red circle on the left'
        ' and a blue square on the right.'
    )


def test_built_in_models_are_small() -> None:
    """All files of config/ together stay below 16 MB."""
    size = sum(path.stat().st_size for path in (ROOT / 'config').rglob('*') if path.is_file())
    assert size < 16e6


@pytest.mark.parametrize(
    'path',
    sorted(p for p in ROOT.rglob('*.md') if '.venv' not in p.parts),
    ids=lambda path: path.name,
)
def test_documents_are_finished(path: Path) -> None:
    """No document has a placeholder left, or a link to a file that is not there."""
    text = path.read_text('utf-8')
    assert not re.findall(r'@[A-Z]+@', text)
    for link in re.findall(r'\]\(([^)#:]+)\)', text):
        assert (path.parent / link).exists(), link
