"""A check: whether the models' files are there, whole, of the chosen family and one pair."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from hobot_llamacpp_py.errors import ModelFileError
from hobot_llamacpp_py.health.check import Case, Result
from hobot_llamacpp_py.health.free_memory import free_memory
from hobot_llamacpp_py.ros.parameters import explained
from hobot_llamacpp_py.tools.doctor_case import Asked
from hobot_llamacpp_py.tools.model_check import Finding, check_models
from hobot_llamacpp_py.vision.backends import backend_of

__all__ = ['check']

_LIST = 'ros2 run hobot_llamacpp_py models list'
_GET = f'{_LIST} shows pairs, models get NAME downloads one'


def check(asked: Asked) -> Iterator[Result]:
    """Read the headers; open the encoder where that disturbs nobody."""
    case, parameters = asked.case, asked.parameters
    if parameters.is_remote:
        yield Result('skipped', 'no files are wanted: a server stands in for the models')
        return
    if asked.missing:
        yield Result('failure', asked.missing.fact, asked.missing.mend or _LIST)
    findings = check_models(
        [case.llm] if case.llm else [],
        [case.encoder] if case.encoder else [],
        'pc' if _opens(case) else '',
        # A text chat goes by the file's own template.
        None if parameters.feed_type == 2 else parameters.family,
        case.encoder_config,
    )
    for finding in findings:
        yield _result(finding)


def _opens(case: Case) -> bool:
    """Tell whether the encoder can be loaded here: on the BPU the node may have its memory."""
    if case.encoder is None or not case.machine.is_live:
        return False
    try:
        backend = backend_of(case.encoder, case.encoder_config.backend)
        size = case.encoder.stat().st_size
    except (ModelFileError, OSError):
        return False
    free = free_memory(case.machine)
    return backend == 'onnx' and (free is None or 2 * size < free.ram)


def _result(finding: Finding) -> Result:
    error = finding.error
    if error is None:
        size = Path(finding.file).stat().st_size
        return Result('ok', f'{finding.file}, {size / 1e6:.0f} MB: {finding.text}')
    line = explained(error)
    text = line if line.startswith(finding.file) else f'{finding.file}: {line}'
    if error.setting == 'family' and error.value:
        fact, _, advice = text.rpartition(': set ')
        return Result('failure', fact, f'-p {advice.rstrip(".")}')
    if error.setting == 'EncoderConfig.backend':
        return Result('failure', text, 'take a vision encoder, or name its encoder_backend')
    return Result('failure', text, _GET)
