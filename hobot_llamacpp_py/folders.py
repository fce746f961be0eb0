"""The folders where models, pictures and prompts are."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ['model_folders', 'models_folder', 'search_folders', 'share_directory']

PACKAGE = 'hobot_llamacpp_py'


def share_directory() -> Path:
    """Return the installed package's share folder, or the source tree's root."""
    source = Path(__file__).resolve().parent.parent
    if (source / 'package.xml').is_file():
        return source
    from ament_index_python.packages import get_package_share_directory

    return Path(get_package_share_directory(PACKAGE))


def models_folder() -> Path:
    """Return where models are downloaded to: `$HOBOT_LLAMACPP_MODELS`, else the user's data."""
    return _given_folder() or _user_folder()


def model_folders() -> list[Path]:
    """Return the folders that models are looked for in, the first one first."""
    given = _given_folder()
    return [Path(), *([given] if given else []), _user_folder()]


def search_folders() -> list[Path]:
    """Return the folders that any file is looked for in, the first one first."""
    return [*model_folders(), share_directory()]


def _given_folder() -> Path | None:
    given = os.environ.get('HOBOT_LLAMACPP_MODELS')
    return Path(given) if given else None


def _user_folder() -> Path:
    data = os.environ.get('XDG_DATA_HOME') or os.path.expanduser('~/.local/share')
    return Path(data) / PACKAGE / 'models'
