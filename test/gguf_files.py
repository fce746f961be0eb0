"""GGUF files made from the built-in ones."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import numpy as np
from nano import MODELS

__all__ = ['edited', 'weights', 'with_template', 'write_f32', 'write_thinking']


def with_template(path: Path, template: str) -> Path:
    """Write the built-in InternVL decoder with another chat template."""
    return edited(path, {'tokenizer.chat_template': template})


def edited(
    path: Path, changes: Mapping[str, Any], tensors: Mapping[str, np.ndarray] | None = None
) -> Path:
    """Write the built-in InternVL decoder with some metadata changed.

    Args:
        tensors: those with other numbers, or that it did not have.
    """
    reader = gguf.GGUFReader(MODELS['internvl'][1])
    writer = gguf.GGUFWriter(path, 'qwen2')
    for name, field in reader.fields.items():
        if name.startswith('GGUF.') or name == 'general.architecture':
            continue
        part = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        value = changes.get(name, field.contents())
        writer.add_key_value(name, value, field.types[0], part)
    for name, data in {**weights(), **(tensors or {})}.items():
        writer.add_tensor(name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def weights() -> dict[str, np.ndarray]:
    """Return the tensors of the built-in InternVL decoder by name."""
    return {t.name: np.array(t.data) for t in gguf.GGUFReader(MODELS['internvl'][1]).tensors}


def write_f32(path: Path, family: str) -> Path:
    """Write a built-in decoder in f32.

    With f16 or Q8_0 weights llama.cpp's own logits move by up to a hundredth of their deviation
    when a batch has another shape, which would hide that two ways give the same.
    """
    return _as_f32(path, MODELS[family][1])


def write_thinking(path: Path) -> Path:
    """Write the built-in InternVL decoder in f32 and in words in which it thinks aloud.

    The first word of most of its answers begins a thought, and another one ends it.
    """
    fields = gguf.GGUFReader(MODELS['internvl'][1]).fields
    tokens = fields['tokenizer.ggml.tokens'].contents()
    types = fields['tokenizer.ggml.token_type'].contents()
    for word, marker in (('There', '<think>'), ('Ġat', '</think>')):
        at = tokens.index(word)
        tokens[at], types[at] = marker, gguf.TokenType.USER_DEFINED
    changes = {'tokenizer.ggml.tokens': tokens, 'tokenizer.ggml.token_type': types}
    return _as_f32(path, edited(path.with_suffix('.f16'), changes))


def _as_f32(path: Path, source: Path) -> Path:
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = llama_cpp.LLAMA_FTYPE_ALL_F32
    assert llama_cpp.llama_model_quantize(os.fsencode(source), os.fsencode(path), params) == 0
    return path
