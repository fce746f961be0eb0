"""The decoder that the benchmark measures: the true shape of Qwen2.5-0.5B Q4_0, random weights.

Random weights give random texts whose next token hangs by a hair: the shape of a batch alone
decides it, and a repeated answer would not repeat. So the first layer is no random one: it leads
from each token to another fixed one, by far, in one cycle through the vocabulary. What it costs
to compute does not hang on the values.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hobot_llamacpp_py.errors import ModelFileError

__all__ = ['write_model']

N_LAYERS, N_EMBD, N_FF, N_VOCAB = 24, 896, 4864, 151936
N_HEADS, N_KV_HEADS, HEAD = 14, 2, 64
CODE = N_KV_HEADS * HEAD  # numbers that name a token: as many as the values of a layer have
FIRST_SPECIAL = 151643
SPECIALS = ['<|endoftext|>', '<|im_start|>', '<|im_end|>', '<|object_ref_start|>']
SPECIALS += ['<|object_ref_end|>', '<|box_start|>', '<|box_end|>', '<|quad_start|>']
SPECIALS += ['<|quad_end|>', '<|vision_start|>', '<|vision_end|>', '<|vision_pad|>']
# Of the prompt format and of a robot's answer in JSON: one token each, as in the original. (Merges
# of earlier words come first.)
WORDS = (
    *('system', 'user', 'assistant', 'confidence', 'objects', 'count', 'color', 'place', 'name'),
    *('":[{"', '},{"', '":"', '","', '{"', ',"', '}]}'),
)
LEAD = 4.0  # weight of the next token's code beside the token's own
_BLOCK = 32  # weights that share a scale in Q4_0 and Q8_0


def write_model() -> Path:
    """Write the decoder (350 MB) into the user's cache, unless it is there; return its path.

    Raises:
        ModelFileError: the gguf package is not installed, or the file cannot be written.
    """
    cache = Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache')
    path = cache / 'hobot_llamacpp_py' / 'bench-2-qwen2.5-0.5b-q4_0.gguf'
    if path.is_file():
        return path
    try:
        import gguf
    except ImportError:
        raise ModelFileError(
            'the benchmark writes its model with the gguf package: pip3 install gguf'
        ) from None
    partial = path.with_suffix('.partial')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        writer = gguf.GGUFWriter(partial, 'qwen2')
        _add_metadata(writer)
        _add_tensors(writer, gguf.GGMLQuantizationType)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        partial.rename(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise ModelFileError(f'{partial}: {error.strerror}; it takes 350 MB') from None
    return path


def _add_metadata(writer: Any) -> None:
    writer.add_name('random weights in the shape of Qwen2.5-0.5B')
    writer.add_context_length(32768)
    writer.add_embedding_length(N_EMBD)
    writer.add_block_count(N_LAYERS)
    writer.add_feed_forward_length(N_FF)
    writer.add_head_count(N_HEADS)
    writer.add_head_count_kv(N_KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(1e6)
    tokens, merges = _vocabulary()
    normal, control = 1, 3  # llama.cpp's token types
    writer.add_tokenizer_model('gpt2')
    writer.add_tokenizer_pre('qwen2')
    writer.add_token_list(tokens)
    writer.add_token_types([normal] * FIRST_SPECIAL + [control] * (N_VOCAB - FIRST_SPECIAL))
    writer.add_token_merges(merges)
    writer.add_eos_token_id(FIRST_SPECIAL + SPECIALS.index('<|im_end|>'))
    writer.add_add_bos_token(False)


def _vocabulary() -> tuple[list[str], list[str]]:
    """Return the tokens: bytes, what makes up `WORDS`, numbers; and the merges."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    # The byte alphabet of GPT-2: what cannot be printed stands at 256 and up.
    tokens = [*map(chr, printable), *(chr(256 + i) for i in range(len(others)))]
    merges = []
    for start in dict.fromkeys(word[:end] for word in WORDS for end in range(2, len(word) + 1)):
        merges.append(f'{start[:-1]} {start[-1]}')
        tokens.append(start)
    tokens += [f'{chr(288)}{i}' for i in range(FIRST_SPECIAL - len(tokens))]  # space, number
    tokens += SPECIALS
    tokens += [f'<|unused_{i}|>' for i in range(N_VOCAB - len(tokens))]
    return tokens, merges


def _add_tensors(writer: Any, types: Any) -> None:
    rng = np.random.default_rng(0)

    def add(name: str, data: npt.NDArray[Any], quantised: Any = None) -> None:
        writer.add_tensor(name, data, raw_dtype=quantised)

    def random(name: str, rows: int, columns: int, std: float) -> None:
        add(name, _random_q4_0(rng, rows, columns, std), types.Q4_0)

    add('token_embd.weight', _embeddings(rng), types.Q8_0)
    norm = np.zeros(N_EMBD, np.float32)
    norm[CODE : 2 * CODE] = 1  # only the code of what comes next counts at the end
    add('output_norm.weight', norm)
    for i in range(N_LAYERS):
        for name, size in (('attn_q', N_EMBD), ('attn_k', CODE), ('attn_v', CODE)):
            add(f'blk.{i}.{name}.bias', np.zeros(size, np.float32))
            if i:
                random(f'blk.{i}.{name}.weight', size, N_EMBD, 0.03)
        for name in ('attn_norm', 'ffn_norm'):
            add(f'blk.{i}.{name}.weight', np.ones(N_EMBD, np.float32))
        if i:
            random(f'blk.{i}.attn_output.weight', N_EMBD, N_EMBD, 0.002)
        random(f'blk.{i}.ffn_gate.weight', N_FF, N_EMBD, 0.03)
        random(f'blk.{i}.ffn_up.weight', N_FF, N_EMBD, 0.03)
        random(f'blk.{i}.ffn_down.weight', N_EMBD, N_FF, 0.002)
    # The first layer: every token attends to itself and adds its code, as that of the next one.
    own_code = np.eye(CODE, N_EMBD, dtype=np.float32)
    query, output = np.zeros((2, N_EMBD, N_EMBD), np.float32)
    for kv_head in range(N_KV_HEADS):
        head = kv_head * (N_HEADS // N_KV_HEADS)  # one of those that share the kv head
        code = np.arange(kv_head * HEAD, (kv_head + 1) * HEAD)
        query[head * HEAD + np.arange(HEAD), code] = 1
        output[CODE + code, head * HEAD + np.arange(HEAD)] = LEAD
    for name, weight in (('q', query), ('k', own_code), ('v', own_code), ('output', output)):
        add(f'blk.0.attn_{name}.weight', _sparse_q4_0(weight), types.Q4_0)


def _embeddings(rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Return the embeddings in Q8_0: a token's code, that of the token before it, noise."""
    codes = rng.integers(0, 2, (N_VOCAB, CODE), np.int8) * 2 - 1
    before = np.arange(N_VOCAB)
    cycle = rng.permutation(FIRST_SPECIAL)
    before[cycle] = np.roll(cycle, 1)
    noise = rng.integers(-1, 2, (N_VOCAB, N_EMBD - 2 * CODE), np.int8)
    values = np.concatenate([codes * 2, codes[before] * 2, noise], axis=1)
    blocks = values.reshape(N_VOCAB, -1, _BLOCK)
    return _with_scale(blocks.view(np.uint8), 0.5)


def _random_q4_0(
    rng: np.random.Generator, rows: int, columns: int, std: float
) -> npt.NDArray[np.uint8]:
    # Two numbers a byte, from -7 to 7 and stored 8 higher. No -8: the mean has to be zero, or the
    # layers would all push into one direction.
    numbers = np.array([8, *range(1, 16)], np.uint8)
    pairs = (numbers[:, np.newaxis] * 16 + numbers).ravel().astype(np.uint8)
    data = pairs[np.frombuffer(rng.bytes(rows * columns // 2), np.uint8)]
    return _with_scale(data.reshape(rows, -1, _BLOCK // 2), std / (numbers - 8.0).std())


def _sparse_q4_0(weight: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Quantise a matrix of zeros and one other number."""
    blocks = np.where(weight != 0, 0, 8).astype(np.uint8).reshape(len(weight), -1, 2, _BLOCK // 2)
    return _with_scale(
        (blocks[:, :, 0] + blocks[:, :, 1] * 16).astype(np.uint8), float(-weight.max() / 8)
    )


def _with_scale(blocks: npt.NDArray[np.uint8], scale: float) -> npt.NDArray[np.uint8]:
    """Put the scale, a float16, before each block; return uint8 [rows, bytes]."""
    head = np.frombuffer(np.float16(scale).tobytes(), np.uint8)
    heads = np.broadcast_to(head, (*blocks.shape[:2], 2))
    return np.ascontiguousarray(np.concatenate([heads, blocks], axis=2)).reshape(len(blocks), -1)
