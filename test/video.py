"""A made video in which shapes come and go, and what is true of each of its frames."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from training import world
from training.world import Scene, Shape

__all__ = ['RULES', 'TRUTHS', 'VideoFrame', 'video']

SIZE = (448, 336)


@dataclass(frozen=True)
class VideoFrame:
    """One frame: BGR, and the scene that it shows."""

    scene: Scene
    bgr: np.ndarray


RULES = """
rules:
  - name: circle
    question: Is there a circle?
  - name: red
    question: 图中有红色的图形吗？
  - name: shapes
    question: How many shapes are there?
    kind: integer
    range: [0, 3]
  - name: star_color
    question: What color is the star?
    kind: choice
    answers: [red, green, blue, yellow, purple, orange, none]
  - name: left
    question: 左边是什么图形？
    kind: choice
    answers: [圆形, 正方形, 三角形, 星形, 没有]
"""


def _left(scene: Scene) -> str:
    shape = next((s for s in scene.shapes if s.place == 'left'), None)
    return world.KIND_WORDS['zh'][shape.kind] if shape else '没有'


def _star(scene: Scene) -> str:
    star = scene.find('star')
    return star.color if star else 'none'


TRUTHS: dict[str, Callable[[Scene], bool | int | str]] = {
    'circle': lambda scene: scene.find('circle') is not None,
    'red': lambda scene: any(shape.color == 'red' for shape in scene.shapes),
    'shapes': lambda scene: len(scene.shapes),
    'star_color': _star,
    'left': _left,
}
"""What the rules have to find."""


def video(n: int, seed: int, still: int = 12) -> Iterator[VideoFrame]:
    """Give n frames, no two alike; each scene stays for `still` of them, about."""
    rng = np.random.default_rng(seed)
    scene, shown = Scene(()), 0
    while shown < n:
        scene = _changed(scene, rng)
        clean = world.draw(scene, rng, SIZE, clean=True).bgr.astype(np.int16)
        for _ in range(min(int(rng.integers(still // 2, still * 3 // 2)), n - shown)):
            # The light flickers, and the sensor has its noise.
            noise = rng.normal(0, 3, clean.shape).astype(np.int16) + int(rng.integers(-6, 7))
            yield VideoFrame(scene, np.clip(clean + noise, 0, 255).astype(np.uint8))
            shown += 1


def _changed(scene: Scene, rng: np.random.Generator) -> Scene:
    """Let a shape come or go."""
    shapes = list(scene.shapes)
    if shapes and (len(shapes) == 3 or rng.random() < 0.45):
        del shapes[int(rng.integers(len(shapes)))]
        return Scene(tuple(shapes))
    kinds = [kind for kind in world.KINDS if scene.find(kind) is None]
    places = [p for p in world.PLACES if all(shape.place != p for shape in shapes)]
    new = Shape(str(rng.choice(kinds)), str(rng.choice(world.COLORS)), str(rng.choice(places)))
    return Scene((*shapes, new))
