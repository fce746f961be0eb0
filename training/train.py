"""Train a nano model from nothing: `python -m training.train --model internvl --out config`.

Draws the pictures once, trains on the CPU, writes the ONNX encoder and the GGUF decoder. An
interrupted run goes on from its last checkpoint when the same command is given again.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from training import command, world
from training.checkpoint import Checkpoint
from training.dialogues import (
    IMAGE_TOKENS,
    Batch,
    collate,
    image_dialogue,
    random_system,
    text_dialogue,
)
from training.export import export
from training.model import DecoderConfig, NanoVLM
from training.pictures import Pictures, encode_scene, load_pictures, pad_rgb, shape_cells
from training.tokenizer import Tokenizer

VALIDATION_SEED = 77


@dataclass(frozen=True)
class Optimization:
    """How parameters are trained, whichever and from what."""

    steps: int
    rate: float
    batch: int = 32
    warmup: int = 100
    last_rate: float = 0.02
    decay: float = 0.05
    clip: float = 1.0
    guide_weight: float = 0.2

    def rate_at(self, step: int) -> float:
        """Return the learning rate: linear warm-up, then a cosine to a fiftieth."""
        if step < self.warmup:
            return self.rate * (step + 1) / self.warmup
        way = (step - self.warmup) / max(1, self.steps - self.warmup)
        share = self.last_rate + (1 - self.last_rate) * 0.5 * (1 + math.cos(math.pi * way))
        return self.rate * share

    def optimizer(self, model: nn.Module) -> torch.optim.AdamW:
        """Return an AdamW in which only matrices decay."""
        matrices = [p for p in model.parameters() if p.ndim >= 2]
        vectors = [p for p in model.parameters() if p.ndim < 2]
        return torch.optim.AdamW(
            [
                {'params': matrices, 'weight_decay': self.decay},
                {'params': vectors, 'weight_decay': 0.0},
            ],
            lr=self.rate,
            betas=(0.9, 0.98),
            fused=True,
        )


@dataclass(frozen=True)
class Recipe(Optimization):
    """The training's numbers."""

    steps: int = 3000
    rate: float = 2e-3
    cell_weights: tuple[float, float] = (0.5, 0.1)
    text_share: float = 0.12
    seed: int = 1


class PixelValues:
    """Turns cached uint8 RGB pictures into normalised pixel values."""

    def __init__(self, family: str) -> None:
        mean, std = (
            torch.tensor(values).view(1, 3, 1, 1)
            for values in (command.MODELS[family].mean, command.MODELS[family].std)
        )
        self._scale, self._shift = 1 / (255 * std), -mean / std

    def __call__(self, rgb: np.ndarray) -> Tensor:
        pixels = torch.from_numpy(np.ascontiguousarray(rgb)).permute(0, 3, 1, 2).float()
        return pixels * self._scale + self._shift


def draw_batch(
    step: int,
    recipe: Recipe,
    tokenizer: Tokenizer,
    pictures: Pictures,
) -> Batch:
    """Draw the dialogues of one step; which ones depends on the step and the seed only.

    Pictures are taken in their order on the disk: they are random already.
    """
    rng = np.random.default_rng((recipe.seed, step))
    draw = rng.random()
    # Most have three turns about one picture; some are long, some show a second picture.
    long, second = draw < 0.1, 0.1 <= draw < 0.15
    size = recipe.batch // 2 if long else recipe.batch
    cursor, dialogues = step * recipe.batch, []
    for row in range(size):
        system = random_system(rng, long)
        if rng.random() < recipe.text_share:
            dialogues.append((system, text_dialogue(rng, 3)))
            continue
        indices = [(cursor + row) % len(pictures)]
        if second:
            indices.append((indices[0] + size) % len(pictures))
        scenes = [(index, pictures.scene(index)) for index in indices]
        turns = int(rng.integers(5, 9)) if long else 2 if second else 3
        dialogues.append((system, image_dialogue(rng, scenes, turns)))
    return collate(dialogues, tokenizer, pictures)


class CellLoss:
    """Each image token that shows a shape should resemble the words for its kind and colour."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        def words(
            table: dict[str, dict[str, str]], names: tuple[str, ...], language: str
        ) -> Tensor:
            lead = ' ' if language == 'en' else ''
            return torch.tensor([tokenizer.word(lead + table[language][n]) for n in names])

        self._tables = [
            (column, words(table, names, language))
            for column, table, names in (
                (0, world.KIND_WORDS, world.KINDS),
                (1, world.COLOR_WORDS, world.COLORS),
            )
            for language in world.LANGUAGES
        ]

    def __call__(
        self,
        image_embeds: Tensor,
        embedding: Tensor,
        codes: np.ndarray,
        cells: np.ndarray,
    ) -> Tensor:
        single = cells & (cells.sum(1, keepdims=True) == 1)
        image, shape, cell = np.nonzero(single)
        shown = image_embeds[image, cell].float()
        loss = shown.new_zeros(())
        for column, ids in self._tables:
            target = torch.from_numpy(codes[image, shape, column].astype(np.int64))
            loss = loss + F.cross_entropy(8.0 * shown @ embedding[ids].T, target)
        return loss / len(self._tables)


def answer_hits(batch: Batch, right: Tensor) -> Iterator[tuple[str, bool]]:
    """Yield for each answer its question's type and whether every token was right."""
    for row, start, stop, type_ in batch.answers:
        yield type_, bool(right[row, start:stop].all())


def forward(
    model: NanoVLM,
    batch: Batch,
    embeds: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the answers' weighted loss, which tokens are right, and the guides' loss.

    That of the claims counts double.
    """
    hidden, masses, states = model.hidden(batch.tokens, batch.is_image, embeds, batch.guides)
    guided = sum(g.loss(mass) for g, mass in zip(batch.guides, masses, strict=True))
    guided += 2 * batch.claims.loss(model, states)
    asked = batch.weights > 0
    logits = model.logits(hidden[asked]).float()
    following = F.pad(batch.tokens[:, 1:], (0, 1))[asked]
    each = F.cross_entropy(logits, following, reduction='none')
    weights = batch.weights[asked]
    right = torch.zeros_like(asked)
    right[asked] = logits.argmax(-1) == following
    return (each * weights).sum() / weights.sum(), right, torch.as_tensor(guided)


class HeldOut:
    """Pictures of scenes that training never sees, drawn anew; looks like `Pictures`.

    Args:
        empty: share of drawn scenes without a shape, all of which are taken.
    """

    def __init__(self, count: int, seed: int, empty: float = 0.0) -> None:
        rng = np.random.default_rng(seed)
        drawn = []
        while len(drawn) < count:
            scene = world.random_scene(rng, empty)
            if scene.held_out or not scene.shapes:
                drawn.append(world.draw(scene, rng))
        self.scenes = [picture.scene for picture in drawn]
        self.rgb = np.stack([pad_rgb(picture.bgr) for picture in drawn])
        self.codes = np.stack([encode_scene(picture.scene) for picture in drawn])
        self.cells = np.stack([shape_cells(picture) for picture in drawn])

    def scene(self, index: int) -> world.Scene:
        """Return the scene of one picture."""
        return self.scenes[index]


@torch.no_grad()
def validate(
    model: NanoVLM,
    tokenizer: Tokenizer,
    held_out: HeldOut,
    embed: Callable[[list[int]], Tensor],
    seed: int,
    closed: float = 0.0,
) -> dict[str, float]:
    """Return the share of exactly right answers (each token predicted) by question type.

    Args:
        embed: returns the embeddings of some of the pictures.
        closed: share of closed questions.
    """
    model.eval()
    hits: dict[str, list[bool]] = defaultdict(list)
    rng = np.random.default_rng(seed)
    for start in range(0, len(held_out.scenes), 64):
        dialogues = [
            (random_system(rng), image_dialogue(rng, [(i, held_out.scenes[i])], 3, closed))
            for i in range(start, min(start + 64, len(held_out.scenes)))
        ]
        dialogues += [(random_system(rng), text_dialogue(rng, 3)) for _ in range(8)]
        batch = collate(dialogues, tokenizer, held_out)
        _, right, _ = forward(model, batch, embed(batch.images))
        for type_, hit in answer_hits(batch, right):
            hits[type_].append(hit)
    model.train()
    return {type_: float(np.mean(values)) for type_, values in sorted(hits.items())}


def print_shares(shares: dict[str, float]) -> None:
    """Print what `validate` returns."""
    text = '  '.join(f'{type_} {share:.1%}' for type_, share in shares.items())
    print(f'  unseen scenes: {text}', flush=True)


class Step(NamedTuple):
    """What one step found: its dialogues, what `forward` returns, and the loss to be lowered."""

    batch: Batch
    loss: Tensor
    right: Tensor
    guided: Tensor
    total: Tensor


def optimize(
    model: nn.Module,
    recipe: Optimization,
    path: Path,
    compute: Callable[[int], Step],
    check: Callable[[], dict[str, float]],
    check_every: int,
) -> None:
    """Train all parameters of a model, from the last checkpoint if there is one.

    Args:
        path: of the checkpoint.
        compute: runs a step of that number forward.
        check: returns what `validate` does.
    """
    optimizer = recipe.optimizer(model)
    checkpoint = Checkpoint(path, recipe, model, [optimizer])
    first = checkpoint.done
    begun, losses, hits = time.monotonic(), [], []
    for number in range(first, recipe.steps):
        for group in optimizer.param_groups:
            group['lr'] = recipe.rate_at(number)
        with torch.autocast('cpu', torch.bfloat16):
            step = compute(number)
        optimizer.zero_grad(set_to_none=True)
        step.total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
        optimizer.step()

        losses.append(float(step.loss.detach()))
        hits += [hit for type_, hit in answer_hits(step.batch, step.right) if type_ != 'text']
        done = number + 1
        if done % 50 == 0:
            left = (time.monotonic() - begun) / (done - first) * (recipe.steps - done)
            print(
                f'step {done}/{recipe.steps}  loss {np.mean(losses):.4f}  '
                f'guide {float(step.guided.detach()):.3f}  exact {np.mean(hits):6.1%}  '
                f'{left / 60:.1f} min left',
                flush=True,
            )
            losses, hits = [], []
        if done % 200 == 0 or done == recipe.steps:
            checkpoint.save(done)
        if done % check_every == 0 or done == recipe.steps:
            print_shares(check())


def train(family: str, recipe: Recipe, cache: Path, pictures: Pictures) -> NanoVLM:
    """Train a model, from its last checkpoint if there is one."""
    tokenizer = Tokenizer(family)
    torch.manual_seed(recipe.seed)
    model = NanoVLM(DecoderConfig(len(tokenizer), attention_bias=family == 'internvl'))
    model.encoder.to(memory_format=torch.channels_last)
    to_pixels, cell_loss = PixelValues(family), CellLoss(tokenizer)
    held_out = HeldOut(192, VALIDATION_SEED)

    def embed_unseen(images: list[int]) -> Tensor:
        return model.encoder(to_pixels(held_out.rgb[images]))

    def compute(step: int) -> Step:
        batch = draw_batch(step, recipe, tokenizer, pictures)
        embeds = (
            model.encoder(to_pixels(pictures.rgb[batch.images]))
            if len(batch.images)
            else torch.zeros(0, IMAGE_TOKENS, model.decoder.config.width)
        )
        loss, right, guided = forward(model, batch, embeds)
        total = loss + recipe.guide_weight * guided
        if batch.images:
            high, low = recipe.cell_weights
            cell_weight = high + (low - high) * min(1.0, 2 * step / recipe.steps)
            total = total + cell_weight * cell_loss(
                embeds,
                model.decoder.embedding.weight,
                pictures.codes[batch.images],
                pictures.cells[batch.images],
            )
        return Step(batch, loss, right, guided, total)

    def check() -> dict[str, float]:
        return validate(model, tokenizer, held_out, embed_unseen, VALIDATION_SEED)

    optimize(model, recipe, cache / f'{family}_train.pt', compute, check, check_every=400)
    return model.eval()


def main() -> None:
    """Train one family and export it."""
    parser = command.parser(__doc__, pictures=60_000, steps=Recipe.steps)
    parser.add_argument('--model', choices=command.MODELS, required=True)
    args = parser.parse_args()
    command.start(args)
    recipe = Recipe(steps=args.steps)
    begun = time.monotonic()
    pictures = load_pictures(args.cache, args.pictures, recipe.seed, args.threads)
    model = train(args.model, recipe, args.cache, pictures)
    for path in export(model, Tokenizer(args.model), args.out):
        print(f'wrote {path} ({path.stat().st_size / 1e6:.2f} MB)')
    print(
        f'{(time.monotonic() - begun) / 60:.1f} minutes in all; now measure it: '
        f'python -m training.evaluate --model {args.model}'
    )


if __name__ == '__main__':
    main()
