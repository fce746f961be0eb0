"""List, download and check the models of the catalogue."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hobot_llamacpp_py import catalogue
from hobot_llamacpp_py.board import BOARDS, this_board
from hobot_llamacpp_py.catalogue import Edition, Model
from hobot_llamacpp_py.errors import ModelFileError
from hobot_llamacpp_py.files import find_file
from hobot_llamacpp_py.folders import model_folders, models_folder
from hobot_llamacpp_py.tools.arguments import ArgumentParser
from hobot_llamacpp_py.tools.model_check import Finding, check_edition, check_files, failure
from hobot_llamacpp_py.tools.model_download import Download, in_words

__all__ = ['main']

RUN = 'ros2 run hobot_llamacpp_py hobot_llamacpp_py --ros-args'


def main(arguments: list[str] | None = None) -> None:
    """Do what the command line says; exit with 1 if that failed, or a file is not good."""
    options = _parser().parse_args(arguments)
    try:
        status = options.run(options)
    except ModelFileError as error:
        if options.json:
            print(json.dumps({'error': str(error)}, ensure_ascii=False))
        print(f'error: {error}', file=sys.stderr)
        status = 1
    except KeyboardInterrupt:
        print('\ninterrupted: run the same command again to go on from here', file=sys.stderr)
        status = 130
    sys.exit(status)


def _parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(
        prog='models',
        description=__doc__,
        epilog='Exit status: 0, or 1 when a download failed or a file is not good. A mirror of'
        ' the hub: HF_ENDPOINT; for private models: `hf auth login`, or HF_TOKEN.',
    )
    verbs = parser.add_subparsers(required=True, metavar='list | get | verify')
    for verb, run, sentence in (
        ('list', _list, 'what there is, for which board, and what is on this machine'),
        ('get', _get, 'download encoder and decoder (resumed, if it was broken off), check them'),
        ('verify', _verify, 'check files: whole, of the right kind, belonging to each other'),
    ):
        command = verbs.add_parser(verb, help=sentence, description=f'{sentence}.'.capitalize())
        command.set_defaults(run=run)
        if verb == 'get':
            command.add_argument('name', help='of the catalogue')
            command.add_argument(
                '--dir', type=Path, help=f'the folder of models ({_shown(models_folder())})'
            )
        if verb == 'verify':
            command.add_argument('names', nargs='*', help='models or files (all that is here)')
        if verb != 'list':
            command.add_argument('--board', choices=BOARDS, help=f'this is {this_board()}')
        command.add_argument('--json', action='store_true', help='for programs')
    return parser


# -- list ----------------------------------------------------------------------------------------


def _list(options: argparse.Namespace) -> int:
    rows = [_row(model, edition) for model, edition in _editions()]
    if options.json:
        print(json.dumps(rows, ensure_ascii=False))
        return 0
    for name in dict.fromkeys(row['name'] for row in rows):
        of_model = [row for row in rows if row['name'] == name]
        row = of_model[0]
        languages = ', '.join(row['languages'])
        print(f'{name}  model_type {row["model_type"]}, {row["licence"]}, {languages}')
        for row in of_model:
            here = '  (here)' if row['here'] else ''
            size = f', {in_words(sum(row["megabytes"]) * 10**6)}' if any(row['megabytes']) else ''
            print(f'    {row["board"]:5} {row["encoder"]} + {row["decoder"]}{size}{here}')
    print(f'\nThis is {BOARDS[this_board()]}. To download one: {catalogue.COMMAND} NAME')
    return 0


def _editions() -> Iterator[tuple[Model, Edition]]:
    for model in catalogue.load():
        for edition in model.editions.values():
            yield model, edition


def _row(model: Model, edition: Edition) -> dict[str, Any]:
    return {
        'name': model.name,
        'board': edition.board,
        'repository': edition.repository,
        'encoder': edition.encoder,
        'decoder': edition.decoder,
        'megabytes': list(edition.megabytes),
        'model_type': model.model_type,
        'licence': model.licence,
        'languages': model.languages,
        'here': edition.paths() is not None,
    }


# -- get -----------------------------------------------------------------------------------------


def _get(options: argparse.Namespace) -> int:
    model = catalogue.find(options.name)
    edition = model.edition(options.board or this_board())
    folder = options.dir or models_folder()
    download = Download(edition, folder)
    if not options.json:
        print(
            f'{model.name} for {BOARDS[edition.board]}, from {edition.repository}:'
            f' {in_words(download.size)}, of which {in_words(download.missing)} have to be'
            f' downloaded, into {download.folder}'
        )
    files: list[dict[str, Any]] = []
    for path, size, sha256 in download.run():
        files.append({'path': str(path), 'bytes': size, 'sha256': sha256})
        if not options.json:
            print(f'{path}: {in_words(size)}, its checksum is right')
    paths = [Path(file['path']) for file in files]
    # Another board's encoder cannot be opened here.
    board = this_board() if edition.board == this_board() else 'pc'
    findings = list(check_files(paths, board, model.family, as_served=True))
    status = _status(findings)
    command = _run_line(model, edition, folder, paths)
    if options.json:
        result = {'model': model.name, 'board': edition.board, 'files': files}
        failed = '; '.join(f'{f.file}: {f.text}' for f in findings if not f.ok)
        outcome = {'error': failed} if status else {'command': command}
        print(json.dumps({**result, **outcome}, ensure_ascii=False))
        return status
    _print(findings)
    if status:
        return status
    if edition.board not in (this_board(), 'pc'):
        print(f'Copy {download.folder} into the folder of models on the board. There:')
    print(f'    {command}')
    return 0


def _run_line(model: Model, edition: Edition, folder: Path, paths: list[Path]) -> str:
    """Return the line that asks the model about the sample picture."""
    question = '描述一下这张图片.' if 'zh' in model.languages else 'Describe the image.'
    asked = f'-p image:=config/image2.jpg -p user_prompt:="{question}"'
    searched = folder.absolute() in [place.absolute() for place in model_folders()]
    place = '' if searched else f'HOBOT_LLAMACPP_MODELS={shlex.quote(str(folder.absolute()))} '
    ready = model.ready() if searched else edition
    if edition.board not in (this_board(), 'pc') or ready == edition:
        return f'{place}{RUN} -p llm_model_name:={model.name} {asked}'
    encoder, decoder = (shlex.quote(str(path)) for path in paths)
    return (
        f'{RUN} -p model_type:={model.model_type} -p model_file_name:={encoder}'
        f' -p llm_model_name:={decoder} {asked}'
    )


# -- verify --------------------------------------------------------------------------------------


def _verify(options: argparse.Namespace) -> int:
    board = options.board or this_board()
    findings, files = [], []
    for name in filter(_is_file, options.names):
        try:
            files.append(find_file(name, name))
        except ModelFileError as error:
            findings.append(failure(name, error))
    findings += check_files(files, board)
    models = [catalogue.find(name) for name in options.names if not _is_file(name)]
    for model in models:
        found = [f for e in model.editions.values() for f in check_edition(model, e, board)]
        if not found:
            raise ModelFileError(
                f'{model.name} is not on this machine, or not all of it; get it with:'
                f' {catalogue.COMMAND} {model.name}'
            )
        findings += found
    if not options.names:
        for model, edition in _editions():
            findings += check_edition(model, edition, board)
    if options.json:
        rows = [{'file': f.file, 'ok': f.ok, 'text': f.text} for f in findings]
        print(json.dumps(rows, ensure_ascii=False))
        return _status(findings)
    _print(findings)
    if not findings:
        places = ', '.join(dict.fromkeys(_shown(folder) for folder in model_folders()))
        print(f'There is no model of the catalogue in {places}.')
    return _status(findings)


def _is_file(name: str) -> bool:
    return catalogue.known_model(name) is None


def _print(findings: list[Finding]) -> None:
    for finding in findings:
        print(f'{"ok" if finding.ok else "FAILED":6} {finding.file}: {finding.text}')


def _status(findings: list[Finding]) -> int:
    return int(not all(finding.ok for finding in findings))


def _shown(folder: Path) -> str:
    return str(folder.absolute())


if __name__ == '__main__':
    main()
