"""Which machine it is, and whether the encoder is for it."""

from __future__ import annotations

from collections.abc import Iterator

from hobot_llamacpp_py.health.boards import BOARDS, board_of, model_name
from hobot_llamacpp_py.health.check import Case, Result


def check(case: Case) -> Iterator[Result]:
    """Tell the board, and refuse the encoder of another one."""
    machine = case.machine
    board = board_of(machine)
    model = model_name(machine)
    processor = machine.fields('/proc/cpuinfo').get('model name', '')
    name = model or processor or ('an ARM machine' if machine.is_arm else 'a PC')
    if board is not None and board.name not in name:
        name = f'{board.name} ({name})'
    version = machine.text('/etc/version') if board else ''
    system = f', RDK OS {version}' if version else ''
    wanted = next((other for other in BOARDS if other.suffix == case.encoder_kind), None)
    if wanted is None or wanted is board:
        yield Result('ok', f'{name}{system}, {machine.n_cores() or "unknown number of"} cores')
        return
    assert case.encoder is not None
    mend = (
        f'take the encoder for the {board.name} ({board.suffix})'
        if board
        else 'take an .onnx or mmproj-….gguf encoder'
    )
    yield Result('failure', f'{case.encoder.name} is for the {wanted.name}, this is {name}', mend)
