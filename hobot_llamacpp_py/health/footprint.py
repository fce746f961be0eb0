"""How much memory a model takes: told by its metadata, before anything is loaded."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from hobot_llamacpp_py.config import DecoderConfig
from hobot_llamacpp_py.gguf_header import GgufHeader, Value

__all__ = [
    'CPU_ENCODERS',
    'Footprint',
    'Shape',
    'encoder_bytes',
    'footprint_of',
    'most_positions',
    'shown',
]

_BYTES = {'f32': 4.0, 'f16': 2.0, 'q8_0': 34 / 32, 'q4_0': 18 / 32}
_FLOAT = 4
_PADDING = 256  # positions; llama.cpp rounds n_ctx up to a multiple
CPU_ENCODERS = ('.onnx', '.gguf')


class Shape(NamedTuple):
    """What of a text decoder its memory hangs on.

    Attributes:
        kv_heads: heads of keys and values of each layer with attention.
        key, value: numbers of a head.
        experts: the share of the weights that is read for a token, 1 but for mixtures of experts.
    """

    n_embd: int
    n_ff: int
    n_heads: int
    kv_heads: tuple[int, ...]
    key: int
    value: int
    n_vocab: int
    experts: float = 1.0

    @classmethod
    def from_metadata(cls, get: Callable[[str], Value | None], n_vocab: int) -> Shape:
        """Read the shape from a GGUF file's metadata; what it does not tell counts as 0.

        Args:
            get: gives the value of a key, or None.
        """
        architecture = get('general.architecture')

        def numbers(key: str) -> list[int]:
            value = get(f'{architecture}.{key}')
            values = value if isinstance(value, list) else [value]
            return [_whole(each) for each in values]

        n_layers, n_embd = numbers('block_count')[0], numbers('embedding_length')[0]
        n_heads = max(numbers('attention.head_count'))
        kv_heads = numbers('attention.head_count_kv')
        if kv_heads == [0] and get(f'{architecture}.attention.head_count_kv') is None:
            kv_heads = [n_heads]
        if len(kv_heads) == 1:
            kv_heads *= min(n_layers, 1 << 16)
        head = n_embd // n_heads if n_heads else 0
        n_experts, n_used = numbers('expert_count')[0], numbers('expert_used_count')[0]
        n_ff = max(numbers('feed_forward_length'))
        if expert_ff := numbers('expert_feed_forward_length')[0]:
            n_ff = expert_ff * max(1, n_used)
        return cls(
            n_embd=n_embd,
            n_ff=n_ff,
            n_heads=n_heads,
            kv_heads=tuple(kv_heads),
            key=numbers('attention.key_length')[0] or head,
            value=numbers('attention.value_length')[0] or head,
            n_vocab=n_vocab,
            experts=n_used / n_experts if 0 < n_used < n_experts else 1.0,
        )

    @classmethod
    def read(cls, path: Path) -> Shape:
        """Read the shape from a GGUF file's header.

        Raises:
            ModelFileError: the file cannot be read.
        """
        metadata = GgufHeader.read(path).metadata
        tokens = metadata.get('tokenizer.ggml.tokens')
        n_vocab = len(tokens) if isinstance(tokens, list) else 0
        if not n_vocab:
            n_vocab = _whole(metadata.get(f'{metadata.get("general.architecture")}.vocab_size'))
        return cls.from_metadata(metadata.get, n_vocab)


class Footprint(NamedTuple):
    """The memory of a model and its encoder, in bytes.

    Attributes:
        weights: the decoder's; mapped from the file, but read for each token.
        kv_cache: all of it is written at the start.
        compute: what is used of llama.cpp's compute buffer.
        reserved: the compute buffer as llama.cpp allocates it. Most of it is room for the logits
            of a whole batch, which nobody asks for: the kernel never has to provide it.
        encoder: what the vision encoder takes beside it.
    """

    weights: int
    kv_cache: int
    compute: int
    reserved: int
    encoder: int = 0
    experts: float = 1.0

    @property
    def needed(self) -> int:
        """What has to be in memory, or the machine only reads the file all the time."""
        return int(self.weights * self.experts) + self.kv_cache + self.compute + self.encoder


def footprint_of(shape: Shape, config: DecoderConfig, weights: int, encoder: int = 0) -> Footprint:
    """Estimate the memory of a decoder in some context, with `weights` and `encoder` in bytes."""
    n_ctx = _padded(config.n_ctx)
    n = min(config.n_ubatch, n_ctx)  # positions that are computed at once
    number = _BYTES[config.kv_cache_type]
    # A head's numbers are whole blocks of the type; llama.cpp refuses others.
    per_position = sum(shape.kv_heads) * (shape.key + shape.value) * number
    flash = config.flash_attn != 'off' or config.kv_cache_type in ('q8_0', 'q4_0')
    x = shape.n_embd * n * _FLOAT
    mask = n_ctx * n * (2 if flash else 4) if any(shape.kv_heads) else 0
    queries = shape.n_heads * shape.key * n * _FLOAT
    keys = max(shape.kv_heads, default=0) * shape.key * n * _FLOAT
    # What of a layer is in memory at once, at its widest points.
    feed_forward = mask + 4 * x + 3 * shape.n_ff * n * _FLOAT
    attention = mask + 2 * x + 2 * queries + 2 * keys
    if not flash:
        attention += n_ctx * n * shape.n_heads * _FLOAT  # each query's weight for each position
    elif config.kv_cache_type == 'f32':
        attention += 2 * queries
    layer = max(feed_forward, attention)
    logits = shape.n_vocab * n * _FLOAT + 2 * x
    kv_cache = math.ceil(n_ctx * per_position)
    return Footprint(weights, kv_cache, layer, max(layer, logits), encoder, shape.experts)


def encoder_bytes(path: str | Path | None) -> int:
    """Return the bytes of memory that an encoder takes: those on the CPU, as much as their file.

    (Those of the BPU lie in ION memory, which Linux does not have.)
    """
    if path is None or Path(path).suffix.lower() not in CPU_ENCODERS:
        return 0
    try:
        return Path(path).stat().st_size
    except OSError:
        return 0


def _padded(n_ctx: int) -> int:
    """Return the positions that llama.cpp makes of an n_ctx."""
    return -(-n_ctx // _PADDING) * _PADDING


def most_positions(shape: Shape, config: DecoderConfig, left: int) -> int:
    """Return the largest n_ctx whose cache and buffers fit some bytes, 0 if none does."""
    low, high = 0, _padded(config.n_ctx) // _PADDING
    while low < high:
        middle = (low + high + 1) // 2
        made = footprint_of(shape, replace(config, n_ctx=middle * _PADDING), 0)
        low, high = (middle, high) if made.needed <= left else (low, middle - 1)
    return low * _PADDING


def shown(size: float) -> str:
    """Return a size for people, in MB or GB."""
    return f'{size / 1e9:.1f} GB' if size >= 0.95e9 else f'{math.ceil(size / 1e6)} MB'


def _whole(value: Value | None) -> int:
    """Return a whole number of the metadata, which llama.cpp may hand over as a text."""
    try:
        return max(0, int(value)) if isinstance(value, (int, str)) else 0
    except ValueError:
        return 0
