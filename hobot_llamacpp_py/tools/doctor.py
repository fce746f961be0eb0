"""Say what will fail on this machine, and the command that mends it."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from hobot_llamacpp_py.errors import VlmError
from hobot_llamacpp_py.health.check import Case, Check, Result, find_checks
from hobot_llamacpp_py.tools.arguments import ArgumentParser
from hobot_llamacpp_py.tools.doctor_case import Asked, add_parameters, asked_by
from hobot_llamacpp_py.tools.doctor_report import write_report

__all__ = ['main']


@dataclass(frozen=True)
class Finding:
    """A result, and the check that has it."""

    check: str
    result: Result


def main(arguments: list[str] | None = None) -> None:
    """Run all checks; exit with 1 if something will fail, 2 if the options make no sense."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.root is not None and not options.root.is_dir():
        parser.error(f'{options.root}: no such folder')
    try:
        asked = asked_by(options)
        if options.report is not None:  # before all that takes a while
            options.report.open('a').close()
    except VlmError as error:
        parser.error(str(error))
    except OSError as error:
        parser.error(f'{options.report}: {error.strerror}')
    findings = []
    for finding in _examine(asked):
        findings.append(finding)
        if not options.json:
            _print(finding)
    failures = sum(finding.result.level == 'failure' for finding in findings)
    if options.json:
        rows = [{'check': each.check, **asdict(each.result)} for each in findings]
        print(json.dumps({'ok': not failures, 'results': rows}, ensure_ascii=False, indent=1))
    else:
        warnings = sum(finding.result.level == 'warning' for finding in findings)
        print(f'\nfailures: {failures}, warnings: {warnings}')
    if options.report is not None:
        try:
            lines = [_line(finding) for finding in findings]
            write_report(options.report, asked.case.machine, lines)
        except VlmError as error:
            parser.error(str(error))
        print(f'the report is in {options.report}', file=sys.stderr)
    sys.exit(1 if failures else 0)


def _parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(
        prog='doctor',
        description=__doc__,
        epilog='Exit status: 0 nothing will fail, 1 something will, 2 wrong options.',
    )
    parser.add_argument('--json', action='store_true', help='for programs')
    parser.add_argument(
        '--report',
        type=Path,
        metavar='FILE',
        help='write what a bug report needs, nothing private',
    )
    parser.add_argument(
        '--root',
        type=Path,
        metavar='DIR',
        help='a machine whose /proc, /sys and /etc lie here',
    )
    parser.add_argument('--no-topics', action='store_true', help='do not look at topics')
    add_parameters(parser)
    return parser


def _examine(asked: Asked) -> Iterator[Finding]:
    """Run every check; one that fails itself is a line, and the others go on."""
    for name, check in _checks(asked):
        try:
            for result in check(asked.case):
                yield Finding(name, result)
        except ImportError as error:
            yield Finding(name, Result('skipped', f'cannot be looked at: {error}'))
        except Exception as error:  # whatever a broken machine provokes
            said = f'the check itself failed: {type(error).__name__}: {error}'
            yield Finding(name, Result('skipped', said))


def _checks(asked: Asked) -> Iterator[tuple[str, Check]]:
    """Give those of `health`, then those that need what may be missing on a broken machine."""

    def models(_: Case) -> Iterable[Result]:
        from hobot_llamacpp_py.tools.doctor_models import check

        return check(asked)

    def settings(_: Case) -> Iterable[Result]:
        from hobot_llamacpp_py.tools.doctor_settings import check

        return check(asked)

    def server(_: Case) -> Iterable[Result]:
        from hobot_llamacpp_py.tools.doctor_server import check

        return check(asked)

    def topics(case: Case) -> Iterable[Result]:
        from hobot_llamacpp_py.ros.graph_check import check

        return check(case)

    yield from find_checks()
    yield from (('models', models), ('settings', settings), ('server', server))
    if asked.case.image_topic or asked.case.prompt_topic:
        yield 'topics', topics


def _print(finding: Finding) -> None:
    print(_line(finding), flush=True)


def _line(finding: Finding) -> str:
    result = finding.result
    mend = f'\n{"":22}-> {result.mend}' if result.mend else ''
    return f'{result.level:8} {finding.check:10} {result.text}{mend}'


if __name__ == '__main__':
    main()
