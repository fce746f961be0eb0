"""The memory that a model takes is known before it is loaded."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from nano import MODELS, ROOT
from sparse_decoders import Sizes, write_sparse
from tiny_decoders import write_hybrid, write_recurrent, write_sliding_window

from hobot_llamacpp_py.config import DecoderConfig
from hobot_llamacpp_py.engine.decoder import Decoder
from hobot_llamacpp_py.health.footprint import Footprint, Shape, footprint_of

MIB = 1 << 20
# Shapes of public models, two layers of each: what lies in memory at once is one layer.
SHAPES = {
    'qwen2.5-0.5b': Sizes(n_vocab=60000),
    'qwen2.5-1.5b': Sizes(n_embd=1536, n_heads=12, head=128, n_ff=8960),
    'smolvlm2-256m': Sizes(n_embd=576, n_heads=9, n_kv_heads=3, n_ff=1536),
    'smolvlm2-500m': Sizes(n_embd=960, n_heads=15, n_kv_heads=5, n_ff=2560),
    'many-heads': Sizes(n_embd=1024, n_heads=16, n_kv_heads=16, n_ff=2816, n_vocab=2000),
    'wide-heads': Sizes(n_embd=512, n_heads=4, n_kv_heads=1, head=256, n_ff=512, n_vocab=1000),
}
SETTINGS = {
    'default': DecoderConfig(),
    'short': DecoderConfig(n_ctx=500),
    'long': DecoderConfig(n_ctx=16384),
    'small batch': DecoderConfig(n_ubatch=64),
    'large batch': DecoderConfig(n_ubatch=2048),
    'no flash': DecoderConfig(flash_attn='off', n_ctx=8192),
    'q8_0': DecoderConfig(kv_cache_type='q8_0'),
    'q4_0': DecoderConfig(kv_cache_type='q4_0', n_ctx=8192),
    'f32': DecoderConfig(kv_cache_type='f32'),
}


def allocated(path: Path, config: DecoderConfig, caplog: pytest.LogCaptureFixture) -> tuple:
    """Load a decoder; return the MiB of KV cache and compute buffer that llama.cpp logs."""
    with caplog.at_level(logging.DEBUG, 'hobot_llamacpp_py'):
        caplog.clear()
        Decoder(path, config).close()
    return tuple(
        sum(map(float, re.findall(rf'{name} buffer size = +([\d.]+) MiB', caplog.text)))
        for name in ('KV', 'compute')
    )


def estimate(path: Path, config: DecoderConfig) -> Footprint:
    """Return what is expected."""
    return footprint_of(Shape.read(path), config, path.stat().st_size)


@pytest.mark.parametrize('settings', SETTINGS)
@pytest.mark.parametrize('shape', SHAPES)
def test_what_llama_cpp_allocates(
    shape: str, settings: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The KV cache is known exactly, the compute buffer within 15 %."""
    path, config = write_sparse(tmp_path / 'model.gguf', SHAPES[shape]), SETTINGS[settings]
    expected = estimate(path, config)
    kv_cache, compute = allocated(path, config, caplog)
    assert expected.kv_cache / MIB == pytest.approx(kv_cache, abs=0.02)
    assert expected.reserved / MIB == pytest.approx(compute, rel=0.15)


@pytest.mark.parametrize('settings', SETTINGS)
def test_the_built_in_models(family: str, settings: str, caplog: pytest.LogCaptureFixture) -> None:
    """The same of real files."""
    expected = estimate(MODELS[family][1], SETTINGS[settings])
    kv_cache, compute = allocated(MODELS[family][1], SETTINGS[settings], caplog)
    assert expected.kv_cache / MIB == pytest.approx(kv_cache, abs=0.02)
    assert expected.reserved / MIB == pytest.approx(compute, rel=0.15)


@pytest.mark.parametrize('write', [write_hybrid, write_sliding_window, write_recurrent])
def test_other_kinds_of_memory(
    write: Callable[[Path], Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Only layers with attention have a KV cache; a sliding window is kept whole."""
    path, config = write(tmp_path / 'model.gguf'), DecoderConfig(n_ctx=2048)
    expected = estimate(path, config)
    kv_cache, compute = allocated(path, config, caplog)
    assert expected.kv_cache / MIB == pytest.approx(kv_cache, abs=0.02)
    assert expected.reserved / MIB > 0.5 * compute


def test_a_mixture_of_experts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Of a mixture of experts only the experts of a token have to be in memory."""
    sizes = Sizes(n_embd=512, n_heads=8, n_ff=768, n_experts=16, n_used=4)
    path = write_sparse(tmp_path / 'model.gguf', sizes)
    expected = estimate(path, DecoderConfig())
    kv_cache, _ = allocated(path, DecoderConfig(), caplog)
    assert expected.kv_cache / MIB == pytest.approx(kv_cache, abs=0.02)
    assert expected.needed < expected.kv_cache + expected.compute + path.stat().st_size / 3


MEASURE = """
import sys
from pathlib import Path
from hobot_llamacpp_py.config import DecoderConfig
from hobot_llamacpp_py.engine.decoder import Decoder

def anonymous():
    for line in open('/proc/self/status'):
        if line.startswith('RssAnon:'):
            return int(line.split()[1]) * 1024

before = anonymous()
decoder = Decoder(Path(sys.argv[1]), DecoderConfig(n_ctx=16384, n_threads=1))
decoder.prefill([1] * 512, 0)
print(anonymous() - before)
"""


def test_what_is_used_of_it(tmp_path: Path) -> None:
    """What a prompt makes the kernel provide is what was expected, not the whole reserve."""
    sizes = Sizes(n_layers=4, n_kv_heads=14, n_vocab=150000)
    path = write_sparse(tmp_path / 'model.gguf', sizes)
    command = [sys.executable, '-c', MEASURE, path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    expected = estimate(path, DecoderConfig(n_ctx=16384))
    used = expected.kv_cache + expected.compute
    vocabulary = 60 * MIB  # which is not counted
    assert 0.85 * used < int(done.stdout) < 1.15 * used + vocabulary
    assert used + vocabulary < expected.kv_cache + expected.reserved
