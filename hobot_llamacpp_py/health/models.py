"""Whether the chosen models' files are there, and whole."""

from __future__ import annotations

from collections.abc import Iterator

from hobot_llamacpp_py.errors import ModelFileError
from hobot_llamacpp_py.gguf_header import GgufHeader
from hobot_llamacpp_py.health.check import Case, Result


def check(case: Case) -> Iterator[Result]:
    """Look for both files; read the header of those that have one."""
    for error in case.missing:
        mend = '' if 'models get' in error else 'ros2 run hobot_llamacpp_py models list'
        yield Result('failure', error, mend)
    for path in (case.llm, case.encoder):
        if path is None:
            continue
        try:
            size = path.stat().st_size
            if path.suffix.lower() == '.gguf':
                GgufHeader.read(path)
            elif size < 1024:
                raise ModelFileError(
                    f'{path} has {size} bytes: a git-lfs pointer or an error page may stand in its'
                    ' place; download it again'
                )
        except OSError as error:
            yield Result('failure', f'{path}: {error.strerror}')
        except ModelFileError as error:
            yield Result('failure', str(error), 'ros2 run hobot_llamacpp_py models get NAME')
        else:
            yield Result('ok', f'{path}, {size / 1e6:.0f} MB')
