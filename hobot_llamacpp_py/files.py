"""Where a file parameter's file is: one search order for models, pictures and prompts."""

from __future__ import annotations

import os
from pathlib import Path

import yaml

from hobot_llamacpp_py.errors import ModelFileError, ParameterError

__all__ = ['find_file', 'read_text', 'share_directory']

PACKAGE = 'hobot_llamacpp_py'


def find_file(parameter: str, name: str) -> Path:
    """Return the path of a file that a parameter names.

    An absolute path is taken as it is. Else the places are the working directory, the folder
    `$HOBOT_LLAMACPP_MODELS` and the package's share folder.

    Raises:
        ModelFileError: no such file; lists every place tried, and where a known model comes from.
    """
    if not name:
        raise ModelFileError(f'{parameter} is empty: it must name a file')
    tried = []
    for folder in [Path()] if os.path.isabs(name) else _folders():
        path = folder.absolute() / name
        if os.path.isfile(path):  # unlike Path.is_file it takes any text for a name
            return path
        tried.append(f'{path} (a folder)' if os.path.isdir(path) else str(path))
    places = ', '.join(dict.fromkeys(tried))
    raise ModelFileError(f'{parameter}: no such file, tried {places}{_where_to_get(name)}')


def share_directory() -> Path:
    """Return the installed package's share folder, or the source tree's root."""
    source = Path(__file__).resolve().parent.parent
    if (source / 'package.xml').is_file():
        return source
    from ament_index_python.packages import get_package_share_directory

    return Path(get_package_share_directory(PACKAGE))


def read_text(parameter: str, name: str) -> str:
    """Return the text of a file that a parameter names, without white space around it.

    Raises:
        ModelFileError: no such file.
        ParameterError: the file cannot be read as UTF-8 text.
    """
    path = find_file(parameter, name)
    try:
        return path.read_text('utf-8-sig').strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ParameterError(f'{parameter}: {path} cannot be read: {error}') from None


def _folders() -> list[Path]:
    models = os.environ.get('HOBOT_LLAMACPP_MODELS')
    return [Path(), *([Path(models)] if models else []), share_directory()]


def _where_to_get(name: str) -> str:
    """Return a sentence about a model of the catalogue, empty for any other file."""
    catalogue = yaml.safe_load((share_directory() / 'config' / 'models.yaml').read_text('utf-8'))
    host = os.environ.get('HF_ENDPOINT', 'https://huggingface.co').rstrip('/')
    for model in catalogue['models']:
        for file in model['files']:
            if Path(file).name == Path(name).name:
                return f' (get it from {host}/{model["repository"]}/resolve/main/{file})'
    return ''
