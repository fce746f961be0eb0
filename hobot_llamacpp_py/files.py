"""Where a file parameter's file is: one search order for models, pictures and prompts."""

from __future__ import annotations

import os
from pathlib import Path

import yaml

from hobot_llamacpp_py.engine.grammar import schema_to_grammar
from hobot_llamacpp_py.errors import ModelFileError, ParameterError

__all__ = ['find_file', 'grammar_text', 'share_directory', 'system_prompt_text']

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
        tried.append(str(path))
    places = ', '.join(dict.fromkeys(tried))
    raise ModelFileError(f'{parameter}: no such file, tried {places}{_where_to_get(name)}')


def share_directory() -> Path:
    """Return the installed package's share folder, or the source tree's root."""
    source = Path(__file__).resolve().parent.parent
    if (source / 'package.xml').is_file():
        return source
    from ament_index_python.packages import get_package_share_directory

    return Path(get_package_share_directory(PACKAGE))


def system_prompt_text(value: str) -> str:
    """Return a system prompt: the text itself, or the content of the `.txt` file it names.

    Raises:
        ModelFileError: the file does not exist.
        ParameterError: the file cannot be read as UTF-8 text.
    """
    if not value.endswith('.txt') or '\n' in value:
        return value
    return _read('system_prompt', value)


def grammar_text(json_schema: str, grammar: str) -> str:
    """Return the GBNF grammar of the answer, empty for none; both values may be files' names.

    Raises:
        ModelFileError: a file does not exist.
        ParameterError: both are given, a file cannot be read, or a schema cannot be a grammar.
    """
    if json_schema and grammar:
        raise ParameterError('json_schema and grammar exclude each other: empty one of them')
    if json_schema:
        inline = json_schema.lstrip().startswith(('{', '['))
        return schema_to_grammar(json_schema if inline else _read('json_schema', json_schema))
    inline = '::=' in grammar or not grammar
    return grammar if inline else _read('grammar', grammar)


def _read(parameter: str, name: str) -> str:
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
