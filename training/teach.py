"""Teach a nano model closed questions: `python -m training.teach --model internvl --out config`.

Only the decoder learns, from the GGUF file on that `training.train` wrote; the encoder stays as
it is, and so does every file of one. Half of the dialogues are what it learnt first, so that it
forgets none of that. An interrupted run goes on from its last checkpoint.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
import onnxruntime as ort
import torch
from torch import Tensor

from training import command
from training.dialogues import Batch, collate, image_dialogue, random_system, text_dialogue
from training.export import export_decoder, load_decoder
from training.model import DecoderConfig, NanoVLM
from training.pictures import Pictures, load_pictures
from training.tokenizer import Tokenizer
from training.train import (
    HeldOut,
    Optimization,
    PixelValues,
    Step,
    forward,
    optimize,
    validate,
)

VALIDATION_SEED = 79
EMPTY = 0.08  # share of pictures without a shape, which the first training did not have


@dataclass(frozen=True)
class Recipe(Optimization):
    """The training's numbers."""

    steps: int = 2600
    rate: float = 1.2e-3
    text_share: float = 0.1
    closed_share: float = 0.6  # of the dialogues about a picture
    numbers: float = 0.24  # share of the closed questions
    seed: int = 2


class Embedded:
    """Pictures as the model's own encoder embeds them: float16 [n, tokens, width].

    Args:
        kept: a file that keeps them.
    """

    def __init__(
        self, encoder: Path, family: str, rgb: np.ndarray, threads: int, kept: Path | None = None
    ) -> None:
        if kept and kept.exists():
            self._embeds = np.load(kept, mmap_mode='r')
            return
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        session = ort.InferenceSession(str(encoder), options)
        to_pixels, begun = PixelValues(family), time.monotonic()
        one = [
            session.run(None, {'pixel_values': to_pixels(picture[None]).numpy()})[0][0]
            for picture in rgb
        ]
        self._embeds = np.stack(one).astype(np.float16)
        print(f'{len(rgb)} pictures embedded in {time.monotonic() - begun:.0f} s', flush=True)
        if kept:
            np.save(kept, self._embeds)

    def __getitem__(self, images: list[int]) -> Tensor:
        return torch.from_numpy(self._embeds[images].astype(np.float32))


def draw_batch(step: int, recipe: Recipe, tokenizer: Tokenizer, pictures: Pictures) -> Batch:
    """Draw the dialogues of one step; which ones depends on the step and the seed only."""
    rng = np.random.default_rng((recipe.seed, step))
    draw = rng.random()
    long, second = draw < 0.06, 0.06 <= draw < 0.1
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
        closed = 0.85 if rng.random() < recipe.closed_share else 0.0
        turns = int(rng.integers(5, 9)) if long else 2 if second else 5 if closed else 3
        exchanges = image_dialogue(rng, scenes, turns, closed, recipe.numbers)
        dialogues.append((system, exchanges))
    return collate(dialogues, tokenizer, pictures, guides_questions=True)


def teach(family: str, recipe: Recipe, cache: Path, pictures: Pictures, out: Path) -> NanoVLM:
    """Train the decoder of `out`, from the last checkpoint if there is one."""
    tokenizer = Tokenizer(family)
    torch.manual_seed(recipe.seed)
    model = NanoVLM(DecoderConfig(len(tokenizer), attention_bias=family == 'internvl'))
    decoder = model.decoder
    load_decoder(decoder, tokenizer, gguf.GGUFReader(out / f'nano_{family}.gguf'))
    encoder, threads = out / f'nano_{family}_vit.onnx', torch.get_num_threads()
    held_out = HeldOut(256, VALIDATION_SEED, EMPTY / 10)
    unseen = Embedded(encoder, family, held_out.rgb, threads)
    key = hashlib.sha256(encoder.read_bytes()).hexdigest()[:12]
    kept = cache / f'embeds-{len(pictures)}-{key}.npy'
    embedded = Embedded(encoder, family, pictures.rgb, threads, kept)

    def compute(step: int) -> Step:
        batch = draw_batch(step, recipe, tokenizer, pictures)
        loss, right, guided = forward(model, batch, embedded[batch.images])
        return Step(batch, loss, right, guided, loss + recipe.guide_weight * guided)

    def check() -> dict[str, float]:
        return validate(
            model, tokenizer, held_out, unseen.__getitem__, VALIDATION_SEED, closed=0.7
        )

    optimize(decoder, recipe, cache / f'{family}_teach.pt', compute, check, check_every=200)
    return model.eval()


def main() -> None:
    """Teach one family and export its decoder."""
    parser = command.parser(__doc__, pictures=30_000, steps=Recipe.steps)
    parser.add_argument('--model', choices=command.MODELS, required=True)
    parser.add_argument('--seed', type=int, default=Recipe.seed, help='of the dialogues')
    parser.add_argument(
        '--rate', type=float, default=Recipe.rate, help='the largest learning rate'
    )
    parser.add_argument(
        '--numbers', type=float, default=Recipe.numbers, help='share of questions for a number'
    )
    parser.add_argument(
        '--closed', type=float, default=Recipe.closed_share, help='share of dialogues with them'
    )
    args = parser.parse_args()
    command.start(args)
    recipe = Recipe(
        args.steps,
        rate=args.rate,
        closed_share=args.closed,
        numbers=args.numbers,
        seed=args.seed,
    )
    begun = time.monotonic()
    pictures = load_pictures(args.cache, args.pictures, Recipe.seed, args.threads, EMPTY)
    model = teach(args.model, recipe, args.cache, pictures, args.out)
    path = export_decoder(model.decoder, Tokenizer(args.model), args.out)
    print(
        f'wrote {path} ({path.stat().st_size / 1e6:.2f} MB) after'
        f' {(time.monotonic() - begun) / 60:.1f} minutes; now measure it:'
        f' python -m training.evaluate --model {args.model}'
    )


if __name__ == '__main__':
    main()
