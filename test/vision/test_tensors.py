"""What encoders are fed and what they give, number by number."""

from __future__ import annotations

import numpy as np
import pytest

from hobot_llamacpp_py.families import INTERNVL
from hobot_llamacpp_py.vision.tensors import (
    Quantisation,
    as_embeddings,
    input_spec,
    nv12,
    rgb_pixels,
)

SPEC = input_spec([1, 3, 4, 6], INTERNVL, 'vit.bin')


@pytest.mark.parametrize(
    ('bgr', 'yuv'),
    [
        ((255, 255, 255), (255, 128, 128)),
        ((0, 0, 0), (0, 128, 128)),
        ((0, 0, 255), (76, 85, 255)),
        ((0, 255, 0), (150, 44, 21)),
        ((255, 0, 0), (29, 255, 107)),
    ],
)
def test_nv12_colours(bgr: tuple, yuv: tuple) -> None:
    """Colours become JPEG's full-range YUV: all luma first, then U and V in turn."""
    frame = nv12(np.full((4, 6, 3), bgr, np.uint8), SPEC)
    assert frame.shape == (6, 6)
    assert (frame[:4] == yuv[0]).all()
    np.testing.assert_allclose(frame[4:, ::2], yuv[1], atol=1)
    np.testing.assert_allclose(frame[4:, 1::2], yuv[2], atol=1)


def test_smaller_picture_lies_top_left() -> None:
    """The rest of the input is black, in pixels and in NV12."""
    white = np.full((2, 4, 3), 255, np.uint8)
    luma = np.zeros((4, 6))
    luma[:2, :4] = 255
    np.testing.assert_array_equal(nv12(white, SPEC)[:4], luma)
    for plane in rgb_pixels(white, SPEC)[0]:
        np.testing.assert_array_equal(plane, luma)


def test_quantisation_is_undone() -> None:
    """Quantised and back, numbers differ by half a step at most, and are cut to the range."""
    quantisation = Quantisation(np.array([0.1, 0.01]), np.array([3, -4]), axis=1)
    values = np.array([[1.234, 0.1234], [-2.0, 99.0]], np.float32)
    integers = quantisation.quantise(values, np.int8)
    np.testing.assert_array_equal(integers, [[15, 8], [-17, 127]])
    np.testing.assert_allclose(quantisation.dequantise(integers), [[1.2, 0.12], [-2, 1.31]])


@pytest.mark.parametrize('shape', [(4, 3), (1, 4, 3), (1, 4, 3, 1), (1, 1, 4, 3), (1, 4, 1, 3)])
def test_axes_of_length_one(shape: tuple) -> None:
    """Tokens are found whatever axes of length one a converter has left."""
    embeddings = as_embeddings(np.arange(12).reshape(shape), 'vit.bin')
    np.testing.assert_array_equal(embeddings, np.arange(12).reshape(4, 3))
