"""Where a file parameter's file is: one search order for models, pictures and prompts."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Mapping
from pathlib import Path

from hobot_llamacpp_py import catalogue
from hobot_llamacpp_py.errors import ModelFileError, ParameterError
from hobot_llamacpp_py.folders import search_folders

__all__ = ['MOST_CHARACTERS', 'find_file', 'missing_files', 'read_text', 'text_of', 'whole_text']

MOST_CHARACTERS = 1_000_000  # of a text: a parameter may name any file, a model's as well


def find_file(parameter: str, name: str) -> Path:
    """Return the path of a file that a parameter names.

    An absolute path is taken as it is. Else the places are the working directory, the folder
    `$HOBOT_LLAMACPP_MODELS`, the user's models and the package's share folder; then where
    `models get` has put a file of that name.

    Raises:
        ModelFileError: no such file; tells the places, and what gets a known model.
    """
    for folder in _places(name):
        path = folder / name
        if os.path.isfile(path):  # unlike Path.is_file it takes any text for a name
            return path
    if found := catalogue.locate(name):
        return found
    raise missing_files({parameter: name})


def missing_files(names: Mapping[str, str]) -> ModelFileError:
    """Return the error about files that are in none of the places: each name, and those once.

    Args:
        names: by the parameter that names the file.
    """
    facts = [
        f'{parameter}: no such file, tried {name}{_kind(name)}'
        if name
        else f'{parameter} is empty: it must name a file'
        for parameter, name in names.items()
    ]
    relative = [name for name in names.values() if name and not os.path.isabs(name)]
    if relative:
        places = dict.fromkeys(map(str, _folders()))
        facts.append(f'searched: {", ".join(places)}')
    return ModelFileError('; '.join(facts), mend=catalogue.where_to_get(*names.values()))


def _places(name: str) -> list[Path]:
    if not name:
        return []
    return [Path()] if os.path.isabs(name) else _folders()


def _folders() -> list[Path]:
    folders = []
    for folder in search_folders():
        with contextlib.suppress(FileNotFoundError):  # the working directory was deleted
            folders.append(folder.absolute())
    return folders


def _kind(name: str) -> str:
    is_folder = any(os.path.isdir(folder / name) for folder in _places(name))
    return ' (a folder)' if is_folder else ''


def text_of(parameter: str, value: str) -> str:
    """Return the text that a value is, or the content of the `.txt` file that it names.

    Raises:
        ModelFileError, ParameterError: as `read_text`.
    """
    if not value.endswith('.txt') or '\n' in value:
        return value
    return read_text(parameter, value)


def read_text(parameter: str, name: str) -> str:
    """Return the text of a file that a parameter names, without white space around it.

    Raises:
        ModelFileError: no such file.
        ParameterError: the file cannot be read as UTF-8 text.
    """
    path = find_file(parameter, name)
    try:
        text = whole_text(path)
    except (OSError, UnicodeDecodeError) as error:
        raise ParameterError(f'{parameter}: {path} cannot be read: {error}') from None
    if text is None:
        raise ParameterError(
            f'{parameter}: {path} is too large: more than {MOST_CHARACTERS} characters'
        )
    return text.strip()


def whole_text(path: Path) -> str | None:
    """Return the UTF-8 text of a file, None if that has more than `MOST_CHARACTERS`.

    Raises:
        OSError: it cannot be read, or is something whose reading may never end.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, 'it is no ordinary file', str(path))
    if not status.st_size:  # also what the kernel only seems to have in a file
        return ''
    with path.open(encoding='utf-8-sig') as file:
        text = file.read(MOST_CHARACTERS + 1)
    return text if len(text) <= MOST_CHARACTERS else None
