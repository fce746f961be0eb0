"""What a benchmark promises: ratios, the bars that they have to reach, and the verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ['Bar', 'print_ratios', 'print_verdicts']


@dataclass(frozen=True)
class Bar:
    """What a ratio has to reach, and what it says."""

    is_least: bool
    value: float
    sentence: str

    def holds(self, ratio: float) -> bool:
        """Tell whether a measured ratio is good enough."""
        return ratio >= self.value if self.is_least else ratio <= self.value


def print_ratios(bars: Mapping[str, Bar], ratios: Mapping[str, float]) -> None:
    """Print each ratio and what it says, of models that the bars are not for."""
    for name, ratio in ratios.items():
        print(f'{name:23} {ratio:6.3f}  {bars[name].sentence}')


def print_verdicts(bars: Mapping[str, Bar], ratios: Mapping[str, float]) -> bool:
    """Print each ratio beside its bar; tell whether all hold."""
    for name, ratio in ratios.items():
        bar = bars[name]
        verdict = 'ok' if bar.holds(ratio) else 'MISSED'
        sign = '>=' if bar.is_least else '<='
        print(f'{name:23} {ratio:6.3f}  {sign} {bar.value:<5} {verdict:7} {bar.sentence}')
    all_hold = all(bars[name].holds(ratio) for name, ratio in ratios.items())
    if not all_hold:
        print('\nOn a busy machine, or with few rounds, these are noise: measure again later.')
    return all_hold
