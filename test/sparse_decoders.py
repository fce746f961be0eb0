"""Decoders of any shape whose weights are a hole in the file: they take no room, and read as 0."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
from nano import MODELS


@dataclass(frozen=True)
class Sizes:
    """The shape of a decoder."""

    n_layers: int = 2
    n_embd: int = 896
    n_heads: int = 14
    n_kv_heads: int = 2
    head: int = 64
    n_ff: int = 4864
    n_vocab: int = 10000
    n_experts: int = 0
    n_used: int = 0


def write_sparse(path: Path, sizes: Sizes) -> Path:
    """Write a decoder with the built-in InternVL's vocabulary, filled up with unused tokens."""
    is_mixture = sizes.n_experts > 0
    writer = gguf.GGUFWriter(path, 'qwen3moe' if is_mixture else 'qwen3')
    writer.add_context_length(1 << 20)
    writer.add_embedding_length(sizes.n_embd)
    writer.add_block_count(sizes.n_layers)
    writer.add_feed_forward_length(sizes.n_ff)
    writer.add_head_count(sizes.n_heads)
    writer.add_head_count_kv(sizes.n_kv_heads)
    writer.add_key_length(sizes.head)
    writer.add_value_length(sizes.head)
    writer.add_layer_norm_rms_eps(1e-6)
    if is_mixture:
        writer.add_expert_count(sizes.n_experts)
        writer.add_expert_used_count(sizes.n_used)
        writer.add_expert_feed_forward_length(sizes.n_ff)
    _add_vocabulary(writer, sizes.n_vocab)
    for name, shape in _shapes(sizes).items():
        dtype = np.dtype(np.float16 if len(shape) > 1 else np.float32)
        writer.add_tensor_info(f'{name}.weight', shape, dtype, math.prod(shape) * dtype.itemsize)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    data = sum(gguf.GGUFWriter.ggml_pad(t.nbytes, 32) for t in writer.tensors[0].values())
    os.truncate(path, gguf.GGUFWriter.ggml_pad(path.stat().st_size, 32) + data)
    return path


def _add_vocabulary(writer: gguf.GGUFWriter, n_vocab: int) -> None:
    fields = gguf.GGUFReader(MODELS['internvl'][1]).fields
    for name, field in fields.items():
        if not name.startswith('tokenizer.'):
            continue
        part = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        value = field.contents()
        if name == 'tokenizer.ggml.tokens':
            value += [f'<|unused_{i}|>' for i in range(n_vocab - len(value))]
        elif name == 'tokenizer.ggml.token_type':
            value += [gguf.TokenType.UNUSED] * (n_vocab - len(value))
        writer.add_key_value(name, value, field.types[0], part)


def _shapes(sizes: Sizes) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all weights, the axis that lies together last."""
    n, queries, keys = sizes.n_embd, sizes.n_heads * sizes.head, sizes.n_kv_heads * sizes.head
    shapes: dict[str, tuple[int, ...]] = {
        'token_embd': (sizes.n_vocab, n),
        'output_norm': (n,),
    }
    experts = (sizes.n_experts,) if sizes.n_experts else ()
    kind = '_exps' if experts else ''
    for i in range(sizes.n_layers):
        layer = {
            'attn_norm': (n,),
            'attn_q_norm': (sizes.head,),
            'attn_k_norm': (sizes.head,),
            'attn_q': (queries, n),
            'attn_k': (keys, n),
            'attn_v': (keys, n),
            'attn_output': (n, queries),
            'ffn_norm': (n,),
            f'ffn_gate{kind}': (*experts, sizes.n_ff, n),
            f'ffn_up{kind}': (*experts, sizes.n_ff, n),
            f'ffn_down{kind}': (*experts, n, sizes.n_ff),
        }
        if experts:
            layer['ffn_gate_inp'] = (sizes.n_experts, n)
        shapes |= {f'blk.{i}.{name}': shape for name, shape in layer.items()}
    return shapes
