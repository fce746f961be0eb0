"""The state of a training, so that an interrupted one goes on where it was."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

__all__ = ['Checkpoint']


class Checkpoint:
    """A file that holds a model and its optimizers after some steps of a recipe.

    Making it gives them the state that is in the file already, if that is of the same recipe.

    Args:
        recipe: the training's numbers; another one begins anew.
    """

    def __init__(
        self,
        path: Path,
        recipe: Any,
        model: nn.Module,
        optimizers: Sequence[torch.optim.Optimizer],
    ) -> None:
        self._path, self._recipe = path, recipe
        self._model, self._optimizers = model, optimizers
        self.done = 0
        """Steps in the file."""
        if not path.exists():
            return
        state = torch.load(path, weights_only=False)
        if state['recipe'] != recipe:
            return
        model.load_state_dict(state['model'])
        for optimizer, saved in zip(optimizers, state['optimizers'], strict=True):
            optimizer.load_state_dict(saved)
        self.done = state['step']
        print(f'going on from step {self.done}', flush=True)

    def save(self, done: int) -> None:
        """Write the state after so many steps, whole or not at all."""
        state = {
            'recipe': self._recipe,
            'step': done,
            'model': self._model.state_dict(),
            'optimizers': [optimizer.state_dict() for optimizer in self._optimizers],
        }
        torch.save(state, temporary := self._path.with_suffix('.part'))
        temporary.replace(self._path)
