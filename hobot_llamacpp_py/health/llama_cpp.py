"""Whether llama.cpp is there, and compiled for this processor."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from hobot_llamacpp_py.health.check import Case, Result, run_child

__all__ = ['check', 'unused_features']

# What llama.cpp calls a feature, by what the kernel calls it. Without the first ones of each
# processor it is several times slower, without the others somewhat.
_NEEDED = {
    **{'avx': 'AVX', 'avx2': 'AVX2', 'fma': 'FMA', 'f16c': 'F16C'},
    **{'asimd': 'NEON', 'asimddp': 'DOTPROD'},
}
_HELPFUL = {
    **{'avx512f': 'AVX512', 'avx512_vnni': 'AVX512_VNNI', 'avx_vnni': 'AVX_VNNI'},
    **{'asimdhp': 'FP16_VA', 'i8mm': 'MATMUL_INT8', 'sve': 'SVE'},
}
_COMPILE = (
    "CMAKE_ARGS='-DGGML_NATIVE=ON' pip3 install --force-reinstall --no-deps --no-cache-dir"
    ' --no-binary llama-cpp-python llama-cpp-python=={version}'
)
_WHEEL = 'install the wheel that `make board-wheel` builds, or '
_ASK = """
import llama_cpp
print(llama_cpp.__version__)
print(llama_cpp.llama_print_system_info().decode())
"""


def check(case: Case) -> Iterator[Result]:
    """Compare what llama.cpp was compiled for with what the processor can do."""
    if not case.machine.is_live:
        yield Result('skipped', 'the installed llama.cpp cannot be asked through a folder')
        return
    works, said = run_child(_ASK)
    version, _, info = said.partition('\n')
    arm = case.machine.is_arm
    if not works:
        reason = 'it was compiled for another processor: ' if 'signal 4 ' in said else ''
        command = 'pip3 install llama-cpp-python' if not reason else _command('', arm)
        yield Result('failure', f'llama_cpp cannot be imported: {reason}{said}', command)
        return
    flags = case.machine.cpu_flags()
    if slow := unused_features(_NEEDED.items(), flags, info):
        text = f'llama-cpp-python {version} was compiled without {", ".join(slow)}'
        yield Result(
            'failure', f'{text}, which this processor has: it is slow', _command(version, arm)
        )
    elif slow := unused_features(_HELPFUL.items(), flags, info):
        text = f'llama-cpp-python {version} does not use {", ".join(slow)} of this processor'
        yield Result('warning', text, _command(version, arm))
    else:
        known = [name for name in re.findall(r'(\w+) = 1', info) if name.isupper()]
        yield Result('ok', f'llama-cpp-python {version} for this processor ({", ".join(known)})')


def unused_features(
    features: Iterable[tuple[str, str]], flags: frozenset[str], info: str
) -> list[str]:
    """Return the features that the processor has and llama.cpp, by its `info`, does not use."""
    used = set(re.findall(r'(\w+) = 1', info))
    return [name for flag, name in features if flag in flags and name not in used]


def _command(version: str, arm: bool) -> str:
    command = _COMPILE.format(version=version).removesuffix('==')
    return _WHEEL + command if arm else command
