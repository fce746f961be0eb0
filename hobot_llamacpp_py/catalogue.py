"""The models that can be had ready-made, and where their files are on this machine."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from hobot_llamacpp_py.board import BOARDS, this_board
from hobot_llamacpp_py.errors import ModelFileError
from hobot_llamacpp_py.families import FAMILIES, ModelFamily
from hobot_llamacpp_py.folders import model_folders, share_directory

__all__ = [
    'COMMAND',
    'Edition',
    'Model',
    'find',
    'is_name',
    'known_model',
    'load',
    'locate',
    'where_to_get',
]

COMMAND = 'ros2 run hobot_llamacpp_py models get'
"""What downloads a model, but for its name."""


@dataclass(frozen=True)
class Edition:
    """A model's files for one kind of board.

    Attributes:
        model: the model's name.
        board: a name of `BOARDS`.
        repository: on the hub.
        encoder, decoder: paths in the repository.
        megabytes: of encoder and decoder, 0 where nobody published it.
    """

    model: str
    board: str
    repository: str
    encoder: str
    decoder: str
    megabytes: tuple[int, int] = (0, 0)

    def path(self, folder: Path, file: str) -> Path | None:
        """Return where a file of the edition is in a folder of models, None if it is not.

        `models get` puts it below the model's name; people put it where they like.
        """
        places = (folder / self.model / file, folder / file, folder / Path(file).name)
        return next((place for place in places if place.is_file()), None)

    def paths(self) -> tuple[Path, Path] | None:
        """Return where encoder and decoder are on this machine, None unless both are."""
        for folder in model_folders():
            encoder, decoder = self.path(folder, self.encoder), self.path(folder, self.decoder)
            if encoder and decoder:
                return encoder.absolute(), decoder.absolute()
        return None

    @property
    def command(self) -> str:
        """What downloads it."""
        board = '' if self.board == this_board() else f' --board {self.board}'
        return f'{COMMAND} {self.model}{board}'


@dataclass(frozen=True)
class Model:
    """One model; `editions` are its files by the board that they are for."""

    name: str
    model_type: int
    licence: str
    languages: list[str]
    editions: dict[str, Edition]

    @property
    def family(self) -> ModelFamily:
        """What the model was trained with."""
        return FAMILIES[self.model_type]

    def edition(self, board: str) -> Edition:
        """Return the files for a board.

        Raises:
            ModelFileError: there are none; says what runs there all the same.
        """
        if board not in self.editions:
            raise ModelFileError(
                f'{self.name} is not published for {BOARDS[board]}; with its encoder for a PC it'
                f' runs there, too, but slower: `{COMMAND} {self.name} --board pc`'
            )
        return self.editions[board]

    def ready(self) -> Edition | None:
        """Return the edition that is on this machine, the one for this board first."""
        first = this_board()
        editions = sorted(self.editions.values(), key=lambda edition: edition.board != first)
        usable = (edition for edition in editions if edition.board in (first, 'pc'))
        return next((edition for edition in usable if edition.paths()), None)


@cache
def load() -> tuple[Model, ...]:
    """Return the catalogue of `config/models.yaml`."""
    text = (share_directory() / 'config' / 'models.yaml').read_text('utf-8')
    return tuple(_model(entry) for entry in yaml.safe_load(text)['models'])


def is_name(value: str) -> bool:
    """Tell whether a value of `llm_model_name` names a model of the catalogue, and no file."""
    return not value.endswith('.gguf') and known_model(value) is not None


def known_model(name: str) -> Model | None:
    """Return the model of that name, whatever its case; None if there is none."""
    return next((model for model in load() if model.name.lower() == name.lower()), None)


def find(name: str) -> Model:
    """Return the model of that name.

    Raises:
        ModelFileError: there is none; names the nearest, or all.
    """
    model = known_model(name)
    if model is None:
        names = {known.name.lower(): known.name for known in load()}
        near = difflib.get_close_matches(name.lower(), names, 1)
        hint = (
            f'did you mean {names[near[0]]}?' if near else f'there are {", ".join(names.values())}'
        )
        raise ModelFileError(f'there is no model {name} in the catalogue: {hint}')
    return model


def locate(name: str) -> Path | None:
    """Return where a file of the catalogue is that was downloaded with its model."""
    for edition, file in _files_named(name):
        for folder in model_folders():
            if path := edition.path(folder, file):
                return path.absolute()
    return None


def where_to_get(*names: str) -> str:
    """Return what gets files of the catalogue, or what runs here in their place.

    Empty where no model has a file of these names.
    """
    wanted = {Path(name).name for name in names}
    for model in load():
        files = {board: _names(edition) for board, edition in model.editions.items()}
        if not wanted & set().union(*files.values()):
            continue
        usable = [board for board in (this_board(), 'pc') if board in files]
        board = next((board for board in usable if wanted & files[board]), usable[0])
        command = model.editions[board].command
        if wanted <= files[board]:
            return command
        return f'{command}, then -p llm_model_name:={model.name}'
    return ''


def _names(edition: Edition) -> set[str]:
    return {Path(file).name for file in (edition.encoder, edition.decoder)}


def _files_named(name: str) -> Iterator[tuple[Edition, str]]:
    """Give the files of that name, those for this board first."""
    editions = [edition for model in load() for edition in model.editions.values()]
    for edition in sorted(editions, key=lambda edition: edition.board != this_board()):
        for file in (edition.encoder, edition.decoder):
            if Path(file).name == Path(name).name:
                yield edition, file


def _model(entry: dict[str, Any]) -> Model:
    editions = {}
    for board, files in entry.pop('boards').items():
        sizes = files.pop('megabytes', (0, 0))
        editions[board] = Edition(entry['name'], board, **files, megabytes=tuple(sizes))
    return Model(**entry, editions=editions)
