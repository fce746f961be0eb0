"""Vocabularies without weights: the built-in models', and Qwen2's real one."""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import llama_cpp
import pytest
from nano import MODELS, ROOT

from hobot_llamacpp_py.llama_log import on_llama_log

_CACHE = Path(os.environ.get('XDG_CACHE_HOME', Path.home() / '.cache')) / 'hobot_llamacpp_py'
_QWEN2 = 'ggml-vocab-qwen2.gguf'
NAMES = [*MODELS, 'qwen2']


@contextmanager
def open_vocabulary(name: str) -> Iterator[Any]:
    """Open the vocabulary of a built-in model, or Qwen2's, as llama.cpp's pointer."""
    path = _qwen2() if name == 'qwen2' else MODELS[name][1]
    llama_cpp.llama_log_set(on_llama_log, ctypes.c_void_p(0))
    params = llama_cpp.llama_model_default_params()
    params.vocab_only = True
    model = llama_cpp.llama_model_load_from_file(os.fsencode(path), params)
    try:
        yield llama_cpp.llama_model_get_vocab(model)
    finally:
        llama_cpp.llama_model_free(model)


def _qwen2() -> Path:
    """Return the file, which llama.cpp's sources hold; they are fetched once for all runs."""
    path = _CACHE / 'vocabularies' / _QWEN2
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            _fetch(Path(folder))
            (Path(folder) / _QWEN2).replace(path)
    return path


def _fetch(folder: Path) -> None:
    pins = (ROOT / 'requirements' / 'pc.txt').read_text('utf-8')
    pin = re.findall(r'^llama-cpp-python==.*', pins, re.MULTILINE)[0]
    command = [sys.executable, '-m', 'pip', 'download', '--no-deps']
    # Its build tools come as wheels all the same: pip asks them for the package's name.
    command += ['--no-binary', 'llama-cpp-python']
    result = subprocess.run([*command, '-d', folder, pin], capture_output=True, text=True)
    if result.returncode:
        reason = result.stderr.strip().rpartition('\n')[2]
        pytest.skip(f'the sources of llama.cpp with the vocabulary of Qwen2: {reason}')
    with tarfile.open(next(folder.glob('*.tar.gz'))) as sources:
        member = next(m for m in sources if m.name.endswith(f'/models/{_QWEN2}'))
        content = sources.extractfile(member)
        assert content is not None
        (folder / _QWEN2).write_bytes(content.read())
