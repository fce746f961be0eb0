"""Folders that look like machines: an RDK X5, an RDK S100, a PC.

No board was at hand. From D-Robotics' public documents and scripts: the names of all files, what
the device tree's model and the SoC are called, names, sizes and format of the heaps, the nodes of
the reserved memory, the thermal zones with their trip points, the clocks. Assumed: numbers that
differ from board to board (memory in use, temperatures now), the list of processor features (that
of the cores, as Arm documents them) and what is in files that this project only prints.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

GIB = 1 << 20  # in kB
Files = dict[str, str | bytes]

A55 = 'fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm asimddp'
A78 = f'{A55} usat ssbs'


def write(root: Path, files: Mapping[str, str | bytes | None]) -> Path:
    """Write files below a folder, which stand where their names say; None: a file is left out."""
    for name, content in files.items():
        if content is None:
            continue
        path = root / name.lstrip('/')
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


def heap(name: str, number: int, size: int, used: int) -> str:
    """Return what ION tells of a heap."""
    line = '-' * 73
    return (
        f'{line}\nthe heap id is {number}\n{line}\n'
        f'{name:>16}  heap total size {size:>16}\n{line}\n'
        f'       heap name           client              pid             size\n{line}\n'
        f'{name:>16}         modprobe              538 {used:>16}\n{line}\n'
        f'  total orphaned                0\n          total {used:>16}\n{line}\n'
    )


def heaps(ion_cma: int, cma_reserved: int, carveout: int, used: int = 50_069_504) -> Files:
    """Return ION's three heaps, with sizes in MiB."""
    sizes = {'ion_cma': (4, ion_cma), 'cma_reserved': (6, cma_reserved), 'carveout': (2, carveout)}
    return {
        f'/sys/kernel/debug/ion/heaps/{name}': heap(name, number, mib << 20, used)
        for name, (number, mib) in sizes.items()
    }


def memory(total: float, available: float, swap: float = 0.0) -> Files:
    """Return what the kernel tells of the memory, in GiB."""
    lines = {'MemTotal': total, 'MemFree': available / 2, 'MemAvailable': available}
    lines |= {'SwapTotal': swap, 'SwapFree': swap}
    return {'/proc/meminfo': ''.join(f'{k}: {int(v * GIB):>10} kB\n' for k, v in lines.items())}


def cores(n: int, features: str, clock: int, governor: str = 'performance') -> Files:
    """Return ARM cores, with a clock in kHz."""
    core = f'processor\t: {{}}\nBogoMIPS\t: 48.00\nFeatures\t: {features}\nCPU part\t: 0xd05\n\n'
    files: Files = {'/proc/cpuinfo': ''.join(core.format(i) for i in range(n))}
    for i in range(n):
        folder = f'/sys/devices/system/cpu/cpu{i}/cpufreq'
        files[f'{folder}/scaling_governor'] = f'{governor}\n'
        files[f'{folder}/scaling_max_freq'] = files[f'{folder}/cpuinfo_max_freq'] = f'{clock}\n'
    return files


def zone(number: int, kind: str, degrees: float, trips: Mapping[str, int]) -> Files:
    """Return a thermal zone whose trip points are given as degrees by their type."""
    folder = f'/sys/class/thermal/thermal_zone{number}'
    files: Files = {f'{folder}/type': f'{kind}\n', f'{folder}/temp': f'{int(degrees * 1000)}\n'}
    for i, (trip, at) in enumerate(trips.items()):
        files[f'{folder}/trip_point_{i}_type'] = f'{trip}\n'
        files[f'{folder}/trip_point_{i}_temp'] = f'{at * 1000}\n'
    return files


def x5() -> Files:
    """Return an RDK X5 with 8 GB, prepared as documented."""
    return {
        '/proc/device-tree/model': b'D-Robotics RDK X5 V1.0\0',
        '/sys/class/socinfo/soc_name': 'X5M\n',
        '/sys/class/socinfo/board_id': '301\n',
        '/etc/version': '3.3.1\n',
        '/etc/hostname': 'ubuntu\n',
        '/proc/loadavg': '0.52 0.58 0.59 1/389 4242\n',
        '/sys/devices/system/cpu/cpufreq/boost': '1\n',
        '/opt/tros/humble/setup.bash': '',
        **cores(8, A55, 1_800_000),
        **memory(5.5, 4.4),
        **heaps(320, 640, 640),
        **zone(0, 'ddr_thermal', 52.1, {'passive': 95}),
        **zone(1, 'cpu_thermal', 61.4, {'active': 43, 'passive': 95, 'critical': 105}),
    }


def s100() -> Files:
    """Return an RDK S100 as it ships."""
    pvt = {'critical': 120, 'active': 43, 'passive': 95}
    return {
        '/proc/device-tree/model': b'D-Robotics RDK S100 V1P0\0',
        '/sys/class/boardinfo/soc_name': 'S100\n',
        '/sys/class/boardinfo/board_type': 'RDK S100\n',
        '/etc/version': '4.0.4\n',
        '/opt/tros/humble/setup.bash': '',
        '/proc/loadavg': '0.10 0.10 0.10 1/300 1\n',
        **cores(6, A78, 2_000_000),
        **memory(9.5, 8.0),
        **heaps(512, 1024, 512),
        **zone(0, 'pvt_cmn_pvtc1_t1', 46.8, pvt),
    }


def pc() -> Files:
    """Return a PC."""
    core = (
        'processor\t: {}\nmodel name\t: Some CPU\n'
        'flags\t\t: fpu sse sse2 ssse3 avx avx2 fma f16c\n\n'
    )
    return {
        '/proc/cpuinfo': ''.join(core.format(i) for i in range(4)),
        '/proc/loadavg': '0.10 0.10 0.10 1/300 1\n',
        '/opt/ros/humble/setup.bash': '',
        **memory(16, 12, 2),
        **zone(0, 'x86_pkg_temp', 48.0, {'passive': 100}),
    }


def reserved_memory(ion_cma: int, ion_reserved: int, ion_carveout: int, x5: bool = True) -> Files:
    """Return ION's regions as the device tree tells them, in MiB."""
    sizes = {'ion_cma': ion_cma, 'ion_reserved@a4100000': ion_reserved}
    sizes |= {'ion_carveout@bc000000': ion_carveout}
    files: Files = {}
    for node, mib in sizes.items():
        size = (mib << 20).to_bytes(8, 'big')
        folder = f'/proc/device-tree/reserved-memory/{node}'
        files[f'{folder}/{"size" if x5 else "reg"}'] = size if x5 else bytes(8) + size
    return files
