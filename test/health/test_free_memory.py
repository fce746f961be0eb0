"""A model that cannot fit into memory is refused, with the figures, before the kernel ends us."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from nano import MODELS
from sparse_decoders import Sizes, write_sparse

from hobot_llamacpp_py.config import DecoderConfig
from hobot_llamacpp_py.engine import Engine
from hobot_llamacpp_py.errors import ModelFileError
from hobot_llamacpp_py.health.free_memory import Free, MemoryGuard, free_memory

LONG = DecoderConfig(n_ctx=1 << 20)
GB = 10**9


def free_now() -> int:
    """Return the bytes of memory and swap that are free on this machine."""
    free = free_memory()
    assert free is not None
    return free.ram + free.swap


def test_a_context_that_is_too_long(tmp_path: Path) -> None:
    """A KV cache larger than the memory is refused, with a length that would fit."""
    layers = 3 * free_now() // (1 << 20) // (16 * 64 * 2 * 2) + 1
    sizes = Sizes(n_layers=layers, n_embd=64, n_heads=16, n_kv_heads=16, n_ff=64, n_vocab=1000)
    path = write_sparse(tmp_path / 'deep.gguf', sizes)
    with pytest.raises(ModelFileError) as caught:
        Engine.open(path, config=LONG)
    words = str(caught.value)
    assert words.startswith(f'{path} does not fit into memory: it needs ')
    assert 'for n_ctx 1048576 in f16' in words and '\n' not in words
    fitting = re.search(r'set n_ctx to (\d+) or less', words)
    assert fitting is not None
    assert 0 < int(fitting[1]) < 1 << 19
    Engine.open(path, config=DecoderConfig(n_ctx=512)).close()


def test_weights_that_are_too_large(tmp_path: Path) -> None:
    """A file larger than the memory is refused before it is loaded, with all figures."""
    layers = 2 * free_now() // (3 * 4096 * 32768 * 2) + 1
    sizes = Sizes(n_layers=layers, n_embd=4096, n_heads=32, n_ff=32768, n_vocab=1000)
    path = write_sparse(tmp_path / 'large.gguf', sizes)
    with pytest.raises(
        ModelFileError, match=r'needs .* GB \(weights .*, KV cache .* MB'
    ) as caught:
        Engine.open(path)
    assert 'take a smaller model' in str(caught.value)
    assert 'n_ctx to' not in str(caught.value)


def test_an_encoder_beside_it(tmp_path: Path) -> None:
    """What the encoder takes counts, too."""
    encoder = tmp_path / 'vit.onnx'
    with encoder.open('wb') as file:
        file.truncate(2 * free_now())
    with pytest.raises(ModelFileError, match=r'compute buffers \d+ MB, encoder \d'):
        Engine.open(MODELS['internvl'][1], encoder)


@pytest.mark.parametrize(
    ('free', 'fits'),
    [
        (Free(ram=2 * GB, swap=0, total=4 * GB), True),
        (Free(ram=GB // 2, swap=0, total=4 * GB), False),
        (Free(ram=GB // 2, swap=2 * GB, total=4 * GB), True),  # others are swapped out
        (Free(ram=GB // 2, swap=8 * GB, total=GB // 2), False),  # swap does not hold weights
        (None, True),
    ],
)
def test_what_swap_helps_with(tmp_path: Path, free: Free | None, fits: bool) -> None:
    """Swap makes room for the weights, but holds none of them; what is unknown refuses nothing."""
    path = write_sparse(tmp_path / 'model.gguf', Sizes(n_layers=24, n_vocab=150000))
    assert path.stat().st_size == pytest.approx(GB, rel=0.1)
    refused = ''
    try:
        guard = MemoryGuard(path, DecoderConfig(), 0, free)
        guard.check({'general.architecture': 'qwen3'}.get, 150000)
    except ModelFileError as error:
        refused = str(error)
    assert (refused == '') == fits, refused


def test_experts_that_are_not_asked(tmp_path: Path) -> None:
    """A mixture of experts may be larger than the memory: few of its weights are read at once."""
    sizes = Sizes(n_embd=1024, n_heads=8, n_ff=2048, n_experts=64, n_used=4)
    path = write_sparse(tmp_path / 'model.gguf', sizes)
    size = path.stat().st_size
    MemoryGuard(path, DecoderConfig(), 0, Free(ram=size // 2, swap=0, total=size // 2))
