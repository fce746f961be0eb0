"""Draw results: what a first token waits for, and the speed while the context fills."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hobot_llamacpp_py.errors import VlmError
from hobot_llamacpp_py.tools.bench_engine import FILL, PARTS, WAYS
from hobot_llamacpp_py.tools.bench_results import ENGINE, PART, Results
from hobot_llamacpp_py.tools.whole_file import write_whole

__all__ = ['SUFFIXES', 'check_can_draw', 'draw', 'plot']

SUFFIXES = ('.png', '.svg', '.pdf')  # of files that can be drawn
WIDTH, HEIGHT, DPI = 9.0, 7.6, 100  # inches: 900 x 760 pixels
# The palette of Okabe and Ito, which colour-blind people can tell apart; and what is read on it.
COLOURS = ('#999999', '#0072B2', '#E69F00', '#009E73', '#CC79A7')
TEXT_COLOURS = ('black', 'white', 'black', 'white', 'black')
LABELS = {'text prefill': 'question text'}  # a part, as a reader calls it
SMALL, TITLE = 11, {'fontsize': 13, 'fontweight': 'bold', 'loc': 'left'}


def check_can_draw(results: Results) -> None:
    """Check, before minutes of measuring, that they can be drawn.

    Raises:
        VlmError: matplotlib is missing, or they are those of a sweep.
    """
    if results.kind != ENGINE:
        raise VlmError('--plot draws what is measured without --sweep')
    check_matplotlib()


def check_matplotlib() -> None:
    """Check that matplotlib is there.

    Raises:
        VlmError: it is missing.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise VlmError(
            '--plot draws with matplotlib: pip3 install matplotlib, or the version of'
            ' requirements/plot.txt'
        ) from None


def plot(results: Results, path: Path) -> None:
    """Draw the results into a file of the kind that its suffix names.

    Raises:
        VlmError: the file cannot be written.
    """
    drawn, kind = draw(results), path.suffix[1:].lower()
    write_whole(path, lambda partial: drawn.savefig(partial, format=kind))


def draw(results: Results) -> Any:
    """Return the results as a matplotlib Figure, first token above, filling below."""
    # Without pyplot it needs no screen.
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(hspace=0.08, h_pad=0.1, w_pad=0.15)
    drawing = Figure((WIDTH, HEIGHT), dpi=DPI, layout=layout)
    above, below = drawing.subplots(2)
    _draw_first_token(above, results)
    _draw_filling(below, results)
    facts = results.machine | results.model | results.settings
    drawing.suptitle(
        f'{facts["decoder"]}, encoder: {facts["encoder"]}\n'
        f'{facts["processor"]}, {facts["threads"]} of {facts["cores"]} cores',
        fontsize=SMALL,
    )
    return drawing


def _draw_first_token(axes: Any, results: Results) -> None:
    lefts = [0.0] * len(WAYS)
    longest = max(results.value(f'{way} ms') for way in WAYS)
    for part, colour, text_colour in zip(PARTS, COLOURS, TEXT_COLOURS, strict=True):
        found = [results.figures.get(f'{way}{PART}{part}') for way in WAYS]
        widths = [item.value if item else 0.0 for item in found]
        bars = axes.barh(
            WAYS, widths, left=lefts, color=colour, label=LABELS.get(part, part), edgecolor='white'
        )
        numbers = [_number(width) if width > longest / 12 else '' for width in widths]
        axes.bar_label(bars, numbers, label_type='center', color=text_colour, fontsize=SMALL)
        lefts = [left + width for left, width in zip(lefts, widths, strict=True)]
    for row, total in enumerate(lefts):
        text = f'{_number(total)} ms'
        axes.text(total + longest / 100, row, text, va='center', fontsize=SMALL)
    axes.set_xlim(0, 1.12 * longest)
    axes.invert_yaxis()  # the first one above
    axes.grid(axis='x', color='#dddddd')
    axes.set_title('Time to the first token of an answer', pad=32, **TITLE)
    axes.legend(
        loc='lower left',
        bbox_to_anchor=(-0.01, 0.98),
        ncols=len(PARTS),
        frameon=False,
        fontsize=SMALL,
        columnspacing=1.4,
        handlelength=1.2,
    )
    _finish(axes, 'milliseconds after the question')


def _draw_filling(axes: Any, results: Results) -> None:
    found = {
        int(name.removeprefix(FILL)): item
        for name, item in results.figures.items()
        if name.startswith(FILL)
    }
    at, items = [*found], found.values()
    lows, highs = [item.low for item in items], [item.high for item in items]
    axes.fill_between(at, lows, highs, color=COLOURS[1], alpha=0.25, linewidth=0)
    values = [item.value for item in items]
    axes.plot(at, values, color=COLOURS[1], marker='o', linewidth=2, clip_on=False)
    axes.set_xlim(0, results.settings['n_ctx'])
    axes.set_xticks(range(0, results.settings['n_ctx'] + 1, results.settings['n_ctx'] // 8))
    axes.set_ylim(0, 1.15 * max(highs))
    axes.grid(color='#dddddd')
    axes.set_title('Speed of decoding while the context fills', **TITLE)
    axes.set_ylabel('tokens per second', fontsize=SMALL)
    _finish(axes, f'tokens in the context, of {results.settings["n_ctx"]}')


def _finish(axes: Any, x_label: str) -> None:
    axes.set_xlabel(x_label, fontsize=SMALL)
    axes.spines[['top', 'right']].set_visible(False)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=SMALL)


def _number(value: float) -> str:
    return f'{value:.0f}' if value >= 10 else f'{value:.1f}'
