"""Fonts of this machine, and a fontconfig that knows only some of them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest


def require_font(has: str, lacks: str = '') -> Path:
    """Return a font file that has some characters and lacks others; skip where there is none."""
    if not shutil.which('fc-list'):
        pytest.skip('there is no fontconfig')
    found = fonts_with(has) - (fonts_with(lacks) if lacks else set())
    if not found:
        pytest.skip(f'no font has {has} and lacks {lacks!r}: apt-get install fonts-wqy-microhei')
    return Path(min(found))


def fonts_with(characters: str) -> set[str]:
    """Return the files of the fonts that have all of some characters."""
    codes = ' '.join(f'{ord(character):x}' for character in set(characters))
    command = ['fc-list', '-f', '%{file}\n', f':scalable=true:charset={codes}']
    return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())


def only_fonts(folder: Path, *files: Path) -> Path:
    """Write a configuration of fontconfig that knows the given fonts alone; return its path."""
    fonts = folder / 'fonts'
    fonts.mkdir()
    for file in files:
        (fonts / file.name).symlink_to(file)
    configuration = folder / 'fonts.conf'
    configuration.write_text(
        '<?xml version="1.0"?><!DOCTYPE fontconfig SYSTEM "urn:fontconfig:fonts.dtd">'
        f'<fontconfig><dir>{fonts}</dir><cachedir>{folder}/cache</cachedir></fontconfig>'
    )
    return configuration
