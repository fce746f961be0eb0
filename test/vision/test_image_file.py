"""Local pictures: encoded files of any format, and raw NV12."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from hobot_llamacpp_py.errors import ImageError
from hobot_llamacpp_py.vision.image_file import read_image, read_nv12


def colours() -> np.ndarray:
    bgr = np.zeros((48, 64, 3), np.uint8)
    bgr[:, :32], bgr[:, 32:] = (200, 40, 20), (30, 60, 220)
    return bgr


@pytest.mark.parametrize('suffix', ['png', 'bmp', 'webp', 'jpg', 'ppm'])
def test_encoded_formats(tmp_path: Path, suffix: str) -> None:
    """Every usual format is read in BGR order."""
    path = tmp_path / f'图片.{suffix}'
    path.write_bytes(cv2.imencode(f'.{suffix}', colours())[1].tobytes())
    assert np.abs(read_image(path)[:, [8, 56]].astype(int) - colours()[:, [8, 56]]).max() < 12


def test_grey_becomes_bgr(tmp_path: Path) -> None:
    """A grey picture has three equal channels."""
    path = tmp_path / 'grey.png'
    cv2.imwrite(str(path), np.full((8, 8), 77, np.uint8))
    assert (read_image(path) == 77).all()
    assert read_image(path).shape == (8, 8, 3)


def test_nv12(tmp_path: Path) -> None:
    """A raw NV12 file is read with its size from outside."""
    i420 = cv2.cvtColor(colours(), cv2.COLOR_BGR2YUV_I420)
    u, v = i420[48:].reshape(2, -1)
    path = tmp_path / 'frame.nv12'
    path.write_bytes(i420[:48].tobytes() + np.stack([u, v], 1).tobytes())
    assert (
        np.abs(read_nv12(path, 64, 48)[:, [8, 56]].astype(int) - colours()[:, [8, 56]]).max() < 12
    )
    with pytest.raises(ImageError, match='has 4608 bytes; an NV12 picture of 64x50 has 4800'):
        read_nv12(path, 64, 50)
    with pytest.raises(ImageError, match='an even width and height above zero; given are 0 and 0'):
        read_nv12(path, 0, 0)


def test_not_a_picture(tmp_path: Path) -> None:
    """A damaged or empty file is told with its path."""
    for content in (b'', b'hello', cv2.imencode('.png', colours())[1].tobytes()[:40]):
        path = tmp_path / 'broken.png'
        path.write_bytes(content)
        with pytest.raises(ImageError, match=r'broken\.png is not a picture'):
            read_image(path)
    with pytest.raises(ImageError, match='No such file'):
        read_image(tmp_path / 'none.png')
