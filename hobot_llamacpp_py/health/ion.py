"""The BPU's memory, which is ION's and not Linux': set aside when the board starts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hobot_llamacpp_py.health.boards import X5, board_of
from hobot_llamacpp_py.health.check import Case, Result
from hobot_llamacpp_py.health.machine import Machine

__all__ = ['check']

_SRPI_CONFIG = (
    'sudo srpi-config: Performance Options, ION memory, 320MB+640MB+640MB; then sudo reboot'
)
_DEVICE_TREE = 'the sizes stand in the device tree: see the S100 documents on ION'
_OTHERS = 'end what else uses the BPU, camera or codec'
_HEAPS = ('ion_cma', 'cma_reserved', 'carveout')
_FOLDER = '/sys/kernel/debug/ion/heaps'
# The same heaps as the device tree names them, which everybody may read.
_NODES = {'ion_cma': 'ion_cma*', 'cma_reserved': 'ion_reserved*', 'carveout': 'ion_carveout*'}
MIB = 1 << 20


@dataclass(frozen=True)
class Heap:
    """One of ION's heaps, in bytes; `used` is None where only root can see it."""

    name: str
    size: int
    used: int | None

    @property
    def free(self) -> int:
        """What can still be allocated, as far as is known."""
        return self.size - (self.used or 0)


def check(case: Case) -> Iterator[Result]:
    """Compare the heaps with what the encoder needs."""
    board = board_of(case.machine)
    if board is None or case.encoder_kind != board.suffix:
        yield Result('skipped', 'ION memory matters to encoders on the BPU of a board only')
        return
    heaps = [heap for name in _HEAPS if (heap := _heap(case.machine, name))]
    hidden = not heaps or any(heap.used is None for heap in heaps)
    look = f'sudo cat {_FOLDER}/{{{",".join(_HEAPS)}}}'
    if not heaps and any(case.machine.text(f'{_FOLDER}/{name}') for name in _HEAPS):
        yield Result('warning', f'{_FOLDER}: what is in it is not in the form known', look)
        return
    if not heaps:
        yield Result('warning', f'{_FOLDER} cannot be read, only root can', look)
        return
    mend = _SRPI_CONFIG if board is X5 else _DEVICE_TREE
    total, most = sum(heap.size for heap in heaps), max(heap.free for heap in heaps)
    sizes = ', '.join(f'{heap.name} {heap.size // MIB} MiB' for heap in heaps)
    shown = f'ION has {total // MIB} MiB ({sizes})'
    # A profile's heaps may be a little smaller than it says.
    if len(heaps) == len(_HEAPS) and total < 0.95 * board.ion_mib * MIB:
        yield Result('failure', f'{shown}; encoders need {board.ion_mib} MiB', mend)
        return
    assert case.encoder is not None
    try:
        size = case.encoder.stat().st_size
    except OSError:
        size = 0
    needs = f'{case.encoder.name} has {-(-size // MIB)} MiB'
    if size > max(heap.size for heap in heaps):
        yield Result('failure', f'{shown}; {needs}, more than any heap', mend)
    elif size > most:
        yield Result('failure', f'{shown}; {needs}, and at most {most // MIB} are free', _OTHERS)
    elif hidden:
        yield Result('ok', f'{shown}; what of it is in use, only root can see', look)
    else:
        yield Result('ok', f'{shown}, of which at most {most // MIB} MiB are free in one heap')


def _heap(machine: Machine, name: str) -> Heap | None:
    text = machine.text(f'{_FOLDER}/{name}')
    size = re.search(r'heap total size\s+(\d+)', text)
    if size is None:
        told = _size_in_device_tree(machine, _NODES[name])
        return Heap(name, told, None) if told else None
    used = re.findall(r'^\s*total\s+(\d+)\s*$', text, re.MULTILINE)
    return Heap(name, int(size[1]), int(used[-1]) if used else None)


def _size_in_device_tree(machine: Machine, node: str) -> int:
    """Return a reserved region's size, 0 if it is not told.

    On the X5 it is in `size`; on the S100 `reg` holds address and size. Numbers have 8 bytes.
    """
    for folder in machine.glob(f'/proc/device-tree/reserved-memory/{node}'):
        for name, length in (('size', 8), ('reg', 16)):
            data = _bytes(folder / name)
            if len(data) == length:
                return int.from_bytes(data[-8:], 'big')
    return 0


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b''
