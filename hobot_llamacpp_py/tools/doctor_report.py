"""A file for a bug report: what the checks found and which versions there are, nothing private."""

from __future__ import annotations

import contextlib
import getpass
import os
import platform
import re
import socket
from collections.abc import Sequence
from pathlib import Path

from hobot_llamacpp_py.folders import share_directory
from hobot_llamacpp_py.health.machine import Machine
from hobot_llamacpp_py.health.packages import version_of
from hobot_llamacpp_py.tools.whole_file import write_whole

__all__ = ['scrubbed', 'write_report']

VARIABLES = ('ROS_DISTRO', 'RMW_IMPLEMENTATION', 'ROS_DOMAIN_ID')
OURS = 'HOBOT_LLAMACPP_'
PACKAGES = (
    *('llama-cpp-python', 'numpy', 'opencv-python-headless', 'onnxruntime', 'llguidance'),
    *('hobot-dnn-rdkx5', 'hbm-runtime'),
)
_MEMORY = ('MemTotal', 'MemAvailable', 'SwapTotal', 'SwapFree', 'CmaTotal', 'CmaFree')
# Folders whose names the system gave, and not a person.
_SYSTEM = ('bin', 'boot', 'dev', 'etc', 'lib', 'opt', 'proc', 'sys', 'usr')
_PATH = re.compile(r'(?<![\w.:~])/(?:[^\s/,;:()\'"{}]+/)+[^\s/,;:()\'"{}]*')
_HIDDEN = (
    (re.compile(r'\b(?:[0-9a-f]{2}:){5}[0-9a-f]{2}\b', re.IGNORECASE), '<mac>'),
    (re.compile(r'\b\d{1,3}(?:\.\d{1,3}){3}\b'), '<ip>'),
    (re.compile(r'\b(?:[0-9a-f]{0,4}:){2,7}[0-9a-f]{1,4}\b', re.IGNORECASE), '<ip>'),
)
_COMMON_USERS = ('root', 'nobody')  # of every machine, and words of our sentences


def write_report(path: Path, machine: Machine, lines: Sequence[str]) -> None:
    """Write the report.

    Args:
        lines: what the checks found.

    Raises:
        VlmError: the file cannot be written.
    """
    processor = machine.fields('/proc/cpuinfo')
    memory = machine.fields('/proc/meminfo')
    system = re.search(r'^PRETTY_NAME="?([^"\n]*)', machine.text('/etc/os-release'), re.MULTILINE)
    name = processor.get('model name') or processor.get('CPU part') or 'unknown'
    facts = [
        f'system: {system[1] if system else "unknown"}',
        f'kernel: {_kernel(machine)}',
        f'processor: {name}',
        f'features: {" ".join(sorted(machine.cpu_flags()))}',
        *(f'{field}: {memory[field]}' for field in _MEMORY if field in memory),
    ]
    hidden = [('Checks', list(lines)), ('Machine', facts)]
    versions = [f'hobot_llamacpp_py: {_own_version()}']
    if machine.is_live:
        names = [*VARIABLES, *sorted(name for name in os.environ if name.startswith(OURS))]
        values = [f'{name}={os.environ[name]}' for name in names if name in os.environ]
        hidden.append(('Environment', values))
        found = [f'{name}: {v}' for name in PACKAGES if (v := version_of(name))]
        versions += [f'Python: {platform.python_version()}', *found]
    # Versions may look like addresses.
    text = scrubbed(_sections(hidden), machine) + _sections([('Versions', versions)])
    text = f'# hobot_llamacpp_py doctor\n{text}'
    write_whole(path, lambda partial: partial.write_text(text, 'utf-8'))


def _own_version() -> str:
    package = share_directory() / 'package.xml'
    found = re.search('<version>(.*?)</version>', package.read_text('utf-8'))
    return found[1] if found else 'unknown'


def _sections(parts: Sequence[tuple[str, Sequence[str]]]) -> str:
    return ''.join(
        f'\n## {title}\n\n' + ''.join(f'    {entry}\n' for entry in entries)
        for title, entries in parts
    )


def _kernel(machine: Machine) -> str:
    words = machine.text('/proc/version').split()  # Linux version 6.1 (who built it where) ...
    return words[2] if len(words) > 2 else 'unknown'


def scrubbed(text: str, machine: Machine) -> str:
    """Return a text without names of people and hosts, their folders and addresses."""
    text = _PATH.sub(_short, text)
    for name in _private_names(machine):
        text = re.sub(rf'(?<!\w){re.escape(name)}(?!\w)', '<name>', text)
    for pattern, instead in _HIDDEN:
        text = pattern.sub(instead, text)
    return text


def _short(found: re.Match[str]) -> str:
    """Keep a path that every machine has; of another one, the last name."""
    path = found[0]
    return path if path.split('/')[1] in _SYSTEM else f'…/{path.rstrip("/").rpartition("/")[2]}'


def _private_names(machine: Machine) -> set[str]:
    """Return the names of the machine and of who uses it."""
    names = {machine.text('/etc/hostname'), machine.text('/proc/sys/kernel/hostname')}
    for line in machine.text('/etc/passwd').splitlines():
        fields = line.split(':')
        if len(fields) > 6 and fields[2].isdecimal() and 1000 <= int(fields[2]) < 60000:
            names.add(fields[0])
            names.add(fields[4].split(',')[0])
    if machine.is_live:
        names |= {socket.gethostname(), Path.home().name}
        names |= {os.environ.get(name, '') for name in ('USER', 'LOGNAME', 'SUDO_USER')}
        with contextlib.suppress(KeyError, OSError):  # an id without a name
            names.add(getpass.getuser())
    return {name for name in names if len(name) > 1} - set(_COMMON_USERS)
