"""Check model files: whole, of the right kind, and belonging to each other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from hobot_llamacpp_py.board import BOARDS
from hobot_llamacpp_py.catalogue import Edition, Model
from hobot_llamacpp_py.config import EncoderConfig
from hobot_llamacpp_py.errors import ModelFileError
from hobot_llamacpp_py.families import FAMILIES, ModelFamily, check_vocabulary, missing_tokens
from hobot_llamacpp_py.gguf_header import GgufHeader
from hobot_llamacpp_py.tools.model_download import digest, read_checksums
from hobot_llamacpp_py.vision.backends import backend_of
from hobot_llamacpp_py.vision.mmproj_header import mmproj_sizes
from hobot_llamacpp_py.vision.open import open_encoder

__all__ = ['Finding', 'check_edition', 'check_files', 'check_models']

BOARD_OF = {'bpu_x5': 'x5', 'bpu_s100': 's100'}
"""The board that an encoder backend needs."""


@dataclass(frozen=True)
class Finding:
    """What a check found of a file, or of files together.

    Attributes:
        text: without the file's name.
        error: what is wrong; None: nothing.
    """

    file: str
    text: str
    error: ModelFileError | None = None

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return self.error is None


@dataclass(frozen=True)
class _Decoder:
    """What a text decoder's header says."""

    width: int
    families: list[ModelFamily]


def check_edition(model: Model, edition: Edition, board: str) -> Iterator[Finding]:
    """Check an edition's files that are on this machine; nothing where none is."""
    found = edition.paths()
    if found is None:
        return
    encoder, decoder = found
    for path, name in ((encoder, edition.encoder), (decoder, edition.decoder)):
        folder = path.parents[name.count('/')]
        wanted = read_checksums(folder).get(name)
        if wanted and digest(path)[1] != wanted:
            text = f'has changed since it was downloaded: delete it, then {edition.command}'
            yield _failed(path, ModelFileError(text))
            return
    yield from check_files([encoder, decoder], board, model.family)


def check_files(
    paths: Iterable[Path], board: str, family: ModelFamily | None = None
) -> Iterator[Finding]:
    """Check files one by one, then what a decoder and an encoder have to have in common.

    Args:
        board, family: as for `check_models`.
    """
    decoders: list[Path] = []
    encoders: list[Path] = []
    for path in paths:
        try:
            (decoders if _is_decoder(path) else encoders).append(path)
        except ModelFileError as error:
            yield _failed(path, error)
    yield from check_models(decoders, encoders, board, family)


def check_models(
    decoders: Iterable[Path],
    encoders: Iterable[Path],
    board: str,
    family: ModelFamily | None = None,
    config: EncoderConfig = EncoderConfig(),
) -> Iterator[Finding]:
    """Check files of which it is known what they are to be used as.

    Args:
        board: the one that they are to run on, 'pc' for one that is not here; empty: encoders are
            not opened, whatever they are for.
        family: what the files have to be of, None for any.
    """
    known: dict[Path, _Decoder] = {}
    for path in decoders:
        try:
            known[path] = decoder = _check_decoder(path, family)
            yield Finding(str(path), _told(path, decoder))
        except ModelFileError as error:
            yield _failed(path, error)
    families = [family] if family else [f for d in known.values() for f in d.families]
    for path in encoders:
        try:
            width, text = _check_encoder(path, families or [*FAMILIES.values()], board, config)
            for other, decoder in known.items():
                if width and width != decoder.width:
                    raise ModelFileError(
                        f'gives image tokens of width {width}, but {other.name} takes'
                        f' {decoder.width}: they belong to different models'
                    )
            yield Finding(str(path), text)
        except ModelFileError as error:
            yield _failed(path, error)


def _failed(path: Path, error: ModelFileError) -> Finding:
    return Finding(str(path), str(error).removeprefix(f'{path}: '), error)


def _is_decoder(path: Path) -> bool:
    _refuse_placeholder(path)
    if path.suffix.lower() != '.gguf':
        return False
    return GgufHeader.read(path).metadata.get('general.architecture') != 'clip'


def _refuse_placeholder(path: Path) -> None:
    if not path.is_file():
        raise ModelFileError(f'{path}: no such file')
    try:
        with path.open('rb') as file:
            head = file.read(64)
    except OSError as error:
        raise ModelFileError(f'{path}: {error.strerror}') from None
    if head.startswith((b'version https://git-lfs', b'<!', b'<html')) or not head:
        what = 'an error page' if head.startswith(b'<') else 'a git-lfs pointer'
        raise ModelFileError(f'{path} is {what if head else "empty"}: download it again')


def _check_decoder(path: Path, family: ModelFamily | None) -> _Decoder:
    header = GgufHeader.read(path)
    tokens = header.metadata.get('tokenizer.ggml.tokens')
    if not isinstance(tokens, list) or not tokens:
        raise ModelFileError(f'{path} has no vocabulary: it is no text decoder')
    known = {str(token) for token in tokens}
    if family:
        check_vocabulary(family, known.__contains__)
    families = [f for f in FAMILIES.values() if not missing_tokens(f, known.__contains__)]
    architecture = header.metadata.get('general.architecture')
    return _Decoder(header.integer(f'{architecture}.embedding_length'), families)


def _told(path: Path, decoder: _Decoder) -> str:
    header = GgufHeader.read(path)
    tokens = header.metadata['tokenizer.ggml.tokens']
    n_tokens = len(tokens) if isinstance(tokens, list) else 0
    types = ' or '.join(f'model_type {f.number} ({f.name})' for f in decoder.families)
    return (
        f'a whole GGUF file: {header.metadata.get("general.architecture")}, {n_tokens} tokens,'
        f' width {decoder.width}, {types or "for text chat only"}'
    )


def _check_encoder(
    path: Path, families: list[ModelFamily], board: str, config: EncoderConfig
) -> tuple[int, str]:
    """Return the width of an encoder's tokens, 0 where that cannot be seen here, and a text."""
    backend = backend_of(path, config.backend)
    _refuse_placeholder(path)
    needs = BOARD_OF.get(backend, board)
    if needs != board and board not in ('pc', ''):
        raise ModelFileError(f'is for {BOARDS[needs]}, and this is {BOARDS[board]}')
    if backend == 'mmproj':
        family, (size, n_tokens, width) = _mmproj(path, families)
        return width, _encoder_told(f'a whole mmproj of {family.name}', size, n_tokens, width)
    if not board:
        return 0, 'what is in it shows when it is loaded'
    if needs != board:
        return 0, f'for {BOARDS[needs]}; what is in it can be seen there only'
    encoder = open_encoder(path, families[0], config)
    try:
        size = encoder.input_size[0]
        text = _encoder_told('it loads', size, encoder.n_tokens, encoder.n_embd)
        return encoder.n_embd, text
    finally:
        encoder.close()


def _mmproj(path: Path, families: list[ModelFamily]) -> tuple[ModelFamily, tuple[int, int, int]]:
    for family in families[1:]:
        try:
            return family, mmproj_sizes(path, family)
        except ModelFileError:
            continue
    return families[0], mmproj_sizes(path, families[0])


def _encoder_told(what: str, size: int, n_tokens: int, width: int) -> str:
    return f'{what}, input {size}x{size}, {n_tokens} image tokens of width {width}'
