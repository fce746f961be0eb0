"""`make demo`, the first thing that a newcomer runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from domain import own_domain
from nano import ROOT
from robot import PROFILES

SLOW_START = """
import sys, time
if sys.orig_argv[1:3] == ['-m', 'hobot_llamacpp_py']:
    time.sleep(0.8)
"""


def test_a_node_that_starts_slowly(tmp_path: Path) -> None:
    """The answer is shown also where the node comes after the first signs of life of the demo."""
    (tmp_path / 'sitecustomize.py').write_text(SLOW_START)
    variables = {**os.environ, 'PYTHONPATH': str(tmp_path)}
    del variables[PROFILES]  # as for a newcomer
    with own_domain() as domain:
        result = subprocess.run(
            [sys.executable, '-m', 'hobot_llamacpp_py.tools.demo'],
            env={**variables, 'ROS_DOMAIN_ID': str(domain)},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert result.returncode == 0, result.stdout + result.stderr
    assert '黄色的星形' in result.stdout
