"""Where the built-in models are, and pictures of their world with the right answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from training import world

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ROOT / 'config'

# The two built-in models by family: encoder, decoder, model_type.
MODELS = {
    'internvl': (CONFIG / 'nano_internvl_vit.onnx', CONFIG / 'nano_internvl.gguf', 0),
    'smolvlm': (CONFIG / 'nano_smolvlm_vit.onnx', CONFIG / 'nano_smolvlm.gguf', 1),
}


def draw_scene(seed: int, size: tuple[int, int] = (320, 240)) -> tuple[world.Scene, np.ndarray]:
    """Draw a scene that training never saw; return it with its BGR picture."""
    rng = np.random.default_rng(seed)
    while not (scene := world.random_scene(rng)).held_out or len(scene.shapes) < 3:
        pass
    return scene, world.draw(scene, rng, size, clean=True).bgr


def answer(scene: world.Scene, question: str) -> str:
    """Return the right answer to one of the documented questions."""
    for language in world.LANGUAGES:
        for known in world.all_questions(language):
            if known.text.rstrip('。.') == question.rstrip('。.'):
                return known.answer(scene).text
    raise ValueError(question)
