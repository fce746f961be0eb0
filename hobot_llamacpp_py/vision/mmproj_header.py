"""What an mmproj file's header has to say before libmtmd may load it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from hobot_llamacpp_py.errors import ModelFileError
from hobot_llamacpp_py.families import FAMILIES, ModelFamily
from hobot_llamacpp_py.gguf_header import (
    BOOL,
    FLOAT32,
    FLOATS,
    STRING,
    UINT32,
    GgufHeader,
)

__all__ = ['mmproj_sizes']

_POSITIONS, _PATCHES = 'v.position_embd.weight', 'v.patch_embd.weight'
_MOST_PIXELS = 8192  # of a picture's longer side, on the way to the overview

_KINDS = {
    'clip.has_vision_encoder': BOOL,
    'clip.projector_type': STRING,
    'clip.use_gelu': BOOL,
    'clip.use_silu': BOOL,
    'clip.vision.attention.head_count': UINT32,
    'clip.vision.attention.layer_norm_epsilon': FLOAT32,
    'clip.vision.block_count': UINT32,
    'clip.vision.embedding_length': UINT32,
    'clip.vision.feed_forward_length': UINT32,
    'clip.vision.image_mean': FLOATS,
    'clip.vision.image_size': UINT32,
    'clip.vision.image_std': FLOATS,
    'clip.vision.patch_size': UINT32,
    'clip.vision.preproc_image_size': UINT32,
    'clip.vision.projection_dim': UINT32,
    'clip.vision.projector.scale_factor': UINT32,
    'clip.vision.projector_type': STRING,
    'general.description': STRING,
    'general.name': STRING,
}
"""What libmtmd asks for, and the kind that it takes for granted."""


def mmproj_sizes(path: Path, family: ModelFamily) -> tuple[int, int, int]:
    """Return input size, image tokens and their width, having checked that the file fits.

    libmtmd itself ends the process over some of what is checked here.

    Raises:
        ModelFileError: it does not, and why.
    """
    header = GgufHeader.read(path)
    metadata, shapes = header.metadata, header.shapes
    architecture = metadata.get('general.architecture')
    if architecture != 'clip':
        raise ModelFileError(
            f'{path} is a GGUF file of architecture {architecture}, not an mmproj file: a text'
            ' decoder is no vision encoder'
        )
    projector = metadata.get('clip.projector_type') or metadata.get('clip.vision.projector_type')
    wanted = family.projector
    if projector != wanted.name:
        known = [other for other in FAMILIES.values() if other.projector.name == projector]
        if not known:
            supported = ', '.join(f'{f.projector.name} ({f.name})' for f in FAMILIES.values())
            raise ModelFileError(
                f'{path} has a projector of type {projector}; supported are {supported}'
            )
        raise ModelFileError(
            f'{path} is a vision encoder of {known[0].name}, not of {family.name}',
            setting='family',
            value=known[0].name,
        )
    n_classes = int(wanted.has_class_token)
    n_axes = {wanted.matrix: 2, _POSITIONS: 2, _PATCHES: 4}
    if n_classes:
        n_axes['v.class_embd'] = 1
    for tensor, least in n_axes.items():
        if len(shapes.get(tensor, ())) < least:
            raise ModelFileError(f'{path} has no tensor {tensor} to use; convert the model again')
    n_embd, n_positions = shapes[wanted.matrix][1], shapes[_POSITIONS][1] - n_classes
    keys = ('image_size', 'patch_size', 'projector.scale_factor')
    size, patch, merge = (header.integer(f'clip.vision.{key}') for key in keys)
    if (
        min(size, patch, merge - 1) < 1
        or size % (patch * merge)
        or n_positions != (size // patch) ** 2
    ):
        raise ModelFileError(
            f'{path}: an input of {size} pixels in patches of {patch}, of which {merge}x{merge}'
            f' are merged, does not fit {n_positions} positions; convert the model again'
        )
    for what, is_right in _checks(header, size):
        if not is_right:
            raise ModelFileError(f'{path} is damaged: {what}; download it again')
    return size, (size // patch // merge) ** 2, n_embd


def _checks(header: GgufHeader, size: int) -> Iterator[tuple[str, bool]]:
    """Give what libmtmd does not check itself, and whether it is right."""
    metadata, shapes = header.metadata, header.shapes
    for key, kind in header.kinds.items():
        yield f'{key} is of another type', _KINDS.get(key, kind) == kind
    width, heads = shapes[_PATCHES][3], header.integer('clip.vision.attention.head_count')
    yield 'heads and width do not fit', heads > 0 and width % heads == 0
    key = 'clip.vision.embedding_length'
    yield f"{key} is not the tensors'", header.integer(key) == width
    epsilon = metadata.get('clip.vision.attention.layer_norm_epsilon')
    yield 'layer_norm_epsilon', isinstance(epsilon, float) and 0 <= epsilon < 1
    for key in ('clip.vision.image_mean', 'clip.vision.image_std'):
        values = metadata.get(key)
        yield key, isinstance(values, list) and len(values) == 3
    longest = header.integer('clip.vision.preproc_image_size') or size
    yield 'preproc_image_size', size <= longest <= _MOST_PIXELS
    for block in range(min(header.integer('clip.vision.block_count'), len(shapes))):
        for part in 'qkv':
            name = f'v.blk.{block}.attn_{part}.weight'
            yield f'no tensor {name}', shapes.get(name, ())[:1] == (width,)
