"""Say what will fail on this machine, and the command that mends it."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from hobot_llamacpp_py.errors import ParameterError, VlmError
from hobot_llamacpp_py.health.check import Case, Check, Result, find_checks
from hobot_llamacpp_py.health.machine import Machine
from hobot_llamacpp_py.ros.parameters import Parameters, specs
from hobot_llamacpp_py.tools.doctor_report import write_report

__all__ = ['main']

NODE = 'llamacpp_node'
# The parameters that a check looks at; two of them have short names as well.
ASKED = (
    *('feed_type', 'model_file_name', 'llm_model_name', 'is_shared_mem_sub'),
    *('ros_img_sub_topic_name', 'ros_string_sub_topic_name'),
    *('n_ctx', 'n_ubatch', 'flash_attn', 'kv_cache_type', 'encoder_backend'),
)
SHORT = {'llm_model_name': '--llm', 'model_file_name': '--encoder'}
SHARED_TOPIC = '/hbmem_img'


@dataclass(frozen=True)
class Finding:
    """A result, and the check that has it."""

    check: str
    result: Result


def main(arguments: list[str] | None = None) -> None:
    """Run all checks; exit with 1 if something will fail, 2 if the options make no sense."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        case = _case(options)
    except VlmError as error:
        parser.error(str(error))
    if options.root is not None and not options.root.is_dir():
        parser.error(f'{options.root}: no such folder')
    findings = []
    for finding in _examine(case):
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
            write_report(options.report, case.machine, lines)
        except OSError as error:
            parser.error(f'{options.report}: {error.strerror}')
        print(f'the report is in {options.report}', file=sys.stderr)
    sys.exit(1 if failures else 0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
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
    parser.add_argument('--port', type=_port, help='where the node will listen for HTTP')
    parser.add_argument('--no-topics', action='store_true', help='do not look at topics')
    parser.add_argument(
        '--params-file', type=Path, metavar='FILE', help="the node's parameters, as it is given"
    )
    group = parser.add_argument_group("the node's parameters, with its defaults")
    for name in ASKED:
        spec = specs()[name]
        flags = [SHORT[name]] if name in SHORT else []
        group.add_argument(
            *flags,
            f'--{name.replace("_", "-")}',
            dest=name,
            metavar=spec.type.__name__.upper(),
            help=f'{spec.sentence} ({spec.default})'.replace('%', '%%'),
        )
    return parser


def _case(options: argparse.Namespace) -> Case:
    """Return what is to be looked at.

    Raises:
        ParameterError: a value that a parameter cannot have, or a file that holds none.
    """
    values = _from_file(options.params_file) if options.params_file else {}
    for name in ASKED:
        if (given := getattr(options, name)) is not None:
            values[name] = given if specs()[name].type is str else yaml.safe_load(given)
    known = {name: value for name, value in values.items() if name in specs()}
    parameters, edition = Parameters.from_values(known).with_catalogue(known)
    files, missing = parameters.find_models(edition, known)
    topic = SHARED_TOPIC if parameters.is_shared_mem_sub else parameters.ros_img_sub_topic_name
    return Case(
        machine=Machine((options.root or Path('/')).absolute()),
        llm=files.get('llm_model_name'),
        encoder=files.get('model_file_name'),
        missing=(str(missing),) if missing else (),
        decoder_config=parameters.decoder_config(),
        encoder_config=parameters.encoder_config(),
        image_topic=topic if parameters.feed_type == 1 and not options.no_topics else '',
        prompt_topic='' if options.no_topics else parameters.ros_string_sub_topic_name,
        port=options.port,
    )


def _from_file(path: Path) -> dict[str, Any]:
    """Return what a ROS parameter file sets for our node; what stands further down wins."""
    try:
        content = yaml.safe_load(path.read_text('utf-8'))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ParameterError(f'{path} cannot be read: {" ".join(str(error).split())}') from None
    values: dict[str, Any] = {}
    for name, entry in content.items() if isinstance(content, dict) else ():
        if str(name).rpartition('/')[2] in (NODE, '*', '**') and isinstance(entry, dict):
            values |= entry.get('ros__parameters') or {}
    if not values:
        raise ParameterError(f'{path} sets no parameters of {NODE}')
    return values


def _examine(case: Case) -> Iterator[Finding]:
    """Run every check; one that fails itself is a line, and the others go on."""
    for name, check in (*find_checks(), *_of_ros(case)):
        try:
            for result in check(case):
                yield Finding(name, result)
        except Exception as error:  # whatever a broken machine provokes
            said = f'the check itself failed: {type(error).__name__}: {error}'
            yield Finding(name, Result('skipped', said))


def _of_ros(case: Case) -> Iterable[tuple[str, Check]]:
    """Return the check that needs rclpy, where there is one and topics are asked for."""
    if not case.image_topic and not case.prompt_topic:
        return ()
    try:
        from hobot_llamacpp_py.ros.graph_check import check
    except ImportError as error:
        reason = f'topics cannot be looked at: {error}'
        skipped: Callable[[Case], Iterable[Result]] = lambda _: [Result('skipped', reason)]  # noqa: E731
        return (('topics', skipped),)
    return (('topics', check),)


def _print(finding: Finding) -> None:
    print(_line(finding), flush=True)


def _line(finding: Finding) -> str:
    result = finding.result
    mend = f'\n{"":22}-> {result.mend}' if result.mend else ''
    return f'{result.level:8} {finding.check:10} {result.text}{mend}'


def _port(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 1 << 16:
        raise argparse.ArgumentTypeError(f'{text!r} is no port between 1 and 65535')
    return int(text)


if __name__ == '__main__':
    main()
