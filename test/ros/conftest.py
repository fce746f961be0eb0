"""The package, installed by colcon, and the node started from there."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from nano import CONFIG, MODELS, ROOT

pytest.importorskip('rclpy', reason='needs ROS 2')

from robot import PROFILES, Robot

os.environ.setdefault(PROFILES, str(CONFIG / 'quick_discovery.xml'))


@pytest.fixture(scope='session')
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build and install the package with colcon; return the install folder."""
    pytest.importorskip('colcon_core', reason='needs colcon')
    base = tmp_path_factory.mktemp('colcon')
    build = [sys.executable, '-m', 'colcon', '--log-base', str(base / 'log'), 'build']
    build += ['--merge-install', '--base-paths', str(ROOT)]
    build += ['--build-base', str(base / 'build'), '--install-base', str(base / 'install')]
    subprocess.run(build, check=True, cwd=base, capture_output=True, text=True, timeout=300)
    return base / 'install'


@pytest.fixture(scope='module')
def start(
    installed: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., AbstractContextManager[Robot]]:
    """Return a function that starts the node: `with start(feed_type=1) as robot`."""

    @contextmanager
    def starter(
        family: str = 'internvl',
        arguments: Sequence[str] = (),
        togetheros: bool = False,
        **parameters: Any,
    ) -> Iterator[Robot]:
        if togetheros:
            pytest.importorskip('ai_msgs', reason='`make test` builds it')
        encoder, decoder, kind = MODELS[family]
        models = dict(model_file_name=encoder, llm_model_name=decoder, model_type=kind.number)
        folder = tmp_path_factory.mktemp('node')
        settings = {**models, **parameters}
        with Robot(installed, folder, settings, arguments, togetheros) as robot:
            yield robot

    return starter


@pytest.fixture
def picture_file(tmp_path: Path) -> Callable[[np.ndarray, str], Path]:
    """Return a function that writes a BGR picture into a file of some format."""

    def write(bgr: np.ndarray, suffix: str = 'png') -> Path:
        path = tmp_path / f'picture.{suffix}'
        path.write_bytes(cv2.imencode(f'.{suffix}', bgr)[1].tobytes())
        return path

    return write
