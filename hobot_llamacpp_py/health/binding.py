"""Whether what runs the encoder can be loaded: tried in a process of its own, which it may end."""

from __future__ import annotations

from collections.abc import Iterator

from hobot_llamacpp_py.health.boards import BOARDS, board_of
from hobot_llamacpp_py.health.check import Case, Result, run_child
from hobot_llamacpp_py.health.packages import INSTALL_LIBMTMD, INSTALL_ONNXRUNTIME, version_of

_IMPORTS = {
    'bpu_x5': 'from hobot_llamacpp_py.vision.bpu_x5 import import_binding; import_binding()',
    'bpu_s100': 'from hobot_llamacpp_py.vision.bpu_s100 import import_binding; import_binding()',
    'onnx': 'import onnxruntime',
    'mmproj': 'from llama_cpp import mtmd_cpp',
}
_INSTALL = {'onnx': INSTALL_ONNXRUNTIME, 'mmproj': INSTALL_LIBMTMD}
_NAMES = {'onnx': 'ONNX Runtime', 'mmproj': "llama.cpp's libmtmd"}
_SUFFIXES = {'.onnx': 'onnx', '.gguf': 'mmproj', **{b.suffix: b.backend for b in BOARDS}}


def check(case: Case) -> Iterator[Result]:
    """Import what the encoder needs."""
    chosen = case.encoder_config.backend
    backend = chosen if chosen != 'auto' else _SUFFIXES.get(case.encoder_kind, '')
    if not backend or case.encoder is None:
        yield Result('skipped', 'there is no encoder to load')
        return
    if not case.machine.is_live:
        yield Result('skipped', 'the encoder’s binding cannot be tried through a folder')
        return
    board = next((board for board in BOARDS if board.backend == backend), None)
    name = f"the BPU's Python binding ({board.package})" if board else _NAMES[backend]
    if board and board_of(case.machine) is not board:
        mend = 'use an .onnx or mmproj-….gguf encoder here'
        yield Result('failure', f'{name} needs an {board.name}, which this is not', mend)
        return
    works, said = run_child(_IMPORTS[backend])
    if works:
        yield Result('ok', f'{name} can be imported')
        return
    mend = board.binding_advice(said, version_of('numpy') or '0') if board else _INSTALL[backend]
    yield Result('failure', f'{name} cannot be imported: {said}', mend)
