"""Hold a benchmark's results against earlier ones, and tell change from noise."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hobot_llamacpp_py.errors import VlmError
from hobot_llamacpp_py.tools.bars import Bar
from hobot_llamacpp_py.tools.bench_results import FEW, PART, Figure, Results

__all__ = ['check_comparable', 'print_comparison']

LOWER_IS_BETTER, HIGHER_IS_BETTER = (' ms', 'ms/token', ' MB'), ('tokens/s',)


def check_comparable(old: Results, path: Path, new: Results) -> None:
    """Check that both are of one machine, one model and the same settings.

    Args:
        path: the file of the old ones.

    Raises:
        VlmError: they are not; names all that differs.
    """
    if old.kind != new.kind:
        raise VlmError(f'{path} is of kind {old.kind!r}, this of kind {new.kind!r} (--sweep)')
    found = []
    for name in ('machine', 'model', 'settings'):
        for key, pair in _differences(getattr(old, name), getattr(new, name)).items():
            found.append(f'{key} is {pair[0]!r} there, {pair[1]!r} here')
    if found:
        raise VlmError(f'{path} cannot be compared with this: {"; ".join(found)}')


def print_comparison(
    old: Results, path: Path, new: Results, bars: Mapping[str, Bar], tolerance: float
) -> bool:
    """Print each figure beside its earlier value; tell whether none is worse beyond the limit.

    Args:
        path: the file of the old ones.
        bars: tell which way the ratios are better.
        tolerance: how much worse a figure may get, as a share.
    """
    print(f'\nCompared with {path} of {old.date}:')
    for name, pair in _differences(old.versions, new.versions).items():
        print(f'{name} was {pair[0]}, is {pair[1]}')
    is_telling = min(old.rounds, new.rounds) >= FEW
    if not is_telling:
        print(f'With fewer than {FEW} rounds nobody can tell what is noise: no verdicts.')
    print('\n| figure | old | new | new / old | noise | |\n|---|---|---|---|---|---|')
    is_fine, before = True, old.ratios | old.figures
    for name, now in (new.ratios | new.figures).items():
        if (then := before.get(name)) is None or not then.value or PART in name:
            continue  # parts of a millisecond may double without meaning anything; sums are here
        signs = _signs(name, bars)
        if signs is None and now.value == then.value:
            continue  # a count, as it was
        ratio = now.value / then.value
        verdict = _verdict(then, now, signs, tolerance) if is_telling else ''
        is_fine &= verdict != 'WORSE'
        noise = max(then.noise, now.noise)
        print(
            f'| {name} | {then.value:.4g} | {now.value:.4g} | {ratio:.3f} |'
            f' {100 * noise:.0f} % | {verdict} |'
        )
    print(
        '\nbetter, worse: both ranges of repetitions (without the tenth at either end) lie apart,'
        '\nand the change exceeds the noise, which is the wider range, as a share;'
        f' WORSE: and {100 * tolerance:g} %, too.'
    )
    return is_fine


def _signs(name: str, bars: Mapping[str, Bar]) -> bool | None:
    """Tell whether more of it is better; None: neither, it is a count."""
    if name in bars:
        return bars[name].is_least
    if any(unit in name for unit in HIGHER_IS_BETTER):
        return True
    return False if any(unit in name for unit in LOWER_IS_BETTER) else None


def _verdict(old: Figure, new: Figure, more_is_better: bool | None, tolerance: float) -> str:
    if more_is_better is None:
        return 'differs'
    if old.overlaps(new):
        return ''
    loss = old.value / new.value if more_is_better else new.value / old.value
    if old.noise == new.noise == 0 and 1 / (1 + tolerance) <= loss <= 1 + tolerance:
        return ''  # measured once only, which tells no noise
    if loss and max(loss, 1 / loss) - 1 <= max(old.noise, new.noise):
        return ''
    if loss < 1:
        return 'better'
    return 'WORSE' if loss > 1 + tolerance else 'worse'


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return what differs, with both values; None where there is none."""
    pairs = {name: (old.get(name), new.get(name)) for name in {**old, **new}}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
