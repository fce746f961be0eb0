"""What the training commands share: the models by name, and the options."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from hobot_llamacpp_py.families import INTERNVL, SMOLVLM2, ModelFamily

__all__ = ['MODELS', 'parser', 'start']

MODELS: dict[str, ModelFamily] = {'internvl': INTERNVL, 'smolvlm': SMOLVLM2}


def parser(description: str | None, pictures: int, steps: int) -> argparse.ArgumentParser:
    """Return the options of a command that trains; the numbers are their defaults."""
    options = argparse.ArgumentParser(description=description)
    options.add_argument('--out', type=Path, default=Path('config'))
    options.add_argument(
        '--cache',
        type=Path,
        default=Path.home() / '.cache' / 'hobot_llamacpp_training',
        help='where pictures and checkpoints are kept (up to 10 GB)',
    )
    options.add_argument('--pictures', type=int, default=pictures)
    options.add_argument('--steps', type=int, default=steps)
    options.add_argument('--threads', type=int, default=os.cpu_count() or 1)
    return options


def start(options: argparse.Namespace) -> None:
    """Prepare the machine for a training."""
    import torch

    torch.set_num_threads(options.threads)
    options.cache.mkdir(parents=True, exist_ok=True)
