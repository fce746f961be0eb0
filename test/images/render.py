"""Render the hand-written SVG scenes beside this file: `python test/images/render.py`.

They check the nano models against another rasteriser (resvg) than the one that drew their
training pictures. What is where is read from the `data-` attributes of the SVG files.
Needs `resvg_py` and OpenCV; run it from the repository's root.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import resvg_py

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER.parents[1]))

from training import world  # noqa: E402

JPEG = {'scene_05', 'scene_08', 'scene_09', 'scene_10'}


def read_scene(svg: Path) -> world.Scene:
    """Return the scene that an SVG file shows."""
    return world.Scene(
        tuple(
            world.Shape(
                node.get('data-shape', ''), node.get('data-color', ''), node.get('data-place', '')
            )
            for node in ElementTree.parse(svg).iter()
            if node.get('data-shape')
        )
    )


def main() -> None:
    """Write one picture for each SVG file, and `expected.json`."""
    entries = []
    for svg in sorted(FOLDER.glob('scene_*.svg')):
        data = bytes(resvg_py.svg_to_bytes(svg_string=svg.read_text(encoding='utf-8')))
        target = svg.with_suffix('.jpg' if svg.stem in JPEG else '.png')
        bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        options = [cv2.IMWRITE_JPEG_QUALITY, 85] if target.suffix == '.jpg' else []
        cv2.imwrite(str(target), bgr, options)
        scene = read_scene(svg)
        entries.append(
            {
                'file': target.name,
                'shapes': [vars(shape) for shape in scene.shapes],
                'describe': {
                    language: world.describe(scene, language).text for language in world.LANGUAGES
                },
            }
        )
    text = json.dumps(entries, indent=2, ensure_ascii=False)
    (FOLDER / 'expected.json').write_text(text + '\n', encoding='utf-8')


if __name__ == '__main__':
    main()
