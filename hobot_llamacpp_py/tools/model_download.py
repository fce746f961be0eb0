"""Download a model's files from the hub: what is broken off goes on, what is there is checked."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hobot_llamacpp_py.catalogue import Edition
from hobot_llamacpp_py.errors import ModelFileError, VlmError
from hobot_llamacpp_py.tools.whole_file import write_whole

__all__ = ['CHECKSUMS', 'Download', 'digest', 'read_checksums']

CHECKSUMS = 'SHA256SUMS'
"""The file, as sha256sum writes it, that tells what was downloaded into a model's folder."""
INSTALL = "pip3 install 'huggingface_hub==0.36.2'"  # requirements/models.txt says why that one
_AGAIN = 'run the same command again to go on from there'
_RETRIES = 5  # without a byte more
_SPARE = 64 << 20  # bytes that stay free on the disk


@dataclass(frozen=True)
class _Remote:
    """A file as the hub describes it; the checksum is a SHA-256 or, of a small file, git's."""

    name: str
    size: int
    checksum: str


class Download:
    """The download of one edition of a model into a folder of models.

    Asks the hub for sizes and checksums at once.

    Raises:
        ModelFileError: the library is missing, the hub cannot be reached or refuses, the disk has
            no room, a file came differently than announced; says what to do.
    """

    def __init__(self, edition: Edition, folder: Path) -> None:
        self.edition, self.folder = edition, folder.absolute() / edition.model
        self._hub = _hub()
        self._files = [self._ask(name) for name in (edition.encoder, edition.decoder)]
        self.size = sum(file.size for file in self._files)
        """Bytes of all files."""
        self.missing = sum(self._missing(file) for file in self._files)
        """Bytes that have to be downloaded."""

    def run(self) -> Iterator[tuple[Path, int, str]]:
        """Download file after file; give path, bytes and SHA-256 of each."""
        self._check_disk()
        for file in self._files:
            path = self._fetch(file)
            found, sha256 = digest(path, as_git=len(file.checksum) == 40)
            if found != file.checksum:
                path.unlink()
                raise ModelFileError(
                    f'{path} came with the checksum {found}, the hub announced {file.checksum}:'
                    ' it was deleted, run the same command again'
                )
            _note_checksum(self.folder, file.name, sha256)
            yield path, path.stat().st_size, sha256

    def _ask(self, name: str) -> _Remote:
        with self._explained(name):
            url = self._hub.hf_hub_url(self.edition.repository, name)
            found = self._hub.get_hf_file_metadata(url, token=self._hub.get_token())
        if not found.etag:
            raise ModelFileError(f'{url} has no checksum: HF_ENDPOINT must name a hub')
        return _Remote(name, found.size or 0, found.etag)

    def _missing(self, file: _Remote) -> int:
        if (self.folder / file.name).is_file():
            return 0
        parts = (self.folder / '.cache').rglob(f'*{file.checksum}*.incomplete')
        return max(0, file.size - sum(part.stat().st_size for part in parts))

    def _check_disk(self) -> None:
        there = next(path for path in (self.folder, *self.folder.parents) if path.exists())
        free = shutil.disk_usage(there).free
        if self.missing and self.missing + _SPARE > free:
            raise ModelFileError(
                f'{self.edition.model} takes {in_words(self.missing)} more, and {there} has'
                f' {in_words(free)} free: free some, or name another folder with --dir'
            )

    def _fetch(self, file: _Remote) -> Path:
        """Download one file, over breaks of the connection for as long as there is progress."""
        left, missing = _RETRIES, self._missing(file)
        with self._explained(file.name):
            while True:
                try:
                    path = self._hub.hf_hub_download(
                        self.edition.repository, file.name, local_dir=self.folder
                    )
                    return Path(path)
                except self._hub.BREAKS:
                    before, missing = missing, self._missing(file)
                    left = _RETRIES if missing < before else left - 1
                    if not left:
                        raise

    @contextlib.contextmanager
    def _explained(self, name: str) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:  # the library's errors are of these two kinds
            raise ModelFileError(self._reason(error, name)) from None

    def _reason(self, error: Exception, name: str) -> str:
        hub, repository = self._hub, self.edition.repository
        host = hub.ENDPOINT
        log_in = 'log in with `hf auth login`, or set HF_TOKEN'
        if isinstance(error, hub.GatedRepoError):
            return f'{host}/{repository} asks for consent: give it there, then {log_in}'
        if isinstance(error, hub.EntryNotFoundError):
            return f'{host}/{repository} has no file {name}: the catalogue is out of date there'
        if isinstance(error, hub.RepositoryNotFoundError):
            return f'{host} has no repository {repository}, or it is private: then {log_in}'
        status = getattr(getattr(error, 'response', None), 'status_code', None)
        if status in (401, 403):
            return f'{host}/{repository} refuses access ({status}): {log_in}'
        if getattr(error, 'errno', None) in (errno.ENOSPC, errno.EDQUOT):
            return f'the disk of {self.folder} is full: free some of it, then {_AGAIN}'
        if getattr(error, 'errno', None) in (errno.EACCES, errno.EPERM, errno.EROFS):
            return f'{self.folder} cannot be written: name another folder with --dir'
        if isinstance(error, hub.BREAKS):
            return (
                f'{host} cannot be reached, or broke off ({_cause(error)}): check the network, or'
                f' name a mirror with HF_ENDPOINT; {_AGAIN}'
            )
        return f'{host}/{repository}/{name}: {_short(error)}; {_AGAIN}'


def digest(path: Path, *, as_git: bool = False) -> tuple[str, str]:
    """Return a file's checksum as the hub has it, and its SHA-256.

    Args:
        as_git: the hub has git's: it is no large file.
    """
    sha256 = hashlib.sha256()
    git = hashlib.sha1(b'blob %d\0' % path.stat().st_size) if as_git else None
    with path.open('rb') as file:
        while block := file.read(1 << 20):
            sha256.update(block)
            if git:
                git.update(block)
    return (git or sha256).hexdigest(), sha256.hexdigest()


def read_checksums(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of what was downloaded into a model's folder, by path below it."""
    try:
        lines = (folder / CHECKSUMS).read_text('utf-8').splitlines()
    except OSError:
        return {}
    return {name: checksum for checksum, _, name in (line.partition('  ') for line in lines)}


def in_words(size: int) -> str:
    """Return a number of bytes as people read it."""
    return f'{size / 1e9:.1f} GB' if size >= 1e9 else f'{size / 1e6:.0f} MB'


def _note_checksum(folder: Path, name: str, sha256: str) -> None:
    checksums = {**read_checksums(folder), name: sha256}
    lines: Iterable[str] = (f'{checksums[key]}  {key}\n' for key in sorted(checksums))
    text = ''.join(lines)
    try:
        write_whole(folder / CHECKSUMS, lambda partial: partial.write_text(text, 'utf-8'))
    except VlmError as error:
        raise ModelFileError(f'{error}: free some of its disk, then {_AGAIN}') from None


def _cause(error: BaseException) -> str:
    """Return what lies at the bottom of a chain of errors, for example 'Connection refused'."""
    while inner := error.__cause__ or error.__context__:
        error = inner
    return str(getattr(error, 'strerror', None) or error) or type(error).__name__


def _short(error: Exception) -> str:
    text = ' '.join(str(error).split())
    return text if len(text) < 200 else f'{text[:200]}...'


def _hub() -> Any:
    """Return the hub's library, with the errors that a break of the connection raises."""
    endpoint = os.environ.get('HF_ENDPOINT', '')
    if endpoint and not endpoint.startswith(('https://', 'http://')):
        raise ModelFileError(f'HF_ENDPOINT must begin with https:// (or http://): {endpoint!r}')
    # Its other way to download does not go on where an earlier run was broken off.
    os.environ.setdefault('HF_HUB_DISABLE_XET', '1')
    try:
        import huggingface_hub
        import requests
        from huggingface_hub import constants, errors
    except ImportError as error:
        raise ModelFileError(f'{error.name} is not installed: {INSTALL}') from None
    huggingface_hub.logging.set_verbosity_error()  # its retries would be told one by one
    names = ('hf_hub_download', 'hf_hub_url', 'get_hf_file_metadata', 'get_token')
    return type(
        'Hub',
        (),
        {
            **{name: staticmethod(getattr(huggingface_hub, name)) for name in names},
            'ENDPOINT': constants.ENDPOINT,
            'BREAKS': (
                requests.ConnectionError,
                requests.Timeout,
                requests.exceptions.ChunkedEncodingError,
                errors.OfflineModeIsEnabled,
            ),
            'GatedRepoError': errors.GatedRepoError,
            'EntryNotFoundError': errors.EntryNotFoundError,
            'RepositoryNotFoundError': errors.RepositoryNotFoundError,
        },
    )
