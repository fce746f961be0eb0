"""Draw how likely the answers to standing questions were over a recording."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hobot_llamacpp_py.drawing.fonts import Fonts
from hobot_llamacpp_py.errors import DrawingError, VlmError
from hobot_llamacpp_py.tools.bench_plot import COLOURS, SMALL, SUFFIXES, check_matplotlib
from hobot_llamacpp_py.tools.watch_table import Row, shown
from hobot_llamacpp_py.tools.whole_file import write_whole
from hobot_llamacpp_py.watch.rules import Rule

__all__ = ['check_can_draw', 'plot']

WIDTH, HEIGHT, DPI = 9.0, 1.7, 100  # inches; the height is that of one rule


def check_can_draw(path: Path, rules: Sequence[Rule]) -> None:
    """Check, before the recording is gone through, that it can be drawn.

    Raises:
        VlmError: matplotlib is missing, it does not know such files, or there is nothing to draw.
    """
    if all(rule.kind == 'text' for rule in rules):
        raise VlmError('--plot: rules of kind text have no probabilities to draw')
    if path.suffix.lower() not in SUFFIXES:
        raise VlmError(f'--plot: {path} must end with {", ".join(SUFFIXES)}')
    if not path.absolute().parent.is_dir():
        raise VlmError(f'--plot: there is no folder {path.parent}')
    check_matplotlib()


def plot(rules: Sequence[Rule], rows: Sequence[Row], path: Path) -> None:
    """Draw the probability of each rule's answers over time, text rules left out.

    Raises:
        VlmError: the file cannot be written.
    """
    drawn = _draw([rule for rule in rules if rule.kind != 'text'], rows)
    kind = path.suffix[1:].lower()
    with warnings.catch_warnings():  # one for each character that no font has: Fonts says it once
        warnings.filterwarnings('ignore', 'Glyph')
        write_whole(path, lambda partial: drawn.savefig(partial, format=kind))


def _draw(rules: Sequence[Rule], rows: Sequence[Row]) -> Any:
    from matplotlib.figure import Figure

    figure = Figure((WIDTH, HEIGHT * len(rules) + 0.6), dpi=DPI, layout='constrained')
    all_axes = figure.subplots(len(rules), sharex=True, squeeze=False)[:, 0]
    for axes, rule in zip(all_axes, rules, strict=True):
        _draw_rule(axes, rule, [row for row in rows if row.evaluation.rule.name == rule.name])
    font = _font_for(rules)
    for axes, rule in zip(all_axes, rules, strict=True):
        title = f'{rule.name}: {rule.question}'
        drawn = axes.set_title(title, fontproperties=font, fontsize=SMALL, loc='left')
        drawn.set_parse_math(False)  # a $ is a $
        for text in axes.get_legend().get_texts() if axes.get_legend() else ():
            text.set(fontproperties=font, fontsize=SMALL - 2, parse_math=False)
    all_axes[-1].set_xlabel('seconds', fontsize=SMALL)
    return figure


def _draw_rule(axes: Any, rule: Rule, rows: Sequence[Row]) -> None:
    asked = [row for row in rows if not row.evaluation.is_again]
    seconds = [row.seconds for row in asked]
    if rule.kind == 'yes_no':
        likely = [_of_yes(row) for row in asked]
        axes.plot(seconds, likely, color=COLOURS[1], marker='.', linewidth=1.5)
        axes.axhline(0.5, color=COLOURS[0], linewidth=0.8)
        axes.set_ylabel('P(yes)', fontsize=SMALL)
    else:
        answers = list(dict.fromkeys(shown(row.evaluation) for row in asked))
        for number, answer in enumerate(answers):
            of_it = [row for row in asked if shown(row.evaluation) == answer]
            axes.plot(
                [row.seconds for row in of_it],
                [row.evaluation.probability for row in of_it],
                color=f'C{number % 10}',
                marker='.',
                linestyle='none',
                label=answer,
            )
        axes.legend(fontsize=SMALL - 2, loc='center left', bbox_to_anchor=(1.0, 0.5))
        axes.set_ylabel('P(answer)', fontsize=SMALL)
    for row in rows:
        if row.evaluation.has_changed:
            axes.axvline(row.seconds, color=COLOURS[2], linewidth=1.0)
    axes.set_ylim(-0.05, 1.05)
    axes.spines[['top', 'right']].set_visible(False)
    axes.tick_params(labelsize=SMALL - 1)


def _font_for(rules: Sequence[Rule]) -> Any:
    """Return a font that has the characters of all rules, Chinese ones too."""
    from matplotlib.font_manager import FontProperties

    texts = [text for rule in rules for text in (rule.name, rule.question, *rule.answers)]
    try:
        return FontProperties(fname=Fonts().of(''.join(texts)).path)
    except DrawingError as error:
        print(f'--plot: {error}', file=sys.stderr)
        return FontProperties()


def _of_yes(row: Row) -> float:
    """Return how likely yes was."""
    probability = row.evaluation.probability or 0.0
    return probability if row.evaluation.value else 1 - probability
