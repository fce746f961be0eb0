"""`make demo`, the first thing that a newcomer runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from domain import own_domain
from nano import ROOT
from robot import PROFILES

SLOW_START = """
import sys, time
if sys.orig_argv[1:3] == ['-m', 'hobot_llamacpp_py']:
    time.sleep(0.8)
"""


def demo(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the demo as a newcomer does."""
    known = {n: v for n, v in os.environ.items() if n != PROFILES and not n.startswith('LC_')}
    return subprocess.run(
        [sys.executable, '-m', 'hobot_llamacpp_py.tools.demo', *arguments],
        env={**known, **variables},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize(
    'language, words',
    [('zh_CN.UTF-8', '黄色的星形'), ('C.UTF-8', 'a yellow star at the top, a red circle')],
)
def test_a_node_that_starts_slowly(tmp_path: Path, language: str, words: str) -> None:
    """The answer is shown, in the user's language, also where the node comes after the demo."""
    (tmp_path / 'sitecustomize.py').write_text(SLOW_START)
    with own_domain() as domain:
        result = demo(PYTHONPATH=str(tmp_path), ROS_DOMAIN_ID=str(domain), LANG=language)
    assert result.returncode == 0, result.stdout + result.stderr
    assert words in result.stdout


def test_arguments() -> None:
    """The demo tells what it is, and what it is asked beyond that is an error."""
    helped, asked = demo('--help'), demo('nope.jpg')
    assert helped.returncode == 0 and helped.stdout.startswith('usage: demo')
    assert asked.returncode == 2
    assert asked.stderr == 'error: unrecognized arguments: nope.jpg\n'
