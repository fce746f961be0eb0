"""What the BPU's backends say on a machine that is no board; test/board has the rest."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest
from s100 import use_double, write_model

from hobot_llamacpp_py.config import EncoderConfig
from hobot_llamacpp_py.errors import ModelFileError
from hobot_llamacpp_py.vision.encoder import open_encoder


@pytest.mark.skipif(platform.machine() == 'aarch64', reason='this may be a board')
@pytest.mark.parametrize(('suffix', 'board'), [('.bin', 'RDK X5'), ('.hbm', 'RDK S100')])
def test_on_a_pc(tmp_path: Path, suffix: str, board: str) -> None:
    """A board's model on a PC is told as such, with what to use here."""
    path = tmp_path / f'v{suffix}'
    path.touch()
    with pytest.raises(ModelFileError, match=f'is no {board}: use an .onnx or mmproj') as caught:
        open_encoder(path, 0)
    assert str(path) in str(caught.value)


def test_library_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A core that the S100 lacks is refused with the library's words, at the start."""
    use_double(monkeypatch)
    path = write_model(tmp_path / 'v.hbm')
    with pytest.raises(ModelFileError, match=r'v\.hbm: .*refuses bpu_core 7.*Invalid BPU core ID'):
        open_encoder(path, 0, EncoderConfig(bpu_core=7))
