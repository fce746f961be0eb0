"""scripts/interfaces.sh: what it builds once, and the one line it says when it cannot."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from nano import ROOT

# They stand in for the programs of .venv. A failing colcon says so; both are told by $FAILS.
PYTHON = """#!/bin/bash
[[ $* == *Python.h* ]] || echo 3.11
[[ $* != *"$FAILS"* ]]
"""
COLCON = """#!/bin/bash
echo built >>builds
mkdir -p .venv/interfaces
[[ $FAILS != colcon ]] || { echo 'CMake Error: no'; exit 1; }
"""


class Repository:
    """A copy of what interfaces.sh needs."""

    def __init__(self, path: Path) -> None:
        self.path = path
        for folder in 'scripts', 'requirements', 'test/interfaces':
            shutil.copytree(ROOT / folder, path / folder)
        for name, text in (('python', PYTHON), ('colcon', COLCON)):
            program = path / '.venv/bin' / name
            program.parent.mkdir(parents=True, exist_ok=True)
            program.write_text(text)
            program.chmod(0o755)

    def run(self, fails: str = '(nothing)', **environment: str) -> tuple[int, str]:
        result = subprocess.run(
            [self.path / 'scripts/interfaces.sh'],
            env={**os.environ, 'FAILS': fails, **environment},
            capture_output=True,
            text=True,
        )
        return result.returncode, result.stderr

    def builds(self) -> int:
        path = self.path / 'builds'
        return len(path.read_text().splitlines()) if path.exists() else 0


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path)


def test_builds_once(repository: Repository) -> None:
    """What is built is not built again before a message changes."""
    for builds in 1, 1:
        assert repository.run() == (0, '')
        assert repository.builds() == builds
    with (repository.path / 'test/interfaces/ai_msgs/msg/Perf.msg').open('a') as file:
        file.write('string note\n')
    assert repository.run() == (0, '')
    assert repository.builds() == 2


@pytest.mark.parametrize(
    ('fails', 'environment', 'words'),
    [
        ('Python.h', {}, "need Python's headers: sudo apt-get install python3.11-dev"),
        ('(nothing)', {'CXX': 'no-compiler'}, 'need a C++ compiler: sudo apt-get install g++'),
        ('colcon', {}, 'interfaces.log says why'),
    ],
)
def test_failure(
    repository: Repository, fails: str, environment: dict[str, str], words: str
) -> None:
    """What is missing is named in one line, and the next run tries again."""
    status, error = repository.run(fails, **environment)
    assert status == 1
    assert error.startswith('error: the test messages ')
    assert error.endswith(f'{words}\n')
    assert error.count('\n') == 1
    before = repository.builds()
    assert repository.run() == (0, '')
    assert repository.builds() == before + 1
