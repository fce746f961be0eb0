"""What the backends of both boards share: a model file, its binding, and what to say of a failure.

Run them in a process of their own (`encoder_process`): both bindings hold the GIL during
inference, and both can end the process.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from hobot_llamacpp_py.errors import InferenceError, ModelFileError
from hobot_llamacpp_py.health.boards import TOO_LITTLE_ION, Board
from hobot_llamacpp_py.vision.tensors import text_of

__all__ = ['cause', 'inference_error', 'load_binding', 'load_error']


def load_binding(board: Board, path: Path, import_binding: Callable[[], Any]) -> Any:
    """Return a board's binding, which a function imports.

    Raises:
        ModelFileError: it cannot be imported: why, and what to do.
    """
    try:
        return import_binding()
    except Exception as error:  # also a missing library, and what another numpy provokes
        problem = text_of(error)
    raise ModelFileError(
        f"{path} needs the BPU's Python binding, which cannot be imported"
        f' ({problem}): {board.binding_advice(problem, np.__version__)}'
    )


def load_error(board: Board, path: Path, error: Exception) -> ModelFileError:
    """Return the error for a model that the board's library does not load."""
    return ModelFileError(
        f'{path}: the BPU library cannot load it: {cause(error)}; expected a whole'
        f' {board.suffix} model for the {board.name}. Likely causes: a model for another board'
        f' ({board.other}), an incomplete download, or {TOO_LITTLE_ION}'
    )


def inference_error(path: Path, error: Exception, given: str) -> InferenceError:
    """Return the error for an inference that failed; `given` is what it was run with."""
    return InferenceError(
        f'{path}: inference on the BPU failed: {cause(error)} ({given}). Likely causes:'
        f' {TOO_LITTLE_ION}, a bpu_core that the board lacks, or a model for another board; the'
        " library's own messages stand in the log"
    )


def cause(error: Exception) -> str:
    """Return what went wrong: the X5's binding hides it behind a SystemError."""
    return text_of(error.__cause__ or error)
