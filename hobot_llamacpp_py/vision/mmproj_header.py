"""What an mmproj file's header has to say before libmtmd may load it."""

from __future__ import annotations

from pathlib import Path

from hobot_llamacpp_py.errors import ModelFileError
from hobot_llamacpp_py.families import FAMILIES, ModelFamily
from hobot_llamacpp_py.gguf_header import GgufHeader

__all__ = ['mmproj_sizes']

_POSITIONS = 'v.position_embd.weight'


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
    n_axes = {wanted.matrix: 2, _POSITIONS: 2, 'v.patch_embd.weight': 4}
    if n_classes:
        n_axes['v.class_embd'] = 1
    for tensor, least in n_axes.items():
        if len(shapes.get(tensor, ())) < least:
            raise ModelFileError(f'{path} has no tensor {tensor} to use; convert the model again')
    n_embd, n_positions = shapes[wanted.matrix][1], shapes[_POSITIONS][1] - n_classes
    keys = ('image_size', 'patch_size', 'projector.scale_factor')
    size, patch, merge = (header.integer(f'clip.vision.{key}') for key in keys)
    if (
        min(size, patch, merge) < 1
        or size % (patch * merge)
        or n_positions != (size // patch) ** 2
    ):
        raise ModelFileError(
            f'{path}: an input of {size} pixels in patches of {patch}, of which {merge}x{merge}'
            f' are merged, does not fit {n_positions} positions; convert the model again'
        )
    return size, (size // patch // merge) ** 2, n_embd
