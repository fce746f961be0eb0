"""What memory is free, and whether a model fits into it: told before the kernel decides."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from hobot_llamacpp_py.config import DecoderConfig
from hobot_llamacpp_py.errors import ModelFileError
from hobot_llamacpp_py.gguf_header import Value
from hobot_llamacpp_py.health.footprint import (
    Footprint,
    Shape,
    footprint_of,
    most_positions,
    shown,
)
from hobot_llamacpp_py.health.machine import THIS, Machine

__all__ = ['Free', 'MemoryGuard', 'free_memory', 'mend_of', 'needs']


class Free(NamedTuple):
    """Memory in bytes that this process may take.

    Attributes:
        ram: without making others swap; what the kernel keeps of files counts as free.
        swap: into which others, and what we do not use all the time, can be put.
        total: RAM at the most; weights that are larger are read from the file for each token.
    """

    ram: int
    swap: int
    total: int

    def holds(self, footprint: Footprint) -> bool:
        """Whether a model fits: swap helps, but not with weights, which are read all the time."""
        weights = footprint.weights * footprint.experts
        return footprint.needed <= self.ram + self.swap and weights <= self.total


def free_memory(machine: Machine = THIS) -> Free | None:
    """Return what is free, within the limits of the control group; None if that cannot be read."""
    fields = machine.fields('/proc/meminfo')
    try:
        ram, swap, total = (
            1024 * int(fields.get(name, default).split()[0])
            for name, default in (('MemAvailable', ''), ('SwapFree', '0'), ('MemTotal', ''))
        )
    except (ValueError, IndexError):
        return None
    for folder, is_v1 in machine.control_groups('memory'):
        limit = 'memory.limit_in_bytes' if is_v1 else 'memory.max'
        most = machine.number(folder / limit)
        if most is None or most >= total:  # "max", or what version 1 has for it
            continue
        used = machine.number(folder / ('memory.usage_in_bytes' if is_v1 else 'memory.current'))
        ram = min(ram, max(0, most - (used or 0) + _files_kept(machine, folder, is_v1)))
        total = min(total, most)
        most_swap = None if is_v1 else machine.number(folder / 'memory.swap.max')
        if most_swap is not None:
            swapped = machine.number(folder / 'memory.swap.current') or 0
            swap = min(swap, max(0, most_swap - swapped))
    return Free(ram, swap, total)


def _files_kept(machine: Machine, folder: Path, is_v1: bool) -> int:
    """Return the bytes of files that a control group keeps, and gives back when asked."""
    prefix, kept = 'total_' if is_v1 else '', 0
    for line in machine.text(folder / 'memory.stat').splitlines():
        name, _, value = line.partition(' ')
        if name in (f'{prefix}inactive_file', f'{prefix}active_file') and value.isdigit():
            kept += int(value)
    return kept


class MemoryGuard:
    """Refuses a model that cannot fit, at the two moments of loading when that can be known.

    Args:
        path: the decoder's GGUF file.
        encoder: bytes that the encoder will take beside it.
        free: what is free before anything is loaded; None: unknown, so nothing is refused.

    Raises:
        ModelFileError: the weights alone do not fit, with all figures and what to do.
    """

    def __init__(self, path: Path, config: DecoderConfig, encoder: int, free: Free | None) -> None:
        self._path, self._config, self._encoder = path, config, encoder
        self._free = free
        try:
            self._weights = os.stat(path).st_size
        except OSError:  # whoever opens it says why
            self._weights = 0
        if self._free is not None and self._weights + encoder > self._free.ram + self._free.swap:
            self._check(Shape.read(path))  # a while, but there is nothing left to hurry for

    def check(self, get: Callable[[str], Value | None], n_vocab: int) -> None:
        """Check a model that is loaded, before its context is made.

        Args:
            get: gives the value of a key of its metadata, or None.

        Raises:
            ModelFileError: it does not fit in this context, with all figures and what to do.
        """
        if self._free is not None:
            self._check(Shape.from_metadata(get, n_vocab))

    def _check(self, shape: Shape) -> None:
        footprint = footprint_of(shape, self._config, self._weights, self._encoder)
        assert self._free is not None
        if not self._free.holds(footprint):
            raise ModelFileError(
                f'{self._path} does not fit into memory: it'
                f' {needs(footprint, self._config, self._free)}:'
                f' {mend_of(footprint, shape, self._config, self._free)}'
            )


def needs(footprint: Footprint, config: DecoderConfig, free: Free) -> str:
    """Return what a model needs and what is free, with the figures."""
    parts = [
        f'weights {shown(footprint.weights)}',
        f'KV cache {shown(footprint.kv_cache)} for n_ctx {config.n_ctx} in {config.kv_cache_type}',
        f'compute buffers {shown(footprint.compute)}',
    ]
    if footprint.encoder:
        parts.append(f'encoder {shown(footprint.encoder)}')
    return (
        f'needs {shown(footprint.needed)} ({", ".join(parts)}), and'
        f' {shown(free.ram + free.swap)} are free (RAM {shown(free.ram)}, swap'
        f' {shown(free.swap)})'
    )


def mend_of(footprint: Footprint, shape: Shape, config: DecoderConfig, free: Free) -> str:
    """Return what to do about a model that does not fit."""
    room, ways = free.ram + free.swap, []
    left = room - int(footprint.weights * footprint.experts) - footprint.encoder
    if fitting := most_positions(shape, config, left):
        ways.append(f'set n_ctx to {fitting} or less')
    if config.kv_cache_type in ('f32', 'f16'):
        smaller = replace(config, kv_cache_type='q8_0')
        if most_positions(shape, smaller, left) >= config.n_ctx:
            ways.append('set kv_cache_type to q8_0')
    ways.append('take a smaller model')
    ways.append('end other programs')
    if footprint.weights * footprint.experts <= free.total:
        missing = -(-(footprint.needed - room) // 10**9)
        if 0 < missing <= MOST_SWAP:
            ways.append(f'add swap ({swap_command(missing)})')
    return ', or '.join(ways)


MOST_SWAP = 8  # GB; more than that is no memory any more


def swap_command(size: int) -> str:
    """Return the command that adds swap, of a size in GB."""
    file = '/swapfile_llm'
    return (
        f'sudo fallocate -l {size}G {file} && sudo chmod 600 {file} && sudo mkswap {file}'
        f' && sudo swapon {file}'
    )
