"""GGUF files made from the built-in ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
from nano import MODELS

__all__ = ['edited', 'with_template']


def with_template(path: Path, template: str) -> Path:
    """Write the built-in InternVL decoder with another chat template."""
    return edited(path, {'tokenizer.chat_template': template})


def edited(path: Path, changes: Mapping[str, Any]) -> Path:
    """Write the built-in InternVL decoder with some metadata changed."""
    reader = gguf.GGUFReader(MODELS['internvl'][1])
    writer = gguf.GGUFWriter(path, 'qwen2')
    for name, field in reader.fields.items():
        if name.startswith('GGUF.') or name == 'general.architecture':
            continue
        part = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        value = changes.get(name, field.contents())
        writer.add_key_value(name, value, field.types[0], part)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
