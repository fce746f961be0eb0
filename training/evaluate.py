"""Measure a nano model through the files a robot runs: `python -m training.evaluate`.

Fresh scenes, of combinations that training never sees, go through the package's own engine: ONNX
Runtime, llama.cpp, greedy decoding. An answer counts when every character is right. Exits with
status 1 below the bar.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from hobot_llamacpp_py.config import ChatConfig, DecoderConfig, SamplingConfig
from hobot_llamacpp_py.engine import Engine, Inquiry, Request, Turn
from hobot_llamacpp_py.engine.batch import Step
from hobot_llamacpp_py.engine.decoder import Decoder, Segment
from hobot_llamacpp_py.engine.speculation import MAX_DRAFT
from hobot_llamacpp_py.vision.encoder import VisionEncoder
from hobot_llamacpp_py.vision.open import open_encoder
from training import world
from training.chat import DEFAULT_SYSTEM, facts
from training.command import MODELS
from training.rules import CLOSED_KINDS, Closed, random_closed

__all__ = [
    'CEILINGS',
    'Chat',
    'OnePositionDecoder',
    'Tally',
    'fresh_pictures',
    'measure',
    'measure_injection',
    'measure_rules',
    'measure_text',
    'open_nano',
]

SEED = 20_000
BAR = 0.99
_GREEDY = SamplingConfig(temperature=0.0)

CEILINGS = {
    'zeroed': ('all', 0.15),
    'other scene': ('all', 0.15),
    'transposed': ('all', 0.15),
    'shuffled': ('describe', 0.30),
    'one position': ('describe', 0.30),
}
"""Wrong ways to inject a picture: which questions may then still be right, and how often."""


@dataclass
class Tally:
    """Right and asked answers under names."""

    counts: dict[str, list[int]] = field(default_factory=lambda: defaultdict(lambda: [0, 0]))
    misses: list[str] = field(default_factory=list)

    def add(self, names: Sequence[str], question: str, expected: str, actual: str) -> None:
        """Count one answer under each of these names."""
        for name in names:
            self.counts[name][0] += expected == actual
            self.counts[name][1] += 1
        if expected != actual:
            self.misses.append(f'{question}  expected: {expected}  actual: {actual}')

    def share(self, name: str) -> float:
        """Return the share of right answers under a name."""
        right, asked = self.counts[name]
        return right / asked if asked else 1.0

    def table(self) -> str:
        """Return a Markdown table of all names."""
        lines = ['| answers | right | asked | share |', '|---|---|---|---|']
        for name, (right, asked) in sorted(self.counts.items()):
            lines.append(f'| {name} | {right} | {asked} | {right / asked:.2%} |')
        return '\n'.join(lines)


class Chat:
    """A conversation with an engine, greedy and with a history, as a user has it."""

    def __init__(self, engine: Engine, system: str = DEFAULT_SYSTEM) -> None:
        self._engine, self._system = engine, system
        self._turns: tuple[Turn, ...] = ()

    def ask(self, question: str, bgr: npt.NDArray[np.uint8] | None = None) -> str:
        """Ask a question, about a new picture if one is given, and return the whole answer."""
        picture = None if bgr is None else self._engine.picture(bgr)
        turns = (*self._turns, Turn(question, picture))
        config = ChatConfig(self._system, max_tokens=64, sampling=_GREEDY, speculative=False)
        answer = self._engine.generate(Request(turns, config))
        text = ''.join(answer)
        self._turns = (*turns[:-1], Turn(question, picture, tuple(answer.tokens)))
        return text.strip()


@contextmanager
def open_nano(
    model: str,
    config: Path,
    pictures: bool = True,
    threads: int = 1,
    encoder: Path | None = None,
) -> Iterator[Engine]:
    """Open one of the nano models from a folder, with its own vision encoder or another."""
    encoder = encoder or config / f'nano_{model}_vit.onnx'
    with Engine.open(
        config / f'nano_{model}.gguf',
        encoder if pictures else None,
        family=MODELS[model],
        config=DecoderConfig(n_ctx=1024, n_threads=threads),
    ) as engine:
        yield engine


def fresh_pictures(count: int, seed: int = SEED) -> Iterator[tuple[world.Picture, int]]:
    """Draw pictures of combinations that training never sees; also give a seed for each."""
    rng = np.random.default_rng(seed)
    drawn = 0
    while drawn < count:
        scene = world.random_scene(rng)
        if scene.held_out:
            yield world.draw(scene, rng), seed + drawn
            drawn += 1


def measure(engine: Engine, scenes: int, seed: int = SEED) -> Tally:
    """Ask three questions in each language about each of this many fresh pictures."""
    tally = Tally()
    for picture, number in fresh_pictures(scenes, seed):
        rng = np.random.default_rng(number)
        for language in world.LANGUAGES:
            chat = Chat(engine)
            for turn in range(3):
                question = world.random_question(rng, language, picture.scene)
                actual = chat.ask(question.text, None if turn else picture.bgr)
                expected = question.answer(picture.scene).text
                names = (
                    f'{language}, {"follow-up" if turn else "first"}',
                    f'{language}, {question.type}',
                )
                tally.add(
                    names,
                    f'{question.text} (turn {turn + 1}, {picture.scene.shapes})',
                    expected,
                    actual,
                )
    return tally


def measure_text(engine: Engine) -> Tally:
    """Ask every fact and sum, in its first wording and without a picture."""
    tally = Tally()
    for language in world.LANGUAGES:
        for wordings, expected in facts(language):
            tally.add(
                (f'{language}, text chat',), wordings[0], expected, Chat(engine).ask(wordings[0])
            )
    return tally


def measure_rules(engine: Engine, scenes: int, seed: int = SEED) -> tuple[Tally, Reliability]:
    """Ask closed questions as rules do, of each kind and language, about each fresh picture."""
    tally, reliability = Tally(), Reliability()
    for picture, number in fresh_pictures(scenes, seed):
        rng = np.random.default_rng(number)
        asked = {}
        for language, kind in itertools.product(world.LANGUAGES, CLOSED_KINDS):
            question = random_closed(rng, language, picture.scene, kind)
            asked[Inquiry(question.prompt, question.answers)] = question
        for verdict in engine.judge(engine.picture(picture.bgr), list(asked), ChatConfig()):
            question = asked[verdict.inquiry]
            said = f'{question.prompt} ({picture.scene.shapes})'
            names = (f'{question.language}, {question.type}',)
            tally.add(names, said, question.right, verdict.answer)
            assert verdict.probability is not None
            reliability.add(question, verdict.answer, verdict.probability)
    return tally, reliability


class Reliability:
    """How often yes was right, by how likely it was said to be."""

    EDGES = (0.0, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 1.0)

    def __init__(self) -> None:
        self._found: dict[int, list[tuple[float, bool]]] = defaultdict(list)

    def add(self, question: Closed, answer: str, probability: float) -> None:
        """Note the answer to a question of yes or no."""
        if question.type != 'yes_no':
            return
        yes = question.answers[0]
        likely = probability if answer == yes else 1 - probability
        at = int(np.searchsorted(self.EDGES, likely, 'right')) - 1
        self._found[min(at, len(self.EDGES) - 2)].append((likely, question.right == yes))

    def table(self) -> str:
        """Return a Markdown table."""
        lines = ['| said: P(yes) | questions | on average said | yes was right |']
        lines.append('|---|---|---|---|')
        for at, (low, high) in enumerate(itertools.pairwise(self.EDGES)):
            if found := self._found[at]:
                likely, right = np.mean(found, axis=0)
                lines.append(f'| {low} to {high} | {len(found)} | {likely:.3f} | {right:.3f} |')
        return '\n'.join(lines)

    def error(self) -> float:
        """Return by how much both columns differ, on average over the questions."""
        rows = [np.array(found, float) for found in self._found.values() if found]
        total = sum(len(row) for row in rows)
        return float(sum(abs(row.mean(0) @ (1, -1)) * len(row) for row in rows) / total)


def measure_files(engine: Engine, folder: Path) -> Tally:
    """Ask every documented question about the pictures that `expected.json` lists."""
    tally = Tally()
    for entry in json.loads((folder / 'expected.json').read_text(encoding='utf-8')):
        bgr = cv2.imread(str(folder / entry['file']), cv2.IMREAD_COLOR)
        scene = world.Scene(tuple(world.Shape(**shape) for shape in entry['shapes']))
        for language in world.LANGUAGES:
            for question in world.all_questions(language):
                chat = Chat(engine)
                tally.add(
                    (f'{language}, drawn elsewhere',),
                    f'{entry["file"]} {question.text}',
                    question.answer(scene).text,
                    chat.ask(question.text, bgr),
                )
    return tally


class PerturbedEncoder:
    """A vision encoder whose embeddings are spoilt in a named way."""

    def __init__(self, encoder: VisionEncoder, how: str) -> None:
        self._encoder, self._how = encoder, how
        self._last: npt.NDArray[np.float32] | None = None
        self.input_size = encoder.input_size
        self.n_tokens, self.n_embd = encoder.n_tokens, encoder.n_embd

    def encode(self, fitted: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Return spoilt image embeddings."""
        embeds = self._encoder.encode(fitted)
        if self._how == 'zeroed':
            return np.zeros_like(embeds)
        if self._how == 'transposed':
            return np.ascontiguousarray(embeds.T).reshape(embeds.shape)
        if self._how == 'shuffled':
            return embeds[np.random.default_rng(0).permutation(len(embeds))]
        if self._how == 'other scene':
            last, self._last = self._last, embeds
            return np.zeros_like(embeds) if last is None else last
        return embeds

    def close(self) -> None:
        """Free the model."""
        self._encoder.close()


class OnePositionDecoder(Decoder):
    """A decoder that puts all tokens of a picture on one position, as the C++ node does.

    Turn speculation off: a rejected draft could not be dropped, its positions are elsewhere.
    """

    def prefill(
        self, segment: Segment, at: int, *, logits: bool = True, sequence: int = 0
    ) -> None:
        """Decode a segment; from a picture on, positions are fewer than tokens."""
        if isinstance(segment, np.ndarray):
            positions = np.arange(self.n_ctx, dtype=np.int32)
            positions[at : at + len(segment)] = at
            positions[at + len(segment) :] -= len(segment) - 1
            self._positions, self._step = positions, Step(positions, 1 + MAX_DRAFT)
        super().prefill(segment, at, logits=logits, sequence=sequence)


def measure_injection(model: str, config: Path, scenes: int, how: str) -> Tally:
    """Ask for a description and a place with the picture injected in a wrong way."""
    tally = Tally()
    settings = DecoderConfig(n_ctx=1024, n_threads=1)
    decoder = (OnePositionDecoder if how == 'one position' else Decoder)(
        config / f'nano_{model}.gguf', settings
    )
    encoder = open_encoder(config / f'nano_{model}_vit.onnx', MODELS[model])
    with Engine(decoder, PerturbedEncoder(encoder, how), MODELS[model]) as engine:
        for picture, number in fresh_pictures(scenes):
            rng = np.random.default_rng(number)
            language = world.LANGUAGES[number % 2]
            kind = str(rng.choice([shape.kind for shape in picture.scene.shapes]))
            for question in (world.ask('describe', language), world.ask('where', language, kind)):
                engine.reset()
                actual = Chat(engine).ask(question.text, picture.bgr)
                expected = question.answer(picture.scene).text
                tally.add(('all', question.type), question.text, expected, actual)
    return tally


def main() -> int:
    """Print the tables; return 1 if a share is on the wrong side of its bar."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--model', choices=MODELS, required=True)
    parser.add_argument('--scenes', type=int, default=500)
    parser.add_argument('--seed', type=int, default=SEED)
    parser.add_argument('--config', type=Path, default=Path('config'))
    parser.add_argument('--encoder', type=Path, help="instead of the model's own")
    parser.add_argument('--bar', type=float, default=BAR, help='least share of right answers')
    parser.add_argument('--images', type=Path, default=Path('test/images'))
    parser.add_argument('--injection', action='store_true', help='wrong ways to inject as well')
    parser.add_argument('--misses', type=int, default=5, help='wrong answers to show')
    args = parser.parse_args()
    failed = []

    def report(tally: Tally, names: Sequence[str], bar: float = args.bar) -> None:
        print(tally.table())
        for miss in tally.misses[: args.misses]:
            print(f'  {miss}')
        failed.extend(
            f'{name}: {tally.share(name):.2%} is below {bar:.0%}'
            for name in names
            if tally.share(name) < bar
        )

    print(f'## {args.model}, {args.scenes} fresh scenes\n')
    with open_nano(args.model, args.config, encoder=args.encoder) as engine:
        report(
            measure(engine, args.scenes, args.seed),
            [
                f'{language}, {turn}'
                for language in world.LANGUAGES
                for turn in ('first', 'follow-up')
            ],
        )
        if (args.images / 'expected.json').exists():
            print(f'\n## pictures of {args.images}\n')
            report(
                measure_files(engine, args.images),
                [f'{language}, drawn elsewhere' for language in world.LANGUAGES],
            )
        print('\n## closed questions, as rules ask them\n')
        tally, reliability = measure_rules(engine, args.scenes, args.seed)
        report(tally, [f'{la}, {kind}' for la in world.LANGUAGES for kind in CLOSED_KINDS], 0.97)
        print(f'\n{reliability.table()}\n\non average off by {reliability.error():.3f}')
    print('\n## text chat without a picture\n')
    with open_nano(args.model, args.config, pictures=False) as engine:
        report(measure_text(engine), [f'{language}, text chat' for language in world.LANGUAGES])
    if args.injection:
        print('\n## wrong injection\n\n| embeddings | describe | where | all | ceiling |')
        print('|---|---|---|---|---|')
        for how, (name, ceiling) in {'as they are': ('all', 1.0), **CEILINGS}.items():
            tally = measure_injection(args.model, args.config, min(args.scenes, 200), how)
            shares = ' | '.join(f'{tally.share(n):.1%}' for n in ('describe', 'where', 'all'))
            print(f'| {how} | {shares} | {name} {ceiling:.0%} |', flush=True)
            if tally.share(name) > ceiling:
                failed.append(f'{how}: {tally.share(name):.1%} of {name} is above {ceiling:.0%}')
    print('\n' + ('\n'.join(failed) or 'all above the bar'))
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
