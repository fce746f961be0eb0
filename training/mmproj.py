"""mmproj files with the metadata and the tensor names of llama.cpp's converter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import gguf
import gguf.quants
import numpy as np
import numpy.typing as npt

from hobot_llamacpp_py.families import FAMILIES

__all__ = ['VitSizes', 'write_mmproj']

_FILE_TYPES = {
    gguf.GGMLQuantizationType.F32: gguf.LlamaFileType.ALL_F32,
    gguf.GGMLQuantizationType.F16: gguf.LlamaFileType.MOSTLY_F16,
    gguf.GGMLQuantizationType.Q8_0: gguf.LlamaFileType.MOSTLY_Q8_0,
}


@dataclass(frozen=True)
class VitSizes:
    """Sizes of a ViT with its projector; `merge` x `merge` patches become one image token."""

    image: int
    patch: int
    merge: int
    width: int
    layers: int
    heads: int
    feed_forward: int
    projection: int
    norm_eps: float = 1e-6


def write_mmproj(
    path: Path,
    projector: str,
    sizes: VitSizes,
    tensors: Mapping[str, npt.NDArray[np.float32]],
    *,
    longest_edge: int | None = None,
    matrices: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F16,
) -> None:
    """Write a vision encoder.

    Args:
        path: the file to write.
        projector: `internvl` or `idefics3` (SmolVLM2's).
        sizes: go into the metadata, and must be those of the tensors.
        tensors: by their names in the file.
        longest_edge: idefics3: what libmtmd enlarges a picture to before it tiles it.
        matrices: their type, but for the patch embedding (f16 or f32) and the position embedding
            (f32); what is no matrix is f32.
    """
    writer = gguf.GGUFWriter(path, 'clip')
    writer.add_type(gguf.GGUFType.MMPROJ)
    writer.add_name(path.stem)
    writer.add_file_type(_FILE_TYPES[matrices])
    writer.add_clip_has_vision_encoder(True)
    writer.add_vision_projection_dim(sizes.projection)
    writer.add_vision_image_size(sizes.image)
    writer.add_vision_patch_size(sizes.patch)
    writer.add_vision_embedding_length(sizes.width)
    writer.add_vision_feed_forward_length(sizes.feed_forward)
    writer.add_vision_block_count(sizes.layers)
    writer.add_vision_head_count(sizes.heads)
    family = next(f for f in FAMILIES.values() if f.projector.name == projector)
    writer.add_vision_image_mean(family.mean)
    writer.add_vision_image_std(family.std)
    writer.add_clip_projector_type(projector)
    writer.add_vision_attention_layernorm_eps(sizes.norm_eps)
    writer.add_vision_projector_scale_factor(sizes.merge)
    writer.add_vision_use_gelu(True)
    if longest_edge is not None:
        writer.add_vision_preproc_image_size(longest_edge)
    for name, value in tensors.items():
        kind = gguf.GGMLQuantizationType.F32
        is_matrix = value.ndim == 2 and name != 'v.position_embd.weight'
        if is_matrix or (value.ndim == 4 and matrices == gguf.GGMLQuantizationType.F16):
            kind = matrices
        writer.add_tensor(name, gguf.quants.quantize(value, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
