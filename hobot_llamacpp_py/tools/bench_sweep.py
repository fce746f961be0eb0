"""Find the number of threads to set: what each one costs, alone and beside a busy core."""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path

from hobot_llamacpp_py.tools.bench_results import Results, figure
from hobot_llamacpp_py.tools.bench_threads import Runner, neighbours

__all__ = ['MOST_TRIED', 'print_sweep', 'sweep']

MOST_TRIED = 'threads tried'  # a setting of the results
KINDS = ('prefill', 'eval')
ALONE, BUSY = 'alone', 'beside a busy core'
# What numbers are judged by: a question about a new picture, and an answer to it.
N_PROMPT, N_ANSWER = 300, 64
ENOUGH = 1.05  # the time of the adaptive number by that of the best fixed one, to prefer it


def sweep(results: Results, llm: Path, seconds: float) -> None:
    """Measure each number of threads up to that of the settings; add the figures to the results.

    Args:
        seconds: of one measurement.

    Raises:
        VlmError: the model cannot be loaded.
    """
    with closing(Runner(llm, results.settings[MOST_TRIED])) as runner:
        for situation, n_busy in ((ALONE, 0), (BUSY, 1)):
            for kind, measure in zip(KINDS, (runner.prefill, runner.decode), strict=True):
                print(f'measuring: {kind}, {situation} ...', file=sys.stderr, flush=True)
                measure(0, seconds)
                with neighbours(n_busy):
                    measure(0, seconds)  # who comes is noticed within a second
                    speeds = runner.in_turn(measure, results.rounds, seconds)
                for n, found in speeds.items():
                    name = _name(n, kind, situation)
                    results.figures[name] = figure([1e3 / speed for speed in found])
    results.figures['best llm_threads'] = figure([_best(results)])


def print_sweep(results: Results) -> None:
    """Print the table, and in words what to set."""
    most = results.settings[MOST_TRIED]
    print(results.conditions(), '\n')
    columns = [f'{kind} ms/token, {situation}' for kind in KINDS for situation in (ALONE, BUSY)]
    print(f'| llm_threads | {" | ".join(columns)} |\n|{"---|" * 5}')
    for n in range(most + 1):
        cells = [
            f'{results.value(_name(n, kind, situation)):.1f}'
            for kind in KINDS
            for situation in (ALONE, BUSY)
        ]
        print(f'| {n or "0 (as many as others leave free)"} | {" | ".join(cells)} |')
    best = _best(results)
    seconds = _seconds(results, best, ALONE), _seconds(results, best, BUSY)
    others = ', '.join(
        f'{_seconds(results, n, BUSY):.2f} s with {n}'
        for n in sorted({0, 1, most - 1, most} - {best})
    )
    print(
        f'\nSet llm_threads to {best or "0, the default"}: {N_PROMPT} tokens of prompt and'
        f' {N_ANSWER} of answer take {seconds[0]:.2f} s {ALONE} and {seconds[1]:.2f} s {BUSY}'
        f' (there {others}).'
    )


def _best(results: Results) -> int:
    """Return the best number beside a busy core, as a robot always has one; 0 if it is as good."""
    times = {n: _seconds(results, n, BUSY) for n in range(results.settings[MOST_TRIED] + 1)}
    fixed = min((n for n in times if n), key=lambda n: times[n])
    return 0 if times[0] <= ENOUGH * times[fixed] else fixed


def _seconds(results: Results, n: int, situation: str) -> float:
    prefill, eval_ = (results.value(_name(n, kind, situation)) for kind in KINDS)
    return (N_PROMPT * prefill + N_ANSWER * eval_) / 1e3


def _name(n: int, kind: str, situation: str) -> str:
    return f'{kind} ms/token, {n or "adaptive"} threads, {situation}'
