"""Train a small ViT for llama.cpp's mmproj format: `python -m training.distill --out config`.

A transformer of the structure of SmolVLM2's vision tower learns to give the image embeddings of
the nano model's convolutional encoder, so that the nano decoder understands it as it is. An
interrupted run goes on from its last checkpoint when the same command is given again.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
import onnxruntime as ort
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from training import command
from training.checkpoint import Checkpoint
from training.mmproj import VitSizes, write_mmproj
from training.pictures import INPUT, Pictures, load_pictures
from training.train import HeldOut, PixelValues

__all__ = ['Siglip']

FAMILY = 'smolvlm'
VALIDATION_SEED = 78
# 16x16 patches, 8x8 image tokens: as many as the decoder knows, each in its place.
SIZES = VitSizes(
    image=INPUT,
    patch=14,
    merge=2,
    width=128,
    layers=4,
    heads=4,
    feed_forward=256,
    projection=128,
)


@dataclass(frozen=True)
class Recipe:
    """The training's numbers."""

    steps: int = 2400
    batch: int = 16
    rate: float = 1e-3
    matrix_rate: float = 0.02
    warmup: int = 100
    decay: float = 0.01
    seed: int = 1

    def share_at(self, step: int) -> float:
        """Return the share of the learning rates: linear warm-up, then a cosine to nearly 0."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        way = (step - self.warmup) / max(1, self.steps - self.warmup)
        return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * way))

    def optimizers(self, model: nn.Module) -> list[torch.optim.Optimizer]:
        """Return Muon for the matrices of the layers and AdamW for all else."""
        matrices, others = [], []
        for name, parameter in model.named_parameters():
            is_matrix = name.startswith('layers.') and parameter.ndim == 2
            (matrices if is_matrix else others).append(parameter)
        decay = self.decay
        return [
            torch.optim.Muon(matrices, lr=self.matrix_rate, weight_decay=decay),
            torch.optim.AdamW(others, lr=self.rate, betas=(0.9, 0.98), weight_decay=decay),
        ]

    def lower(
        self, loss: Tensor, model: nn.Module, optimizers: list[torch.optim.Optimizer], step: int
    ) -> None:
        """Lower the loss by a step of what `optimizers` returned."""
        for optimizer, rate in zip(optimizers, (self.matrix_rate, self.rate), strict=True):
            for group in optimizer.param_groups:
                group['lr'] = rate * self.share_at(step)
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()


class _Layer(nn.Module):
    def __init__(self, sizes: VitSizes) -> None:
        super().__init__()
        self.heads, width = sizes.heads, sizes.width
        self.ln1 = nn.LayerNorm(width, sizes.norm_eps)
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))
        self.ln2 = nn.LayerNorm(width, sizes.norm_eps)
        self.up = nn.Linear(width, sizes.feed_forward)
        self.down = nn.Linear(sizes.feed_forward, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.ln1(x)
        q, k, v = (
            part(y).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for part in (self.q, self.k, self.v)
        )
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + self.out(y)
        # llama.cpp's GELU is the one by tanh, as SigLIP's is.
        return x + self.down(F.gelu(self.up(self.ln2(x)), approximate='tanh'))


class Siglip(nn.Module):
    """pixel_values [n, 3, image, image] -> image_embeds [n, tokens, projection], row by row."""

    def __init__(self, sizes: VitSizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.side = sizes.image // sizes.patch
        self.patches = nn.Linear(3 * sizes.patch**2, sizes.width)
        self.position = nn.Parameter(torch.randn(self.side**2, sizes.width) * 0.02)
        self.layers = nn.ModuleList(_Layer(sizes) for _ in range(sizes.layers))
        self.post_ln = nn.LayerNorm(sizes.width, sizes.norm_eps)
        self.projector = nn.Linear(sizes.width * sizes.merge**2, sizes.projection, bias=False)

    def forward(self, pixel_values: Tensor) -> Tensor:
        patch, merge, side = self.sizes.patch, self.sizes.merge, self.side
        # A convolution whose stride is its kernel: a matrix product, which is faster on a CPU.
        x = pixel_values.unflatten(3, (side, patch)).unflatten(2, (side, patch))
        x = self.patches(x.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)) + self.position
        for layer in self.layers:
            x = layer(x)
        x = self.post_ln(x).unflatten(1, (side // merge, merge, side // merge, merge))
        return self.projector(x.transpose(2, 3).flatten(3).flatten(1, 2))


def _mmproj_name(key: str) -> str:
    name, *rest = key.split('.')
    if name == 'layers':
        layer, part, kind = rest
        parts = {'up': 'ffn_up', 'down': 'ffn_down', 'ln1': 'ln1', 'ln2': 'ln2'}
        return f'v.blk.{layer}.{parts.get(part, f"attn_{part}")}.{kind}'
    names = {
        'patches': 'v.patch_embd',
        'position': 'v.position_embd.weight',
        'post_ln': 'v.post_ln',
        'projector': 'mm.model.fc',
    }
    return '.'.join((names[name], *rest))


def load_mmproj(model: Siglip, path: Path) -> None:
    """Read a ViT that `export_mmproj` wrote."""
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    model.load_state_dict(
        {
            key: torch.from_numpy(tensors[_mmproj_name(key)].data.astype(np.float32)).reshape(
                value.shape
            )
            for key, value in model.state_dict().items()
        }
    )


def export_mmproj(model: Siglip, path: Path) -> None:
    """Write the ViT as an mmproj file, whole or not at all."""
    sizes = model.sizes
    tensors = {_mmproj_name(key): value.numpy() for key, value in model.state_dict().items()}
    kernel = (sizes.width, 3, sizes.patch, sizes.patch)
    tensors['v.patch_embd.weight'] = tensors['v.patch_embd.weight'].reshape(kernel)
    temporary = path.with_name('.part-' + path.name)
    write_mmproj(temporary, 'idefics3', sizes, tensors, longest_edge=sizes.image)
    temporary.replace(path)


class Teacher:
    """The nano model's own encoder, by its ONNX file."""

    def __init__(self, path: Path, threads: int) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = ort.InferenceSession(str(path), options)

    def __call__(self, pixels: Tensor) -> Tensor:
        run = self._session.run
        return torch.from_numpy(
            np.concatenate([run(None, {'pixel_values': one[None]})[0] for one in pixels.numpy()])
        )


def turned(rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Mirror each picture about some of its axes at random: eight pictures of every one."""
    way = rng.integers(8, size=len(rgb))
    pictures = []
    for picture, code in zip(rgb, way, strict=True):
        picture = picture[::-1] if code & 1 else picture
        picture = picture[:, ::-1] if code & 2 else picture
        pictures.append(picture.transpose(1, 0, 2) if code & 4 else picture)
    return np.stack(pictures)


def distill(recipe: Recipe, cache: Path, pictures: Pictures, teacher: Teacher) -> Siglip:
    """Train the ViT, from its last checkpoint if there is one."""
    torch.manual_seed(recipe.seed)
    model = Siglip(SIZES)
    optimizers = recipe.optimizers(model)
    to_pixels = PixelValues(FAMILY)
    unseen = to_pixels(HeldOut(128, VALIDATION_SEED).rgb)
    targets = teacher(unseen)
    spread = targets.var(dim=(0, 1)).mean()

    checkpoint = Checkpoint(cache / 'mmproj.pt', recipe, model, optimizers)
    first = checkpoint.done
    begun, losses = time.monotonic(), []
    for step in range(first, recipe.steps):
        indices = (np.arange(recipe.batch) + step * recipe.batch) % len(pictures)
        rng = np.random.default_rng((recipe.seed, step))
        pixels = to_pixels(turned(pictures.rgb[indices], rng))
        wanted = teacher(pixels)
        with torch.autocast('cpu', torch.bfloat16):
            given = model(pixels)
        loss = (given.float() - wanted).square().mean() / spread
        recipe.lower(loss, model, optimizers, step)
        losses.append(float(loss.detach()))
        done = step + 1
        if done % 100 == 0 or done == recipe.steps:
            with torch.no_grad():
                missed = (model(unseen) - targets).square().mean() / spread
            left = (time.monotonic() - begun) / (done - first) * (recipe.steps - done)
            print(
                f'step {done}/{recipe.steps}  unexplained {np.mean(losses):.4f}'
                f'  unseen {float(missed):.4f}  {left / 60:.1f} min left',
                flush=True,
            )
            losses = []
            checkpoint.save(done)
    return model.eval()


def main() -> None:
    """Train and export."""
    args = command.parser(__doc__, pictures=24_000, steps=Recipe.steps).parse_args()
    command.start(args)
    recipe = Recipe(steps=args.steps)
    pictures = load_pictures(args.cache, args.pictures, recipe.seed, args.threads)
    teacher = Teacher(args.out / f'nano_{FAMILY}_vit.onnx', args.threads)
    model = distill(recipe, args.cache, pictures, teacher)
    path = args.out / f'mmproj-nano_{FAMILY}.gguf'
    export_mmproj(model, path)
    print(
        f'wrote {path} ({path.stat().st_size / 1e6:.2f} MB); now measure it:'
        f' python -m training.evaluate --model {FAMILY} --encoder {path}'
    )


if __name__ == '__main__':
    main()
