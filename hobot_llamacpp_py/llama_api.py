"""llama.cpp's C API as llama-cpp-python wraps it, without the rest of that package.

That would import a database, a template engine and more, for a class that is not used here.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from typing import Any

__all__ = ['llama_cpp']


def _load() -> Any:
    spec = None if 'llama_cpp' in sys.modules else importlib.util.find_spec('llama_cpp')
    if spec is None or spec.submodule_search_locations is None:
        importlib.import_module('llama_cpp')  # somebody has it already, or it is not there
        return importlib.import_module('llama_cpp.llama_cpp')
    # An empty package of that name, for as long as the module within it is imported: whoever
    # imports the package afterwards gets it whole, with this very module in it.
    package = types.ModuleType('llama_cpp')
    package.__path__ = list(spec.submodule_search_locations)
    sys.modules['llama_cpp'] = package
    try:
        return importlib.import_module('llama_cpp.llama_cpp')
    finally:
        del sys.modules['llama_cpp']


llama_cpp = _load()
