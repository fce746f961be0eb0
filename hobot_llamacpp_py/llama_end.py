"""Where llama.cpp ends the process: with one line and exit status 1 then, never by a signal.

It aborts over what it does not expect, which a damaged file may bring about, and C++ ends a
process whose exception nobody catches. Both ask somebody first what to say.
"""

from __future__ import annotations

import ctypes
import logging
import os

from hobot_llamacpp_py.errors import MEMORY_IS_SHORT
from hobot_llamacpp_py.llama_api import llama_cpp

__all__ = ['end_with_a_line']

log = logging.getLogger(__name__)


def end_with_a_line() -> None:
    """See to it that native code which gives up says so in one line; again does no harm."""
    library = llama_cpp._lib  # looks into the libraries that it needs, too
    for name, callback in (
        ('ggml_set_abort_callback', _on_abort),
        ('_ZSt13set_terminatePFvvE', _on_exception),  # std::set_terminate
    ):
        if install := getattr(library, name, None):  # an older ggml, another C++ library
            install(callback)


def _end(reason: str) -> None:
    try:
        log.critical('native code has ended the process: %s', reason)
    finally:
        os._exit(1)


@ctypes.CFUNCTYPE(None, ctypes.c_char_p)  # type: ignore[untyped-decorator]
def _on_abort(message: bytes) -> None:
    # Of the place in llama.cpp's source, the file's name is enough.
    text = ' '.join(message.decode('utf-8', 'replace').split()).rpartition('/')[2]
    _end(f'llama.cpp does not go on: {text}; the model file is damaged, or memory was short')


@ctypes.CFUNCTYPE(None)  # type: ignore[untyped-decorator]
def _on_exception() -> None:
    library = llama_cpp._lib
    library.__cxa_current_exception_type.restype = ctypes.POINTER(ctypes.c_char_p)
    library.__cxa_demangle.restype = ctypes.c_char_p
    kind = library.__cxa_current_exception_type()
    # Of a std::type_info the second field is the name.
    name = library.__cxa_demangle(ctypes.c_char_p(kind[1]), None, None, None) if kind else None
    if name == b'std::bad_alloc':
        _end(MEMORY_IS_SHORT)
    _end(f'an exception that nobody caught, {(name or b"of unknown type").decode()}')
