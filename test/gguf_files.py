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

__all__ = ['edited', 'with_template', 'write_f32']


def with_template(path: Path, template: str) -> Path:
    """Write the built-in InternVL decoder with another chat template."""
    return edited(path, {'tokenizer.chat_template': template})


def edited(path: Path, changes: Mapping[str, Any], spoilt: str = '') -> Path:
    """Write the built-in InternVL decoder with some metadata changed.

    Args:
        spoilt: a tensor that gets no numbers.
    """
    reader = gguf.GGUFReader(MODELS['internvl'][1])
    writer = gguf.GGUFWriter(path, 'qwen2')
    for name, field in reader.fields.items():
        if name.startswith('GGUF.') or name == 'general.architecture':
            continue
        part = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        value = changes.get(name, field.contents())
        writer.add_key_value(name, value, field.types[0], part)
    for tensor in reader.tensors:
        data = tensor.data * np.float32(np.nan) if tensor.name == spoilt else tensor.data
        writer.add_tensor(tensor.name, data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_f32(path: Path, family: str) -> Path:
    """Write a built-in decoder in f32.

    With f16 or Q8_0 weights llama.cpp's own logits move by up to a hundredth of their deviation
    when a batch has another shape, which would hide that two ways give the same.
    """
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = llama_cpp.LLAMA_FTYPE_ALL_F32
    source = os.fsencode(MODELS[family][1])
    assert llama_cpp.llama_model_quantize(source, os.fsencode(path), params) == 0
    return path
