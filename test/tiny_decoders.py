"""Random decoders of a few kinds of memory, with the vocabulary of a built-in model."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
from nano import MODELS

N_EMBD, N_FF, N_LAYERS = 128, 256, 3  # the width of the built-in encoders' image tokens
WINDOW = 16  # positions that the sliding-window decoder looks back on

FFN = {'ffn_norm': (N_EMBD,), 'ffn_gate': (N_FF, N_EMBD), 'ffn_up': (N_FF, N_EMBD)} | {
    'ffn_down': (N_EMBD, N_FF)
}
ATTENTION = {'attn_norm': (N_EMBD,), 'attn_q_norm': (32,), 'attn_k_norm': (32,)} | {
    f'attn_{name}': (N_EMBD, N_EMBD) for name in ('q', 'k', 'v', 'output')
}


def write_recurrent(path: Path) -> Path:
    """Write a Mamba decoder: its memory is one state, not a cache of positions."""
    inner, state, rank = 2 * N_EMBD, 16, 8
    layer = {
        'attn_norm.weight': (N_EMBD,),
        'ssm_in.weight': (2 * inner, N_EMBD),
        'ssm_conv1d.weight': (inner, 4),
        'ssm_conv1d.bias': (inner,),
        'ssm_x.weight': (rank + 2 * state, inner),
        'ssm_dt.weight': (inner, rank),
        'ssm_dt.bias': (inner,),
        'ssm_a': (inner, state),
        'ssm_d': (inner,),
        'ssm_out.weight': (N_EMBD, inner),
    }
    keys = {'ssm.conv_kernel': 4, 'ssm.inner_size': inner, 'ssm.state_size': state}
    keys |= {'ssm.time_step_rank': rank, 'feed_forward_length': 0, 'attention.head_count': 0}
    return _write(path, 'mamba', keys, [layer] * N_LAYERS)


def write_hybrid(path: Path) -> Path:
    """Write an LFM2 decoder: convolutions with a state, and a layer with attention."""
    convolution = {'attn_norm': (N_EMBD,), 'shortconv.conv': (N_EMBD, 3)} | {
        'shortconv.in_proj': (3 * N_EMBD, N_EMBD),
        'shortconv.out_proj': (N_EMBD, N_EMBD),
    }
    layers = [_weights(kind | FFN) for kind in (convolution, ATTENTION, convolution)]
    keys = _attention_keys([0, 4, 0]) | {'shortconv.l_cache': 3}
    return _write(path, 'lfm2', keys, layers, output_norm='token_embd_norm')


def write_sliding_window(path: Path) -> Path:
    """Write a Gemma 3 decoder: all but the last layer look back `WINDOW` positions only."""
    post = {'post_attention_norm': (N_EMBD,), 'post_ffw_norm': (N_EMBD,)}
    keys = _attention_keys(4) | {'attention.sliding_window': WINDOW}
    keys |= {'attention.key_length': 32, 'attention.value_length': 32}
    return _write(path, 'gemma3', keys, [_weights(ATTENTION | FFN | post)] * N_LAYERS)


def write_q4_0(path: Path) -> Path:
    """Write a Qwen 3 decoder whose matrices are Q4_0, as those of the published decoders are."""
    keys = _attention_keys(4)
    return _write(path, 'qwen3', keys, [_weights(ATTENTION | FFN)] * N_LAYERS, is_q4_0=True)


def _attention_keys(heads: int | list[int]) -> dict[str, int | list[int]]:
    return {'feed_forward_length': N_FF, 'attention.head_count': 4} | {
        'attention.head_count_kv': heads
    }


def _weights(tensors: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    return {f'{name}.weight': shape for name, shape in tensors.items()}


def _write(
    path: Path,
    architecture: str,
    keys: dict[str, int | list[int]],
    layers: list[dict[str, tuple[int, ...]]],
    output_norm: str = 'output_norm',
    *,
    is_q4_0: bool = False,
) -> Path:
    rng = np.random.default_rng(7)
    writer = gguf.GGUFWriter(path, architecture)
    vocabulary = gguf.GGUFReader(MODELS['internvl'][1]).fields
    for name, field in vocabulary.items():
        if name.startswith('tokenizer.'):
            part = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(name, field.contents(), field.types[0], part)
    writer.add_context_length(4096)
    writer.add_embedding_length(N_EMBD)
    writer.add_block_count(len(layers))
    writer.add_layer_norm_rms_eps(1e-6)
    for name, value in keys.items():
        add = writer.add_array if isinstance(value, list) else writer.add_uint32
        add(f'{architecture}.{name}', value)  # type: ignore[operator]
    n_vocab = len(vocabulary['tokenizer.ggml.tokens'].data)
    shapes = {'token_embd.weight': (n_vocab, N_EMBD), f'{output_norm}.weight': (N_EMBD,)}
    for i, layer in enumerate(layers):
        shapes |= {f'blk.{i}.{name}': shape for name, shape in layer.items()}
    for name, shape in shapes.items():
        if name.endswith('norm.weight'):
            values = np.ones(shape)
        elif name.endswith('ssm_a'):
            values = -rng.uniform(0.1, 1, shape)
        else:
            values = rng.standard_normal(shape) / np.sqrt(shape[-1])
        values, q4_0 = values.astype(np.float32), gguf.GGMLQuantizationType.Q4_0
        if is_q4_0 and len(shape) == 2 and name != 'token_embd.weight':
            writer.add_tensor(name, gguf.quants.quantize(values, q4_0), raw_dtype=q4_0)
        else:
            writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
