"""What the BPU's backends say on a machine that is no board; test/board has the rest."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from hobot_llamacpp_py.errors import ModelFileError
from hobot_llamacpp_py.families import INTERNVL
from hobot_llamacpp_py.vision.open import open_encoder


@pytest.mark.skipif(platform.machine() == 'aarch64', reason='this may be a board')
@pytest.mark.parametrize(
    ('suffix', 'module', 'board'),
    [('.bin', 'hobot_dnn', 'RDK X5'), ('.hbm', 'hbm_runtime', 'RDK S100')],
)
def test_on_a_pc(tmp_path: Path, suffix: str, module: str, board: str) -> None:
    """A board's model on a PC is told as such, with what to use here."""
    path = tmp_path / f'v{suffix}'
    path.touch()
    words = f"No module named '{module}'.*is no {board}: use an .onnx or mmproj"
    with pytest.raises(ModelFileError, match=words) as caught:
        open_encoder(path, INTERNVL)
    assert str(path) in str(caught.value)
