"""Whether the processor runs at full speed: governor, boost, limits, temperature."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from hobot_llamacpp_py.health.boards import board_of
from hobot_llamacpp_py.health.check import Case, Result
from hobot_llamacpp_py.health.machine import Machine

PERFORMANCE = (
    'echo performance | sudo tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor'
    ' (governor=performance in /boot/config.txt keeps it)'
)
BOOST = (
    'echo 1 | sudo tee /sys/devices/system/cpu/cpufreq/boost (arm_boost=1 in /boot/config.txt'
    ' keeps it)'
)
COOL = 'let the heat out: a fan or a larger heat sink, and no other load'
NEAR = 5.0  # degrees below the temperature at which the clock goes down


def check(case: Case) -> Iterator[Result]:
    """Tell governor, boost and clock, and how near to throttling it is."""
    machine = case.machine
    on_board = board_of(machine) is not None
    folders = machine.glob('/sys/devices/system/cpu/cpu[0-9]*/cpufreq')
    governors = {machine.text(folder / 'scaling_governor') for folder in folders} - {''}
    boost = machine.number('/sys/devices/system/cpu/cpufreq/boost')
    slow = governors - {'performance'}
    if on_board and slow:
        yield Result('warning', f'the governor is {", ".join(sorted(slow))}', PERFORMANCE)
    if on_board and boost == 0:
        yield Result('warning', 'boost is off: the cores stay below their highest clock', BOOST)
    limits = [limit for folder in folders if (limit := _limit(machine, folder))]
    if limits:
        now, most = min(limits)
        yield Result(
            'warning',
            f'{len(limits)} of {len(folders)} cores are limited to {now / 1e6:.2f} of'
            f' {most / 1e6:.2f} GHz',
            'echo MOST | sudo tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_max_freq'.replace(
                'MOST', str(most)
            )
            + ', unless heat is the reason',
        )
    elif not (on_board and (slow or boost == 0)):
        yield _clock(machine, folders, governors, boost)
    yield from _heat(machine)


def _limit(machine: Machine, folder: Path) -> tuple[int, int] | None:
    """Return the clock that a core is held to, and its highest, in kHz; None if it is free."""
    now, most = (machine.number(folder / f'{name}_max_freq') for name in ('scaling', 'cpuinfo'))
    return (now, most) if now and most and now < most else None


def _clock(
    machine: Machine, folders: list[Path], governors: set[str], boost: int | None
) -> Result:
    if not governors:
        return Result('skipped', 'the kernel does not tell the clock here (no cpufreq)')
    most = max((machine.number(folder / 'cpuinfo_max_freq') or 0 for folder in folders), default=0)
    clock = f', up to {most / 1e6:.2f} GHz' if most else ''
    boosted = '' if boost is None else f', boost {"on" if boost else "off"}'
    return Result('ok', f'governor {", ".join(sorted(governors))}{boosted}{clock}')


def _heat(machine: Machine) -> Iterator[Result]:
    hottest: tuple[float, str] | None = None
    for zone in machine.glob('/sys/class/thermal/thermal_zone*'):
        degrees = machine.number(zone / 'temp')
        if degrees is None or not -40_000 < degrees < 200_000:
            continue
        now, name = degrees / 1000, machine.text(zone / 'type') or zone.name
        hottest = max(hottest or (now, name), (now, name))
        trips = [trip for trip in _trips(machine, zone) if trip > 0]
        if trips and now >= min(trips):
            yield Result(
                'warning',
                f'{name} has {now:.0f} °C: the clock goes down from {min(trips):.0f} °C on',
                COOL,
            )
            return
        if trips and now >= min(trips) - NEAR:
            yield Result(
                'warning', f'{name} has {now:.0f} °C and throttles at {min(trips):.0f} °C', COOL
            )
            return
    if hottest:
        yield Result('ok', f'the hottest place, {hottest[1]}, has {hottest[0]:.0f} °C')
    else:
        yield Result('skipped', 'the kernel does not tell a temperature here')


def _trips(machine: Machine, zone: Path) -> Iterator[float]:
    """Give the temperatures from which on a zone is cooled by a lower clock, or switched off."""
    for file in zone.glob('trip_point_*_type'):
        if machine.text(file) in ('passive', 'hot', 'critical'):
            degrees = machine.number(file.with_name(file.name.replace('_type', '_temp')))
            if degrees is not None:
                yield degrees / 1000
