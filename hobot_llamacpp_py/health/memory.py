"""Whether the model fits into memory, told by its metadata."""

from __future__ import annotations

from collections.abc import Iterator

from hobot_llamacpp_py.errors import ModelFileError
from hobot_llamacpp_py.health.check import Case, Result
from hobot_llamacpp_py.health.footprint import Shape, encoder_bytes, footprint_of, shown
from hobot_llamacpp_py.health.free_memory import free_memory, mend_of, needs

ROOM = 200_000_000  # bytes: what the node itself, ROS and the kernel want beside the model


def check(case: Case) -> Iterator[Result]:
    """Compare what the model needs with what is free."""
    free = free_memory(case.machine)
    if free is None:
        yield Result('skipped', '/proc/meminfo does not tell what memory is free')
        return
    if case.llm is None:
        yield Result('ok', f'{shown(free.ram)} of RAM and {shown(free.swap)} of swap free')
        return
    try:
        shape, size = Shape.read(case.llm), case.llm.stat().st_size
    except (ModelFileError, OSError):
        yield Result('skipped', f'{case.llm.name} does not tell what it needs')
        return
    footprint = footprint_of(shape, case.decoder_config, size, encoder_bytes(case.encoder))
    text = f'{case.llm.name} {needs(footprint, case.decoder_config, free)}'
    if not free.holds(footprint):
        yield Result('failure', text, mend_of(footprint, shape, case.decoder_config, free))
    elif footprint.needed + ROOM > free.ram:
        yield Result(
            'warning',
            f'{text}: that is tight',
            mend_of(footprint, shape, case.decoder_config, free),
        )
    else:
        yield Result('ok', text)
