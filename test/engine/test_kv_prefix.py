"""Where a prompt parts from what the KV cache holds."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hobot_llamacpp_py.engine.kv_prefix import ImageSpan, common_prefix, count_positions
from hobot_llamacpp_py.vision.picture import Picture


def image(value: int, n_tokens: int = 64) -> ImageSpan:
    picture = Picture.of(np.full((2, 2, 3), value, np.uint8))
    return ImageSpan(picture.key, n_tokens, picture)


elements = st.lists(st.one_of(st.integers(0, 2), st.integers(0, 1).map(image)), max_size=8)


@given(elements, elements)
def test_prefix(cached: list, wanted: list) -> None:
    """The prefix is common, as long as can be, and leaves the last element to decode."""
    n = common_prefix(cached, wanted)
    assert cached[:n] == wanted[:n]
    assert n <= max(0, len(wanted) - 1)
    assert n == min(len(cached), max(0, len(wanted) - 1)) or cached[n] != wanted[n]


def test_same_pixels_are_the_same_image() -> None:
    """An image is identified by its pixels, not by the object that holds them."""
    assert common_prefix([1, image(7), 2], [1, image(7), 3]) == 2
    assert common_prefix([1, image(7), 2], [1, image(8), 2, 3]) == 1
    assert count_positions([1, image(7), 2]) == 66
