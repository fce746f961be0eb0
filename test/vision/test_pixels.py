"""Raw images of every encoding become the same BGR picture."""

import numpy as np
import pytest
from raw_images import ENCODINGS, greatest_difference, grey, quadrants, raw_image

from hobot_llamacpp_py.errors import ImageError
from hobot_llamacpp_py.vision.pixels import RawImage


@pytest.mark.parametrize('pad', [0, 1, 2, 13])
@pytest.mark.parametrize('encoding', ENCODINGS)
def test_encoding(encoding: str, pad: int) -> None:
    """Each encoding gives the picture back, with any padding at the end of its rows."""
    expected = quadrants()
    if encoding.startswith('mono'):
        expected = np.repeat(grey(expected)[:, :, np.newaxis], 3, 2)
    found = raw_image(quadrants(), encoding, pad).bgr()
    tolerance = 4 if 'uy' in encoding or 'yu' in encoding or encoding == 'nv12' else 0
    assert greatest_difference(found, expected) <= tolerance


@pytest.mark.parametrize('encoding', ['mono16', 'bayer_rggb16'])
def test_big_endian(encoding: str) -> None:
    """Sixteen-bit images may come in either byte order."""
    little = raw_image(quadrants(), encoding, 6).bgr()
    big = raw_image(quadrants(), encoding, 6, big_endian=True).bgr()
    assert (little == big).all()


@pytest.mark.parametrize(
    ('fields', 'words'),
    [
        (dict(encoding='rgb8', data=b'123'), 'needs 9216 bytes, the message has 3'),
        (dict(encoding='jpeg'), "encoding 'jpeg' are not supported"),
        (dict(encoding='rgb8', step=7, data=bytes(9216)), 'step 7 is impossible'),
        (dict(encoding='rgb8', width=0), 'impossible'),
        (dict(encoding='nv12', width=63, data=bytes(9216)), 'both must be even'),
        (dict(encoding='yuv422', width=63, step=0, data=bytes(9216)), 'odd width 63'),
    ],
)
def test_impossible_images(fields: dict, words: str) -> None:
    """An image that contradicts itself is told in one line, not guessed at."""
    with pytest.raises(ImageError, match=words):
        RawImage(**{'data': b'', 'width': 64, 'height': 48, **fields}).bgr()
