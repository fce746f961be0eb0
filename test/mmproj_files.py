"""Random mmproj files of the true structure, and what their ViTs compute, written in numpy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType

from hobot_llamacpp_py.families import FAMILIES
from training.mmproj import VitSizes, write_mmproj

Array = npt.NDArray[np.float32]

# 36 patches, 9 image tokens as wide as those of the built-in models.
SIZES = VitSizes(
    image=84, patch=14, merge=2, width=32, layers=2, heads=4, feed_forward=96, projection=128
)
PROJECTORS = {family.projector.name: family for family in FAMILIES.values()}
"""The family of each."""


def random_tensors(projector: str, sizes: VitSizes = SIZES, seed: int = 0) -> dict[str, Array]:
    """Return the tensors of a ViT: SigLIP as in SmolVLM2, or InternViT as in InternVL."""
    rng = np.random.default_rng(seed)
    width, n_patches = sizes.width, (sizes.image // sizes.patch) ** 2
    merged = width * sizes.merge**2
    internvl = projector == 'internvl'
    tensors: dict[str, Array] = {}

    def linear(name: str, outputs: int, inputs: int, bias: bool = True) -> None:
        tensors[f'{name}.weight'] = rng.normal(0, inputs**-0.5, (outputs, inputs))
        if bias:
            tensors[f'{name}.bias'] = rng.normal(0, 0.1, outputs)

    def norm(name: str, size: int) -> None:
        tensors[f'{name}.weight'] = rng.normal(1, 0.1, size)
        tensors[f'{name}.bias'] = rng.normal(0, 0.1, size)

    patch = (width, 3, sizes.patch, sizes.patch)
    tensors['v.patch_embd.weight'] = rng.normal(0, (3 * sizes.patch**2) ** -0.5, patch)
    tensors['v.patch_embd.bias'] = rng.normal(0, 0.1, width)
    tensors['v.position_embd.weight'] = rng.normal(0, 0.5, (n_patches + internvl, width))
    if internvl:
        tensors['v.class_embd'] = rng.normal(0, 0.5, width)
    for layer in range(sizes.layers):
        block = f'v.blk.{layer}'
        for name in ('attn_q', 'attn_k', 'attn_v', 'attn_out'):
            linear(f'{block}.{name}', width, width)
        norm(f'{block}.ln1', width)
        norm(f'{block}.ln2', width)
        linear(f'{block}.ffn_up', sizes.feed_forward, width)
        linear(f'{block}.ffn_down', width, sizes.feed_forward)
        if internvl:
            for name in ('ls1', 'ls2'):
                tensors[f'{block}.{name}.weight'] = rng.normal(0.5, 0.1, width)
    if internvl:
        norm('mm.model.mlp.0', merged)
        linear('mm.model.mlp.1', sizes.projection, merged)
        linear('mm.model.mlp.3', sizes.projection, sizes.projection)
    else:
        norm('v.post_ln', width)
        linear('mm.model.fc', sizes.projection, merged, bias=False)
    return {name: value.astype(np.float32) for name, value in tensors.items()}


def write_random(
    path: Path,
    projector: str,
    longest_edge: int | None = None,
    matrices: GGMLQuantizationType = GGMLQuantizationType.F16,
) -> dict[str, Array]:
    """Write a random mmproj file and return its tensors."""
    tensors = random_tensors(projector)
    write_mmproj(path, projector, SIZES, tensors, longest_edge=longest_edge, matrices=matrices)
    return tensors


def reference(tensors: dict[str, Array], pixels: Array, sizes: VitSizes = SIZES) -> Array:
    """Return the embeddings [n_tokens, projection] of pixel values [3, image, image]."""

    def linear(x: Array, name: str) -> Array:
        return x @ tensors[f'{name}.weight'].T + tensors.get(f'{name}.bias', np.float32(0))

    def norm(x: Array, name: str, eps: float = sizes.norm_eps) -> Array:
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps)
        return x * tensors[f'{name}.weight'] + tensors[f'{name}.bias']

    def gelu(x: Array) -> Array:
        return 0.5 * x * (1 + np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3)))

    def heads(x: Array) -> Array:
        return x.reshape(len(x), sizes.heads, -1).swapaxes(0, 1)

    side, merge, width = sizes.image // sizes.patch, sizes.merge, sizes.width
    patches = pixels.reshape(3, side, sizes.patch, side, sizes.patch).transpose(1, 3, 0, 2, 4)
    kernel = tensors['v.patch_embd.weight'].reshape(width, -1)
    x = patches.reshape(side * side, -1) @ kernel.T + tensors['v.patch_embd.bias']
    internvl = 'v.class_embd' in tensors
    if internvl:  # llama.cpp puts the class token behind the patches
        x = np.concatenate((x, tensors['v.class_embd'][None]))
    x = x + tensors['v.position_embd.weight']
    for layer in range(sizes.layers):
        block = f'v.blk.{layer}'
        y = norm(x, f'{block}.ln1')
        q, k, v = (heads(linear(y, f'{block}.attn_{part}')) for part in 'qkv')
        scores = q @ k.swapaxes(1, 2) / np.sqrt(q.shape[-1])
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        y = weights / weights.sum(-1, keepdims=True) @ v
        y = linear(y.swapaxes(0, 1).reshape(len(x), -1), f'{block}.attn_out')
        x = x + y * tensors.get(f'{block}.ls1.weight', np.float32(1))
        y = linear(gelu(linear(norm(x, f'{block}.ln2'), f'{block}.ffn_up')), f'{block}.ffn_down')
        x = x + y * tensors.get(f'{block}.ls2.weight', np.float32(1))
    x = x[: side * side] if internvl else norm(x, 'v.post_ln')
    x = x.reshape(side // merge, merge, side // merge, merge, width).swapaxes(1, 2)
    x = x.reshape(-1, merge * merge * width)
    if internvl:
        x = gelu(linear(norm(x, 'mm.model.mlp.0', 1e-5), 'mm.model.mlp.1'))
        return linear(x, 'mm.model.mlp.3')
    return linear(x, 'mm.model.fc')
