"""What is installed: each pin with the hashes of its files, and its licence."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from nano import ROOT

REQUIREMENTS = ROOT / 'requirements'
HASHED = sorted((REQUIREMENTS / 'hashed').glob('*.txt'))
NOT_HASHED = {'audit.txt', 'board.txt', 'board_onnx.txt'}


def pins(path: Path) -> set[str]:
    """Return the pins of a file and of those that it includes, as `name==version`."""
    text = path.read_text('utf-8')
    found = {
        re.sub(r'\[\w+\]', '', pin).lower() for pin in re.findall(r'(?m)^[\w.-].*?==[^\s;]+', text)
    }
    for name in re.findall(r'(?m)^-r (\S+)', text):
        found |= pins(path.parent / name)
    return {pin.replace('_', '-') for pin in found}


def test_each_file_has_a_hashed_form() -> None:
    """All files of requirements but a board's have a hashed form; scripts/hashes.sh makes it."""
    plain = {path.name for path in REQUIREMENTS.glob('*.txt')} - NOT_HASHED
    assert {path.name for path in HASHED} == plain


@pytest.mark.parametrize('path', HASHED, ids=lambda path: path.stem)
def test_each_pin_has_hashes(path: Path) -> None:
    """The hashed form has the same pins, each with at least one SHA-256."""
    assert pins(path) == pins(REQUIREMENTS / path.name)
    for entry in re.split(r'\n(?=\w)', path.read_text('utf-8'))[1:]:
        first, *hashes = entry.replace(' \\', '').strip().split('\n')
        assert '==' in first
        assert hashes
        assert all(re.fullmatch(r'    --hash=sha256:[0-9a-f]{64}', line) for line in hashes)


def test_lists_of_licences_are_up_to_date() -> None:
    """Both pages of licences name each pinned package with the licence of its metadata."""
    script = ROOT / 'scripts/update_licences.py'
    pytest.importorskip('matplotlib', reason='needs all requirements')
    result = subprocess.run([sys.executable, script, '--check'], capture_output=True, text=True)
    assert (result.stdout + result.stderr, result.returncode) == ('', 0)
