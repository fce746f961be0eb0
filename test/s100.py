"""Models for the double of the S100's runtime, and an encoder process that finds it."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
from nano import MODELS

from hobot_llamacpp_py.vision.encoder_peer import INTERPRETER

DOUBLES = Path(__file__).resolve().parent / 'doubles'


def use_double(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let encoder processes, and this one, import the double."""
    command = ['env', f'PYTHONPATH={DOUBLES}', sys.executable]
    monkeypatch.setenv(INTERPRETER, shlex.join(command))
    monkeypatch.syspath_prepend(str(DOUBLES))
    monkeypatch.delitem(sys.modules, 'hbm_runtime', raising=False)


def write_model(path: Path, **changes: Any) -> Path:
    """Write a small model: 8 x 8 pixels, 4 tokens of width 3."""
    model = dict(
        name='vit',
        inputs={'pixels': dict(shape=[1, 3, 8, 8], dtype='F32')},
        outputs={'tokens': dict(shape=[1, 4, 3], dtype='F32')},
    )
    path.write_text(json.dumps({**model, **changes}))
    return path


def write_nano(path: Path, family: str, **changes: Any) -> Path:
    """Write a model that does what the built-in encoder does."""
    encoder = MODELS[family][0]
    graph = onnx.load(encoder).graph
    shapes = [
        [axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in (graph.input[0], graph.output[0])
    ]
    return write_model(
        path,
        inputs={'pixels': dict(shape=shapes[0], dtype='F32')},
        outputs={'tokens': dict(shape=shapes[1], dtype='F32')},
        onnx=str(encoder),
        **changes,
    )
