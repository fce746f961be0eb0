"""Files that are whole, or are not there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from hobot_llamacpp_py.errors import VlmError

__all__ = ['write_whole']


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Have a file written beside its place first: what fails leaves none that looks whole.

    Args:
        write: writes it to a path.

    Raises:
        VlmError: it cannot be written.
    """
    target = path.resolve()
    is_device = target.exists() and not target.is_file()
    partial = target if is_device else target.with_name(f'{target.name}.partial')
    try:
        write(partial)
        if not is_device:
            partial.replace(target)
    except OSError as error:
        if not is_device:
            partial.unlink(missing_ok=True)
        raise VlmError(f'{path}: {error.strerror or error}') from None
