"""GGUF files made from the built-in ones."""

from __future__ import annotations

from pathlib import Path

import gguf
from nano import MODELS

__all__ = ['with_template']


def with_template(path: Path, template: str) -> Path:
    """Write the built-in InternVL decoder with another chat template."""
    reader = gguf.GGUFReader(MODELS['internvl'][1])
    writer = gguf.GGUFWriter(path, 'qwen2')
    for name, field in reader.fields.items():
        if name.startswith('GGUF.') or name in ('general.architecture', 'tokenizer.chat_template'):
            continue
        part = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), field.types[0], part)
    writer.add_chat_template(template)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
