"""The package, installed by colcon, and the node started from there."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import cv2
import numpy as np
import pytest
from nano import CONFIG

pytest.importorskip('rclpy', reason='needs ROS 2')

from robot import PROFILES, Robot, install, starter

os.environ.setdefault(PROFILES, str(CONFIG / 'quick_discovery.xml'))


@pytest.fixture(scope='session')
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build and install the package with colcon; return the install folder."""
    pytest.importorskip('colcon_core', reason='needs colcon')
    return install(tmp_path_factory.getbasetemp() / 'colcon')


@pytest.fixture(scope='module')
def start(
    installed: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., AbstractContextManager[Robot]]:
    """Return a function that starts the node: `with start(feed_type=1) as robot`."""
    return starter(installed, lambda: tmp_path_factory.mktemp('node'))


@pytest.fixture
def picture_file(tmp_path: Path) -> Callable[[np.ndarray, str], Path]:
    """Return a function that writes a BGR picture into a file of some format."""

    def write(bgr: np.ndarray, suffix: str = 'png') -> Path:
        path = tmp_path / f'picture.{suffix}'
        path.write_bytes(cv2.imencode(f'.{suffix}', bgr)[1].tobytes())
        return path

    return write
