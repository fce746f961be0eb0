"""A picture reaches the encoder in the right place, order and scale."""

import numpy as np
import pytest

from hobot_llamacpp_py.families import INTERNVL, SMOLVLM2, ModelFamily
from hobot_llamacpp_py.vision.picture import Picture
from hobot_llamacpp_py.vision.preprocess import InputSpec, fit, normalise

SIZE = (64, 48)


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ('size', 'expected'),
    [
        ((96, 128), (48, 64)),
        ((480, 320), (48, 32)),
        ((20, 640), (2, 64)),
        ((10, 20), (10, 20)),  # never enlarged
        ((1, 5000), (1, 64)),
    ],
)
def test_letterbox_keeps_the_aspect(size: tuple[int, int], expected: tuple[int, int]) -> None:
    """Letterbox shrinks what is larger and leaves what is not."""
    assert fit(picture(*size), SIZE, 'letterbox').shape[:2] == expected


@pytest.mark.parametrize('size', [(96, 128), (480, 320), (10, 20)])
def test_stretch_fills_the_input(size: tuple[int, int]) -> None:
    """Stretch fills the whole input, whatever the aspect."""
    assert fit(picture(*size), SIZE, 'stretch').shape == (48, 64, 3)


def test_a_picture_that_fits_is_not_copied() -> None:
    """No work is done for a picture of the right size."""
    bgr = picture(48, 64)
    assert fit(bgr, SIZE, 'letterbox') is bgr


@pytest.mark.parametrize('layout', ['NCHW', 'NHWC'])
@pytest.mark.parametrize('family', [INTERNVL, SMOLVLM2], ids=['internvl', 'smolvlm'])
def test_pixel_values(layout: str, family: ModelFamily) -> None:
    """RGB / 255, minus mean, by std; top-left, and black around, padded before normalisation."""
    bgr = picture(30, 40)
    mean, std = family.mean, family.std
    values = normalise(bgr, InputSpec(64, 48, mean, std, layout))
    padded = np.zeros((48, 64, 3), np.uint8)
    padded[:30, :40] = bgr
    expected = (padded[:, :, ::-1] / 255 - np.array(mean)) / np.array(std)
    if layout == 'NCHW':
        expected = expected.transpose(2, 0, 1)
    assert values.dtype == np.float32
    assert values.flags.c_contiguous
    np.testing.assert_allclose(values, expected[np.newaxis], atol=1e-5)


def test_shrinking_averages() -> None:
    """A fine checkerboard becomes grey, not black or white: no aliasing."""
    board = np.indices((480, 640)).sum(0) % 2 * 255
    grey = fit(np.repeat(board[:, :, np.newaxis], 3, 2).astype(np.uint8), SIZE, 'letterbox')
    assert np.abs(grey.astype(int) - 127).max() <= 1


def test_a_picture_is_known_by_its_pixels() -> None:
    """The same pixels are the same picture; other pixels, or another shape, are not."""
    pixels = picture(30, 40)
    assert Picture.of(pixels).key == Picture.of(pixels.copy()).key
    assert Picture.of(pixels).key != Picture.of(pixels.reshape(40, 30, 3)).key
    changed = pixels.copy()
    changed[3, 4, 1] ^= 1
    assert Picture.of(pixels).key != Picture.of(changed).key
