"""Try standing questions on pictures, a folder or a video: what would the robot have said?"""

from __future__ import annotations

import argparse
import contextlib
import csv
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hobot_llamacpp_py.config import ChatConfig
from hobot_llamacpp_py.engine import Engine
from hobot_llamacpp_py.errors import ImageError, PromptError, VlmError
from hobot_llamacpp_py.files import find_file, text_of
from hobot_llamacpp_py.tools.arguments import ArgumentParser, number_from, positive
from hobot_llamacpp_py.tools.frames import frames_of
from hobot_llamacpp_py.tools.model_options import Models, add_model_options, explained
from hobot_llamacpp_py.tools.watch_table import Row, Table, summary
from hobot_llamacpp_py.watch.rules import load_rules
from hobot_llamacpp_py.watch.watcher import Watcher

__all__ = ['main']


def main(arguments: list[str] | None = None) -> None:
    """Ask the rules about each picture and print a table; exit with 1 if that cannot be done."""
    options = _parser().parse_args(arguments)
    try:
        _watch(options)
    except (VlmError, OSError) as error:
        if isinstance(error, VlmError):
            line = explained(error)
        else:  # of what is open already, Python does not tell the name
            line = f'{error.filename or options.csv or "standard output"}: {error.strerror}'
        print(f'error: {line}', file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(1)


def _parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(
        prog='watch',
        description=__doc__,
        epilog='Exit status: 0 after the last picture, 1 if rules, models or pictures cannot be'
        ' read, 2 for wrong options.',
    )
    parser.add_argument('rules', metavar='FILE', help='the YAML file of rules')
    parser.add_argument(
        'sources', nargs='+', metavar='SOURCE', help='a picture, a folder of them, or a video'
    )
    add_model_options(parser)
    parser.add_argument(
        '--rate',
        type=positive,
        help='look at so many frames a second of a video (all); pictures are so many (10)',
    )
    parser.add_argument(
        '--frame-reuse-threshold',
        type=number_from(0, 255),
        default=0.0,
        help='as the parameter of the node: grey levels, 0 to 255 (0)',
    )
    parser.add_argument('--system-prompt', default=ChatConfig.system_prompt, help='%(default)s')
    parser.add_argument('--csv', type=Path, metavar='FILE', help='write each answer into a table')
    parser.add_argument(
        '--plot',
        type=Path,
        metavar='FILE',
        help='draw how likely the answers were (png, svg, pdf)',
    )
    return parser


def _watch(options: argparse.Namespace) -> None:
    rules = load_rules(find_file('FILE', options.rules))
    sources = [_found(source) for source in options.sources]
    for source in sources:  # before the models are loaded
        frames_of(source, lambda line: None)
    models = Models.of(options)
    if models.encoder is None:
        raise VlmError('--encoder: rules are about pictures, which need a vision encoder')
    if options.plot:
        from hobot_llamacpp_py.tools.watch_plot import check_can_draw

        check_can_draw(options.plot, rules)
    config = ChatConfig(text_of('--system-prompt', options.system_prompt))
    table, rows = Table(rules), list[Row]()
    with contextlib.ExitStack() as stack:
        writer = None
        if options.csv:
            file = stack.enter_context(options.csv.open('w', newline='', encoding='utf-8'))
            writer = csv.writer(file)
            writer.writerow(Row.FIELDS)
        engine = stack.enter_context(models.open(options.frame_reuse_threshold))
        print(table.head(), flush=True)
        clock, warned = _Clock(), set[str]()
        watcher = Watcher(rules, lambda: clock.now)
        for frame in _frames(sources, options.rate, clock):
            found = list(_ask(watcher, engine, frame, config, warned))
            rows += found
            if writer:
                writer.writerows(row.fields() for row in found)
            print(table.line(frame.name, found), flush=True)
    print(f'\n{summary(rules, rows)}')
    if options.plot:
        from hobot_llamacpp_py.tools.watch_plot import plot

        plot(rules, rows, options.plot)


def _found(source: str) -> Path:
    path = Path(source)
    return path if path.exists() else find_file('SOURCE', source)


@dataclass
class _Clock:
    """The time of the recording."""

    now: float = 0.0


@dataclass(frozen=True)
class _Frame:
    name: str
    seconds: float
    bgr: Any


def _frames(sources: list[Path], rate: float | None, clock: _Clock) -> Iterator[_Frame]:
    """Give the pictures of all sources, one recording after the other."""
    for source in sources:
        begun = clock.now
        frames, own_rate = frames_of(source, lambda line: print(line, file=sys.stderr))
        n, due = 0, 0.0
        for n, frame in enumerate(frames, 1):
            is_picture = bool(frame.name)  # with no time of its own
            own_rate = rate if rate and is_picture else own_rate
            seconds = (n - 1) / own_rate
            if not is_picture and rate and seconds + 1e-9 < due:
                continue
            due += 1 / rate if rate else 0.0
            clock.now = begun + seconds
            yield _Frame(frame.name or f'{source.name} {seconds:.2f} s', clock.now, frame.bgr)
        if not n:
            raise ImageError(f'{source}: there is no picture in it')
        clock.now += 1 / own_rate


def _ask(
    watcher: Watcher, engine: Engine, frame: _Frame, config: ChatConfig, warned: set[str]
) -> Iterator[Row]:
    """Ask what is due about a frame; say once what cannot be asked."""
    try:
        for evaluation in watcher.watch(engine, engine.picture(frame.bgr), frame.seconds, config):
            if not evaluation.is_again or evaluation.has_changed:
                yield Row(frame.name, frame.seconds, evaluation)
    except PromptError as error:
        if str(error) not in warned:
            print(f'left out: {error}', file=sys.stderr)
        warned.add(str(error))


if __name__ == '__main__':
    main()
