"""Wheels for another machine, from PyPI."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest


def download_wheel(requirement: str, python: str, platform: str, folder: Path) -> None:
    """Unpack a wheel into a folder; skip the test where it cannot be had."""
    command = [sys.executable, '-m', 'pip', 'download', '-q', '--no-deps', '-d', str(folder)]
    command += ['--only-binary=:all:', '--implementation', 'cp', '--python-version', python]
    command += ['--platform', platform, '--retries', '0', '--timeout', '20', requirement]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=240)
    except subprocess.TimeoutExpired:
        pytest.skip(f'{requirement} cannot be had: PyPI does not answer')
    if result.returncode:
        pytest.skip(f'{requirement} cannot be had: {result.stderr.strip()[-200:]}')
    with zipfile.ZipFile(next(folder.glob('*.whl'))) as wheel:
        wheel.extractall(folder)
