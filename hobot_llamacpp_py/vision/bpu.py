"""What the backends of both boards share: a model file, its binding, and what to say of a failure.

Run them in a process of their own (`encoder_process`): both bindings hold the GIL during
inference, and both can end the process.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hobot_llamacpp_py.errors import InferenceError, ModelFileError
from hobot_llamacpp_py.vision.tensors import text_of

__all__ = ['Board', 'cause']

_MEMORY = 'too little ION memory (sudo srpi-config sets it, then reboot)'


@dataclass(frozen=True)
class Board:
    """A kind of board, in words for the errors.

    Attributes:
        name: of the board.
        suffix: of its model files; `other` tells that of the other board.
        package: pip's name of the binding.
        max_numpy: the binding works with this major version of numpy at most; 0: with any.
    """

    name: str
    suffix: str
    other: str
    package: str
    max_numpy: int = 0

    def import_binding(self, path: Path, *importers: Callable[[], Any]) -> Any:
        """Return the board's binding: what the first importer gives that does not fail.

        Raises:
            ModelFileError: none can be imported: why, and what to do.
        """
        problems = []
        for import_it in importers:
            try:
                return import_it()
            except Exception as error:  # also a missing library, and what another numpy provokes
                problems.append(text_of(error))
        raise ModelFileError(
            f"{path} needs the BPU's Python binding, which cannot be imported"
            f' ({"; ".join(problems)}): {self._advice(problems)}'
        )

    def _advice(self, problems: list[str]) -> str:
        if platform.machine() != 'aarch64':
            return (
                f'this machine ({platform.machine()}) is no {self.name}: use an .onnx or'
                ' mmproj-….gguf encoder here'
            )
        if self.max_numpy and int(np.__version__.split('.')[0]) > self.max_numpy:
            return f"it breaks with numpy {np.__version__}: pip3 install 'numpy>=1.26.4,<2'"
        if any('Python version' in problem for problem in problems):
            return f'start the node with the Python that {self.package} is compiled for'
        if any('.so' in problem for problem in problems):
            return (
                f"the BPU's libraries are missing: sudo apt install hobot-dnn, on an {self.name}"
            )
        return f'pip3 install {self.package}, on an {self.name}'

    def load_error(self, path: Path, error: Exception) -> ModelFileError:
        """Return the error for a model that the board's library does not load."""
        return ModelFileError(
            f'{path}: the BPU library cannot load it: {cause(error)}; expected a whole'
            f' {self.suffix} model for the {self.name}. Likely causes: a model for another board'
            f' ({self.other}), an incomplete download, or {_MEMORY}'
        )

    def inference_error(self, path: Path, error: Exception, given: str) -> InferenceError:
        """Return the error for an inference that failed; `given` is what it was run with."""
        return InferenceError(
            f'{path}: inference on the BPU failed: {cause(error)} ({given}). Likely causes:'
            f' {_MEMORY}, a bpu_core that the board lacks, or a model for another board; the'
            " library's own messages stand in the log"
        )


def cause(error: Exception) -> str:
    """Return what went wrong: the X5's binding hides it behind a SystemError."""
    return text_of(error.__cause__ or error)
