"""The training pictures: drawn once by several processes, kept in memory-mapped files.

A picture is kept as the encoder sees it before normalisation: uint8 RGB [224, 224, 3], the
scene top-left, the rest black, through the node's own `fit`.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import time
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from hobot_llamacpp_py.vision.preprocess import fit
from training import world

__all__ = ['CELL', 'GRID', 'INPUT', 'Pictures', 'load_pictures', 'pad_rgb']

INPUT = 224
GRID = 8
CELL = INPUT // GRID
_CHUNK = 500


class Pictures:
    """Drawn scenes: `rgb` [n, 224, 224, 3], `codes` [n, 3, 3], `cells` [n, 3, 64] (bool).

    `codes` are the indices of kind, colour and place of each shape, -1 where there is none;
    `cells` are the image tokens that show a good part of the shape.
    """

    def __init__(self, folder: Path) -> None:
        self.rgb = np.load(folder / 'rgb.npy', mmap_mode='r')
        self.codes = np.load(folder / 'codes.npy')
        self.cells = np.load(folder / 'cells.npy')

    def __len__(self) -> int:
        return len(self.codes)

    def scene(self, index: int) -> world.Scene:
        """Return the scene of one picture."""
        return decode_scene(self.codes[index])


def pad_rgb(bgr: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Fit a picture as the node does and pad it to the input, as RGB."""
    fitted = fit(bgr, (INPUT, INPUT), 'letterbox')
    padded = np.zeros((INPUT, INPUT, 3), np.uint8)
    padded[: fitted.shape[0], : fitted.shape[1]] = fitted[:, :, ::-1]
    return padded


def encode_scene(scene: world.Scene) -> npt.NDArray[np.int8]:
    """Return kind, colour and place indices [3, 3], -1 for shapes that are not there."""
    codes = np.full((3, 3), -1, np.int8)
    for row, shape in zip(codes, scene.shapes, strict=False):
        row[:] = (
            world.KINDS.index(shape.kind),
            world.COLORS.index(shape.color),
            world.PLACES.index(shape.place),
        )
    return codes


def decode_scene(codes: npt.NDArray[np.int8]) -> world.Scene:
    """Return the scene that `encode_scene` was given."""
    return world.Scene(
        tuple(
            world.Shape(world.KINDS[k], world.COLORS[c], world.PLACES[p])
            for k, c, p in codes
            if k >= 0
        )
    )


def shape_cells(picture: world.Picture) -> npt.NDArray[np.bool_]:
    """Return for each shape which of the 8x8 cells show a good part of it, [3, 64]."""
    scale = min(1.0, INPUT / max(picture.bgr.shape[:2]))
    low = np.arange(GRID) * CELL
    cells = np.zeros((3, GRID * GRID), bool)
    for row, disc in zip(cells, picture.discs, strict=False):
        dx, dy = (
            np.maximum(0, np.maximum(low - c * scale, c * scale - low - CELL))
            for c in (disc.x, disc.y)
        )
        row[:] = (np.hypot(dx[None], dy[:, None]) < 0.5 * disc.radius * scale).ravel()
    return cells


def _draw_chunk(job: tuple[str, int, int, int, float]) -> int:
    folder, start, stop, seed, empty = job
    cv2.setNumThreads(1)
    rng = np.random.default_rng((seed, start))
    files = [np.load(f'{folder}/{name}.npy', mmap_mode='r+') for name in ('rgb', 'codes', 'cells')]
    for index in range(start, stop):
        scene = world.random_scene(rng, empty)
        while scene.held_out:
            scene = world.random_scene(rng, empty)
        picture = world.draw(scene, rng)
        for array, value in zip(
            files, (pad_rgb(picture.bgr), encode_scene(scene), shape_cells(picture)), strict=True
        ):
            array[index] = value
    return stop - start


def load_pictures(
    cache: Path, count: int, seed: int, processes: int, empty: float = 0.0
) -> Pictures:
    """Return `count` pictures of scenes that are not held out, drawing them if need be.

    Args:
        empty: share of pictures without any shape.
    """
    source = Path(world.__file__).read_bytes() + Path(__file__).read_bytes()
    key = hashlib.sha256(source).hexdigest()[:12]
    folder = cache / f'pictures-{count}-{seed}-{empty:g}-{key}'
    done = folder / 'complete'
    if done.exists():
        return Pictures(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, shape, dtype in (
        ('rgb', (count, INPUT, INPUT, 3), np.uint8),
        ('codes', (count, 3, 3), np.int8),
        ('cells', (count, 3, GRID * GRID), bool),
    ):
        np.lib.format.open_memmap(
            folder / f'{name}.npy', mode='w+', dtype=dtype, shape=shape
        ).flush()
    jobs = [
        (str(folder), start, min(start + _CHUNK, count), seed, empty)
        for start in range(0, count, _CHUNK)
    ]
    begun, drawn = time.monotonic(), 0
    with multiprocessing.get_context('spawn').Pool(processes) as pool:
        for number in pool.imap_unordered(_draw_chunk, jobs):
            drawn += number
            left = (time.monotonic() - begun) / drawn * (count - drawn)
            print(f'drawing {drawn}/{count} pictures, {left:.0f} s left', flush=True)
    done.touch()
    return Pictures(folder)
