"""The X5 backend where there is no X5; what it does on one is tested in test/board."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from hobot_llamacpp_py.errors import ModelFileError
from hobot_llamacpp_py.vision.encoder import open_encoder


@pytest.mark.skipif(platform.machine() == 'aarch64', reason='this may be an RDK X5')
def test_on_a_pc(tmp_path: Path) -> None:
    """On a PC a .bin encoder is refused with the reason and what to use there."""
    path = tmp_path / 'vit.bin'
    path.touch()
    with pytest.raises(
        ModelFileError, match=r"vit\.bin needs .*No module named 'hobot_dnn'"
    ) as caught:
        open_encoder(path, 0)
    advice = 'is no RDK X5: use an .onnx or mmproj|pip3 install'
    assert str(path) in str(caught.value)
    with pytest.raises(ModelFileError, match=advice):
        open_encoder(path, 0)
