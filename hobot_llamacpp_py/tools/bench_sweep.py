"""Find the number of threads to set: what each one costs, alone and beside a busy core."""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path

from hobot_llamacpp_py.health.load import BUSY as BUSY_MACHINE
from hobot_llamacpp_py.health.load import Others
from hobot_llamacpp_py.health.machine import THIS
from hobot_llamacpp_py.tools.bench_results import FEW, Figure, Results, figure, in_digits
from hobot_llamacpp_py.tools.bench_threads import Runner, neighbours

__all__ = ['MOST_TRIED', 'print_sweep', 'sweep']

MOST_TRIED = 'threads tried'  # a setting of the results
KINDS = ('prefill', 'eval')
ALONE, BUSY = 'alone', 'beside a busy core'
# What numbers are judged by: a question about a new picture, and an answer to it.
N_PROMPT, N_ANSWER = 300, 64
OTHERS = 'cores that others took'  # while we measured alone
MOST_NOISE = 0.25  # of repetitions alone, as a share
ENOUGH = 1.05  # the time of the adaptive number by that of the best fixed one, to prefer it


def sweep(results: Results, llm: Path, seconds: float) -> None:
    """Measure each number of threads up to that of the settings; add the figures to the results.

    Args:
        seconds: of one measurement.

    Raises:
        VlmError: the model cannot be loaded.
    """
    taken = []
    with closing(Runner(llm, results.settings[MOST_TRIED])) as runner:
        for situation, n_busy in ((ALONE, 0), (BUSY, 1)):
            for kind, measure in zip(KINDS, (runner.prefill, runner.decode), strict=True):
                print(f'measuring: {kind}, {situation} ...', file=sys.stderr, flush=True)
                measure(0, seconds)
                with neighbours(n_busy):
                    measure(0, seconds)  # who comes is noticed within a second
                    others = Others(THIS)
                    speeds = runner.in_turn(measure, results.rounds, seconds)
                    taken.append(sum(share for _, share in others.cores()))
                for n, found in speeds.items():
                    name = _name(n, kind, situation)
                    results.figures[name] = figure([1e3 / speed for speed in found])
    results.figures[OTHERS] = figure([max(taken)])
    results.figures['best llm_threads'] = figure([_best(results)])


def print_sweep(results: Results) -> None:
    """Print the table, and in words what to set."""
    most = results.settings[MOST_TRIED]
    print(results.conditions(), '\n')
    columns = [f'{kind} ms/token, {situation}' for kind in KINDS for situation in (ALONE, BUSY)]
    print(f'| llm_threads | {" | ".join(columns)} |\n|{"---|" * 5}')
    for n in range(most + 1):
        cells = [
            in_digits(results.value(_name(n, kind, situation)))
            for kind in KINDS
            for situation in (ALONE, BUSY)
        ]
        print(f'| {n or "0 (as many as others leave free)"} | {" | ".join(cells)} |')
    disturbed = _disturbed(results)
    if disturbed:
        print(f'\n{disturbed}; on a busy machine these are noise: measure again later.')
    if results.rounds < FEW:
        print(f'\nWith fewer than {FEW} rounds nobody can tell what is noise: no advice.')
    else:
        advice = _advice(results)
        print(f'\nAs it is now: {advice[0].lower()}{advice[1:]}' if disturbed else f'\n{advice}')


def _disturbed(results: Results) -> str:
    """Return what shows that the machine was busy; empty if nothing does."""
    cores = results.machine['cores']
    if (others := results.figures.get(OTHERS)) and others.value > BUSY_MACHINE * cores:
        return f'Others computed on {others.value:.1f} of {cores} cores'
    noise = max(item.noise for name, item in results.figures.items() if name.endswith(ALONE))
    return f'Repetitions {ALONE} differ by {100 * noise:.0f} %' if noise > MOST_NOISE else ''


def _advice(results: Results) -> str:
    best, most = _best(results), results.settings[MOST_TRIED]
    alone, busy = _seconds(results, best, ALONE), _seconds(results, best, BUSY)
    others = ', '.join(
        f'{in_digits(_seconds(results, n, BUSY).value)} s with {n}'
        for n in sorted({0, 1, most - 1, most} - {best})
    )
    if all(busy.overlaps(_seconds(results, n, BUSY)) for n in range(most + 1)):
        advice = 'All llm_threads are about the same here, leave it at 0, the default'
    else:
        advice = f'Set llm_threads to {best or "0, the default"}'
    return (
        f'{advice}: {N_PROMPT} tokens of prompt and {N_ANSWER} of answer take'
        f' {in_digits(alone.value)} s {ALONE} and {in_digits(busy.value)} s {BUSY}'
        f' (there {others}).'
    )


def _best(results: Results) -> int:
    """Return the best number beside a busy core, as a robot always has one.

    Returns:
        0 if that is as good, or as far as the noise lets tell.
    """
    times = {n: _seconds(results, n, BUSY) for n in range(results.settings[MOST_TRIED] + 1)}
    fixed = min((n for n in times if n), key=lambda n: times[n].value)
    is_as_good = times[0].value <= ENOUGH * times[fixed].value
    return 0 if is_as_good or times[0].overlaps(times[fixed]) else fixed


def _seconds(results: Results, n: int, situation: str) -> Figure:
    """Return the seconds of a question and its answer, at best and at worst, too."""
    prefill, eval_ = (results.figures[_name(n, kind, situation)] for kind in KINDS)
    return Figure(
        *(
            (N_PROMPT * one + N_ANSWER * other) / 1e3
            for one, other in (
                (prefill.value, eval_.value),
                (prefill.low, eval_.low),
                (prefill.high, eval_.high),
            )
        )
    )


def _name(n: int, kind: str, situation: str) -> str:
    return f'{kind} ms/token, {n or "adaptive"} threads, {situation}'
