"""Where a prompt parts from what the KV cache holds; and the cache holds what it says."""

from collections.abc import Iterator

import llama_cpp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nano import MODELS

from hobot_llamacpp_py.config import DecoderConfig
from hobot_llamacpp_py.engine import CancelledError, CancelToken
from hobot_llamacpp_py.engine.decoder import Decoder
from hobot_llamacpp_py.engine.kv_cache import ImageSpan, KvCache, count_positions
from hobot_llamacpp_py.vision.picture import Picture

EMBEDDINGS = np.zeros((2, 128), np.float32)


def image(value: int) -> ImageSpan:
    picture = Picture.of(np.full((2, 2, 3), value, np.uint8))
    return ImageSpan(picture.key, len(EMBEDDINGS), picture)


elements = st.lists(st.one_of(st.integers(0, 2), st.integers(0, 1).map(image)), max_size=8)


@pytest.fixture(scope='module')
def decoder() -> Iterator[Decoder]:
    with Decoder(MODELS['internvl'][1], DecoderConfig(n_ctx=256, n_threads=1)) as decoder:
        yield decoder


@pytest.fixture
def cache(decoder: Decoder) -> KvCache:
    decoder.trim(0)
    return KvCache(decoder)


def positions_of(decoder: Decoder) -> int:
    """Return how many positions llama.cpp itself has in its memory."""
    memory = llama_cpp.llama_get_memory(decoder.context)
    return llama_cpp.llama_memory_seq_pos_max(memory, 0) + 1


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(elements, elements)
def test_prefix(decoder: Decoder, held: list, wanted: list) -> None:
    """The prefix is common, as long as can be, and leaves the last element to decode."""
    decoder.trim(0)
    cache = KvCache(decoder)
    cache.prefill(held, lambda span: EMBEDDINGS)
    n = cache.match(wanted)
    assert held[:n] == wanted[:n]
    assert n <= max(0, len(wanted) - 1)
    assert n == min(len(held), max(0, len(wanted) - 1)) or held[n] != wanted[n]

    cache.trim(n)
    assert cache.n_past == positions_of(decoder) == count_positions(wanted[:n])
    cache.prefill(wanted[n:], lambda span: EMBEDDINGS)
    assert cache.match(wanted, last_again=False) == len(wanted)
    assert cache.n_past == positions_of(decoder) == count_positions(wanted)


def test_same_pixels_are_the_same_image(cache: KvCache) -> None:
    """An image is identified by its pixels, not by the object that holds them."""
    cache.prefill([1, image(7), 2], lambda span: EMBEDDINGS)
    assert cache.match([1, image(7), 3]) == 2
    assert cache.match([1, image(8), 2, 3]) == 1
    assert cache.n_past == 4


def test_a_draft_that_was_wrong(cache: KvCache, decoder: Decoder) -> None:
    """A draft is held until it is trimmed, and nothing of it then."""
    cache.prefill([1, 2], lambda span: EMBEDDINGS)
    cache.append(3, [4, 5, 6])
    assert (len(cache), cache.last(2)) == (6, [5, 6])
    cache.trim(4)
    assert (cache.last(4), cache.n_past, positions_of(decoder)) == ([1, 2, 3, 4], 4, 4)


def test_what_fails_leaves_what_was_there(cache: KvCache, decoder: Decoder) -> None:
    """A decode that is cancelled, and an image that cannot be had, change nothing before them."""
    cache.prefill([1, 2], lambda span: EMBEDDINGS)
    cancel = CancelToken()
    cancel.set()
    decoder.cancel_on(cancel)
    for failing in (lambda: cache.append(3), lambda: cache.prefill([3, 4], lambda s: EMBEDDINGS)):
        with pytest.raises(CancelledError):
            failing()
        assert (cache.n_past, positions_of(decoder), cache.last(9)) == (2, 2, [1, 2])
    decoder.cancel_on(CancelToken())

    def no_embeddings(span: ImageSpan) -> np.ndarray:
        raise ConnectionError

    with pytest.raises(ConnectionError):
        cache.prefill([3, image(0), 4], no_embeddings)
    assert (cache.n_past, positions_of(decoder), cache.last(9)) == (3, 3, [1, 2, 3])
