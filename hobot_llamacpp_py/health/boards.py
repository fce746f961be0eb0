"""The boards: how each is told, and what it takes."""

from __future__ import annotations

import platform
from dataclasses import dataclass

from hobot_llamacpp_py.board import this_board
from hobot_llamacpp_py.health.machine import Machine

__all__ = [
    'BOARDS',
    'NUMPY_BELOW_2',
    'S100',
    'TOO_LITTLE_ION',
    'X5',
    'Board',
    'board_of',
    'model_name',
]

TOO_LITTLE_ION = 'too little ION memory (sudo srpi-config sets it, then reboot)'
"""A likely cause, and what mends it."""
NUMPY_BELOW_2 = "pip3 install 'numpy>=1.26.4,<2'"


@dataclass(frozen=True)
class Board:
    """A kind of board, in words for the errors.

    Attributes:
        name: of the board.
        suffix: of its model files; `other` tells that of the other board.
        package: pip's name of the binding.
        backend: the encoder's backend.
        key: its name in commands and the catalogue.
        max_numpy: the binding works with this major version of numpy at most; 0: with any.
        ion_mib: ION memory that the encoders need, as documented; 0: what it ships with.
    """

    name: str
    suffix: str
    other: str
    package: str
    backend: str
    key: str
    max_numpy: int = 0
    ion_mib: int = 0

    def binding_advice(self, problem: str, numpy: str, machine: str = '') -> str:
        """Return what to do about a binding that cannot be imported.

        Args:
            problem: why not, in its words.
            numpy: the installed version.
            machine: the kind of processor, as `platform.machine` tells it.
        """
        machine = machine or platform.machine()
        if machine != 'aarch64':
            return (
                f'this machine ({machine}) is no {self.name}: use an .onnx or mmproj-….gguf'
                ' encoder here'
            )
        if self.max_numpy and int(numpy.split('.')[0]) > self.max_numpy:
            return f'it breaks with numpy {numpy}: {NUMPY_BELOW_2}'
        if 'Python version' in problem:
            return f'start the node with the Python that {self.package} is compiled for'
        if '.so' in problem:
            return (
                f"the BPU's libraries are missing: sudo apt install hobot-dnn, on an {self.name}"
            )
        return f'pip3 install {self.package}, on an {self.name}'


X5 = Board(
    'RDK X5',
    '.bin',
    'an S100 takes .hbm',
    'hobot-dnn-rdkx5',
    'bpu_x5',
    key='x5',
    max_numpy=1,
    ion_mib=1600,
)
S100 = Board('RDK S100', '.hbm', 'an X5 takes .bin', 'hbm-runtime', 'bpu_s100', key='s100')
BOARDS = (X5, S100)


def board_of(machine: Machine) -> Board | None:
    """Return which board a machine is, None for any other machine."""
    key = this_board(machine.root)
    return next((board for board in BOARDS if board.key == key), None)


def model_name(machine: Machine) -> str:
    """Return what the machine calls itself, '' if it does not."""
    return machine.text(_MODEL)


_MODEL = '/proc/device-tree/model'
