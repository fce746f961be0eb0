"""A decoder that says what a script says: each token leads to one other token, by far."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import gguf
import numpy as np

__all__ = ['write_decoder']

NORMAL, CONTROL, USER_DEFINED = 1, 3, 4  # llama.cpp's token types
N_EMBD_STEP = 32  # widths are multiples of that
END, ASK = '<|end_of_turn|>', '<|ask|>'
TEMPLATE = (
    "{% for m in messages %}{{ m.role + ':' + m.content + '<|end_of_turn|>' }}{% endfor %}<|ask|>"
)


def write_decoder(
    path: Path,
    script: Mapping[str, str],
    special: Mapping[str, int],
    template: str = TEMPLATE,
) -> Path:
    """Write a GGUF of a model that follows a token by the one that the script names.

    Args:
        script: token -> next token; a token that is not in it leads to the end of the turn.
            `<|ask|>` is the last token of the template's prompt.
        special: tokens of the script that are special, with their type.
    """
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    # The byte alphabet of GPT-2: what cannot be printed stands at 256 and up.
    letters = {byte: chr(byte) for byte in printable}
    letters |= {byte: chr(256 + i) for i, byte in enumerate(others)}

    def spelt(text: str) -> str:
        is_special = text in special or text in (END, ASK)
        return text if is_special else ''.join(letters[byte] for byte in text.encode())

    # Two line feeds are one token: they end a closed thought.
    words = dict.fromkeys([*script.keys(), *script.values(), *special, END, ASK, '\n\n'])
    tokens = [letters[byte] for byte in range(256)]
    tokens += [spelt(word) for word in words if spelt(word) not in tokens]
    ids = {token: i for i, token in enumerate(tokens)}
    types = [NORMAL] * len(tokens)
    for text, kind in {END: CONTROL, ASK: CONTROL, **special}.items():
        types[ids[text]] = kind

    n_vocab = len(tokens)
    width = -(-n_vocab // N_EMBD_STEP) * N_EMBD_STEP
    writer = gguf.GGUFWriter(path, 'qwen2')
    writer.add_context_length(4096)
    writer.add_embedding_length(width)
    writer.add_block_count(1)
    writer.add_feed_forward_length(N_EMBD_STEP)
    writer.add_head_count(1)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_tokenizer_model('gpt2')
    writer.add_tokenizer_pre('qwen2')
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(['Ċ Ċ'])
    writer.add_eos_token_id(ids[END])
    writer.add_add_bos_token(False)
    writer.add_chat_template(template)

    leads = np.zeros((n_vocab, width), np.float32)
    follows = {spelt(token): spelt(after) for token, after in script.items()}
    for token, i in ids.items():
        leads[ids[follows.get(token, END)], i] = 1
    writer.add_tensor('token_embd.weight', np.eye(n_vocab, width, dtype=np.float32))
    writer.add_tensor('output.weight', leads)
    for name in ('output_norm', 'blk.0.attn_norm', 'blk.0.ffn_norm'):
        writer.add_tensor(f'{name}.weight', np.ones(width, np.float32))
    for name, rows, columns in (
        *((f'attn_{part}', width, width) for part in ('q', 'k', 'v', 'output')),
        *(('ffn_gate', N_EMBD_STEP, width), ('ffn_up', N_EMBD_STEP, width)),
        ('ffn_down', width, N_EMBD_STEP),
    ):
        writer.add_tensor(f'blk.0.{name}.weight', np.zeros((rows, columns), np.float32))
    for part in ('q', 'k', 'v'):
        writer.add_tensor(f'blk.0.attn_{part}.bias', np.zeros(width, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
