"""The reason of a failed call is that call's own."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from nano import MODELS

from hobot_llamacpp_py.config import DecoderConfig
from hobot_llamacpp_py.engine.decoder import Decoder
from hobot_llamacpp_py.errors import InferenceError, ModelFileError

MISSING = 10**6  # a token that no vocabulary has


@pytest.fixture(scope='module')
def decoder() -> Decoder:
    with Decoder(MODELS['internvl'][1], DecoderConfig(n_ctx=256, n_threads=1)) as decoder:
        yield decoder


def reason_of_a_decode(decoder: Decoder) -> str:
    with pytest.raises(InferenceError) as caught:
        decoder.decode(MISSING, [], at=0)
    return str(caught.value)


def test_an_earlier_call_leaves_nothing(decoder: Decoder, tmp_path: Path) -> None:
    """After a file that cannot be loaded, a failing decode tells its own reason."""
    before = reason_of_a_decode(decoder)
    assert 'invalid token' in before
    path = tmp_path / 'broken.gguf'
    path.write_bytes(b'GGUF' + bytes(60))
    with pytest.raises(ModelFileError, match='cannot load'):
        Decoder(path)
    assert reason_of_a_decode(decoder) == before


def test_threads_have_reasons_of_their_own(decoder: Decoder, tmp_path: Path) -> None:
    """Two threads whose calls fail at the same time are told each its own reason."""
    path = tmp_path / 'broken.gguf'
    path.write_bytes(b'GGUF' + bytes(60))
    together = threading.Barrier(2, timeout=60)

    def load() -> set[str]:
        reasons = set()
        for _ in range(50):
            together.wait()
            with pytest.raises(ModelFileError) as caught:
                Decoder(path)
            reasons.add(str(caught.value))
        return reasons

    def decode() -> set[str]:
        reasons = set()
        for _ in range(50):
            together.wait()
            reasons.add(reason_of_a_decode(decoder))
        return reasons

    with ThreadPoolExecutor(2) as pool:
        loading, decoding = pool.submit(load), pool.submit(decode)
        (of_load,), (of_decode,) = loading.result(120), decoding.result(120)
    assert 'invalid token' in of_decode
    assert 'invalid token' not in of_load
    assert 'no reason given' not in of_load
