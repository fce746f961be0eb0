"""Where the built-in models are, and pictures of their world with the right answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np

from hobot_llamacpp_py.engine import ChatConfig, Request, Turn
from hobot_llamacpp_py.engine.decoder import Decoder
from hobot_llamacpp_py.families import INTERNVL, SMOLVLM2
from training import world

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ROOT / 'config'

# The two built-in models by name: encoder, decoder, family.
MODELS = {
    'internvl': (CONFIG / 'nano_internvl_vit.onnx', CONFIG / 'nano_internvl.gguf', INTERNVL),
    'smolvlm': (CONFIG / 'nano_smolvlm_vit.onnx', CONFIG / 'nano_smolvlm.gguf', SMOLVLM2),
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


def request_of(*turns: Turn, system_prompt: str = '', **options: Any) -> Request:
    """Return a request, with the defaults of a chat and no system prompt where none is given."""
    return Request(turns, ChatConfig(system_prompt, **options))


def logits_of(decoder: Decoder) -> np.ndarray:
    """Copy the logits of the last decoded position, float32 [n_vocab]."""
    pointer = llama_cpp.llama_get_logits_ith(decoder.context, -1)
    return np.ctypeslib.as_array(pointer, (decoder.vocabulary.n_tokens,)).copy()
