"""Refine the ViT by answers: `python -m training.refine --out config`.

It goes on from the mmproj file that `training.distill` wrote. The decoder stays as it is, but
answers questions while the ViT learns: what an error of the image embeddings does to an answer
counts, and not its size alone. An interrupted run goes on from its last checkpoint.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

import gguf
import numpy as np
from torch import Tensor

from training import command, teach
from training.average import Parameters, mean
from training.checkpoint import Checkpoint
from training.distill import FAMILY, SIZES, Recipe, Siglip, Teacher, export_mmproj, load_mmproj
from training.export import load_decoder
from training.model import DecoderConfig, NanoVLM
from training.pictures import Pictures, load_pictures
from training.tokenizer import Tokenizer
from training.train import HeldOut, PixelValues, answer_hits, forward, print_shares, validate

VALIDATION_SEED = 80


@dataclass(frozen=True)
class Refinement(Recipe):
    """The training's numbers."""

    warmup: int = 30
    distilled: float = 1.0  # weight of the distance to the embeddings of the nano model's encoder
    closed_share: float = 0.5  # of the dialogues about a picture
    numbers: float = 0.5  # share of the closed questions
    seed: int = 5
    skipped: int = 0  # steps, with their pictures

    @property
    def dialogues(self) -> teach.Recipe:
        """Which dialogues there are."""
        return teach.Recipe(
            batch=self.batch,
            text_share=0.0,
            closed_share=self.closed_share,
            numbers=self.numbers,
            seed=self.seed,
        )


# Both from the distilled ViT on. Their mean knows scenes that it never saw better than either.
RUNS = (
    Refinement(steps=250, rate=8e-5, matrix_rate=0.0015, warmup=20, closed_share=0.8, numbers=0.6),
    Refinement(steps=400, rate=1.5e-4, matrix_rate=0.003),
)
# From that mean on; what is exported is the mean of both once more.
LAST_RUN = Refinement(
    steps=450,
    rate=8e-5,
    matrix_rate=0.0015,
    warmup=20,
    closed_share=0.7,
    numbers=0.6,
    seed=6,
    skipped=400,
)


def refine(
    recipe: Refinement,
    start: Parameters,
    path: Path,
    pictures: Pictures,
    teacher: Teacher,
    decoder: Path,
) -> Parameters:
    """Train the ViT from `start` on, or from the checkpoint if there is one.

    Args:
        path: of the checkpoint.
        decoder: the GGUF file of the model that answers.
    """
    tokenizer = Tokenizer(FAMILY)
    model = NanoVLM(DecoderConfig(len(tokenizer), attention_bias=False)).requires_grad_(False)
    load_decoder(model.decoder, tokenizer, gguf.GGUFReader(decoder))
    vit = Siglip(SIZES)
    vit.load_state_dict(start)
    optimizers = recipe.optimizers(vit)
    to_pixels = PixelValues(FAMILY)
    held_out = HeldOut(256, VALIDATION_SEED)
    spread = teacher(to_pixels(held_out.rgb)).var(dim=(0, 1)).mean()

    def embed_unseen(images: list[int]) -> Tensor:
        return vit(to_pixels(held_out.rgb[images]))

    checkpoint = Checkpoint(path, recipe, vit, optimizers)
    first = checkpoint.done
    begun, losses, hits = time.monotonic(), [], []
    for step in range(first, recipe.steps):
        batch = teach.draw_batch(recipe.skipped + step, recipe.dialogues, tokenizer, pictures)
        pixels = to_pixels(pictures.rgb[batch.images])
        # In float32: where a CPU has no bfloat16, it is emulated, several times slower.
        given = vit(pixels)
        loss, right, _ = forward(model, batch, given)
        distance = (given - teacher(pixels)).square().mean() / spread
        recipe.lower(loss + recipe.distilled * distance, vit, optimizers, step)

        losses.append((float(loss.detach()), float(distance.detach())))
        hits += [hit for _, hit in answer_hits(batch, right)]
        done = step + 1
        if done % 50 == 0:
            left = (time.monotonic() - begun) / (done - first) * (recipe.steps - done)
            answers, unexplained = np.mean(losses, axis=0)
            print(
                f'step {done}/{recipe.steps}  loss {answers:.4f}  unexplained {unexplained:.4f}  '
                f'exact {np.mean(hits):6.1%}  {left / 60:.1f} min left',
                flush=True,
            )
            losses, hits = [], []
        if done % 200 == 0 or done == recipe.steps:
            checkpoint.save(done)
            print_shares(
                validate(model, tokenizer, held_out, embed_unseen, VALIDATION_SEED, closed=0.7)
            )
    return vit.state_dict()


def main() -> None:
    """Refine and export."""
    args = command.parser(__doc__, pictures=30_000, steps=LAST_RUN.steps).parse_args()
    command.start(args)
    pictures = load_pictures(
        args.cache, args.pictures, teach.Recipe.seed, args.threads, teach.EMPTY
    )
    teacher = Teacher(args.out / f'nano_{FAMILY}_vit.onnx', args.threads)

    def run(number: int, recipe: Refinement, start: Parameters) -> Parameters:
        recipe = replace(recipe, steps=min(recipe.steps, args.steps))
        path = args.cache / f'mmproj_refined_{number}.pt'
        decoder = args.out / f'nano_{FAMILY}.gguf'
        return refine(recipe, start, path, pictures, teacher, decoder)

    vit, path = Siglip(SIZES), args.out / f'mmproj-nano_{FAMILY}.gguf'
    load_mmproj(vit, path)
    first = mean([run(number, recipe, vit.state_dict()) for number, recipe in enumerate(RUNS)])
    vit.load_state_dict(mean([first, run(len(RUNS), LAST_RUN, first)]))
    export_mmproj(vit, path)
    print(
        f'wrote {path} ({path.stat().st_size / 1e6:.2f} MB); now measure it:'
        f' python -m training.evaluate --model {FAMILY} --encoder {path} --bar 0.97'
    )


if __name__ == '__main__':
    main()
