"""Measure what the engine promises, as ratios within one run, and hold it against its bars.

Without arguments it measures a decoder of the shape of Qwen2.5-0.5B Q4_0 that it writes itself,
with an encoder stand-in: the bars are for these. `--llm` and `--encoder` measure real models, on
a board for example.
"""

from __future__ import annotations

import argparse
import re
import resource
import sys
from pathlib import Path

from hobot_llamacpp_py import catalogue
from hobot_llamacpp_py.config import DecoderConfig, EncoderConfig
from hobot_llamacpp_py.engine import FAMILIES, Engine, VlmError
from hobot_llamacpp_py.engine.threads import MOST, usable_cores
from hobot_llamacpp_py.files import find_file
from hobot_llamacpp_py.tools.arguments import (
    EXIT_STATUS,
    ArgumentParser,
    count,
    find_decoder,
    find_edition,
    positive,
)
from hobot_llamacpp_py.tools.bars import Bar, print_ratios, print_verdicts
from hobot_llamacpp_py.tools.bench_compare import check_comparable, print_comparison
from hobot_llamacpp_py.tools.bench_engine import Bench, NotingDecoder, StandInEncoder
from hobot_llamacpp_py.tools.bench_model import write_model
from hobot_llamacpp_py.tools.bench_plot import SUFFIXES, check_can_draw, plot
from hobot_llamacpp_py.tools.bench_results import (
    ENGINE,
    THREADS,
    Results,
    check_folder,
    facts_of_model,
    figure,
    in_digits,
)
from hobot_llamacpp_py.tools.bench_structured import structured
from hobot_llamacpp_py.tools.bench_sweep import MOST_TRIED, print_sweep, sweep
from hobot_llamacpp_py.tools.bench_threads import SECONDS
from hobot_llamacpp_py.vision.encoder import VisionEncoder
from hobot_llamacpp_py.vision.open import open_encoder

__all__ = ['main']

BARS = {
    'follow-up, no encoder': Bar(
        False,
        0.15,
        'time to first token of a second question about the same picture, by that of a first'
        ' question less its encoder time',
    ),
    'follow-up': Bar(False, 0.06, 'the same by the whole time of the first question'),
    'prepared': Bar(
        False,
        0.06,
        "time to first token with pre_infer and the picture prepared, by that of the C++ node's"
        ' order of work: new context, system prompt, encoder, image, question',
    ),
    'token loop': Bar(
        True,
        0.97,
        'tokens per second of the engine, by those of a bare loop of llama_decode and sampler',
    ),
    'embeddings': Bar(
        True, 0.97, 'prefill speed of image embeddings, by that of as many text tokens'
    ),
    'repeated answer': Bar(
        True, 1.8, 'tokens per second of an answer given before, by those without speculation'
    ),
    'wrong drafts': Bar(
        True,
        0.97,
        'tokens per second where every draft is wrong, by those without speculation (each decode'
        ' at the median time of its size)',
    ),
    'constrained token': Bar(
        False, 1.03, 'time of a token that is sampled under a JSON Schema, by that of a free one'
    ),
    'structured answer': Bar(
        True,
        1.3,
        "tokens per second of a robot's answer in JSON (three objects), by those of free text",
    ),
    'structured, first token': Bar(
        False, 1.05, 'its time to first token, with a schema seen before, by that of free text'
    ),
}

# Published for InternVL2.5-1B on the X5: encoder ms, prefill ms a token.
X5_ENCODER_MS, X5_PREFILL_MS = 2456.0, 7.7
STAND_IN = {'encoder': 'stand-in, which only takes its time'}
# The options that tell what to measure, and how.
MEASURING = (
    *('llm', 'encoder', 'model_type', 'threads', 'n_ctx', 'rounds', 'tokens', 'sweep', 'seconds'),
)


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark, or look at what it found before; exit with 1 if that is not good.

    Wrong options: 2.
    """
    options = _parse(arguments)
    try:
        is_fine = _run(options)
    except VlmError as error:
        print(f'error: {error}', file=sys.stderr)
        sys.exit(1)
    sys.exit(not is_fine)


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = ArgumentParser(
        prog='bench', description=(__doc__ or '').split('\n')[0], epilog=EXIT_STATUS
    )
    add = parser.add_argument
    add('--llm', metavar='MODEL', help='a GGUF decoder, or a name of `models list`; no bars then')
    add('--encoder', metavar='FILE', help='the vision encoder of a decoder that is a file')
    add('--model-type', type=int, choices=FAMILIES, help='0; of a named model: its own')
    most = min(MOST, usable_cores())
    add('--threads', type=count, default=most, help='%(default)s here; of --sweep the most')
    add('--n-ctx', type=count, default=2048, help='size of the context: %(default)s')
    add('--rounds', type=count, default=5, help='measurements of each: %(default)s')
    add('--tokens', type=count, default=96, help='of an answer: %(default)s')
    add('--sweep', action='store_true', help='find the number of threads to set, nothing else')
    add('--seconds', type=positive, default=SECONDS, help='of a --sweep measurement: %(default)s')
    add('--json', type=Path, metavar='FILE', help='write the results to this file, too')
    add('--from', type=Path, dest='source', metavar='FILE', help='read such, measure nothing')
    add('--compare', type=Path, metavar='FILE', help='hold the results against earlier ones')
    limit = 'how much worse a figure may get, as a share: %(default)s'
    add('--tolerance', type=positive, default=0.05, help=limit)
    kinds = ', '.join(SUFFIXES)
    add('--plot', type=Path, metavar='FILE', help=f'draw the results, with matplotlib: {kinds}')
    options = parser.parse_args(arguments)
    if options.source:
        for name in MEASURING:
            if getattr(options, name) != parser.get_default(name):
                parser.error(f'--from measures nothing: leave --{name.replace("_", "-")} out')
    has_both = bool(options.llm) == bool(options.encoder)
    # A model of the catalogue brings its own encoder.
    if not (has_both or options.sweep or catalogue.is_name(options.llm or '')):
        parser.error('--llm and --encoder go together')
    if options.plot and options.plot.suffix.lower() not in SUFFIXES:
        parser.error(f'--plot draws {kinds}, and not {options.plot}')
    if options.plot and options.sweep:
        parser.error('--plot draws what is measured without --sweep')
    return options


def _run(options: argparse.Namespace) -> bool:
    """Measure, or read what was measured; show it, and tell whether all is well."""
    # Minutes of measuring shall not end in an error that could be seen before.
    for path in filter(None, (options.json, options.plot)):
        check_folder(path)
    earlier = Results.read(options.compare) if options.compare else None
    results = Results.read(options.source) if options.source else _begin(options)
    if results.kind not in (ENGINE, THREADS):
        raise VlmError(f'{options.source} is of another benchmark, of kind {results.kind!r}')
    if earlier:
        check_comparable(earlier, options.compare, results)
    if options.plot:
        check_can_draw(results)
    if not options.source:
        _measure(results, options)
    if options.json:
        results.write(options.json)
    is_fine = _show(results)
    if options.plot:
        plot(results, options.plot)
    if earlier:
        is_fine &= print_comparison(earlier, options.compare, results, BARS, options.tolerance)
    return is_fine


def _begin(options: argparse.Namespace) -> Results:
    """Return results without figures: what is going to be measured; find the models."""
    _find_models(options)
    model = facts_of_model('decoder', options.llm)
    threads = min(options.threads, cores := usable_cores())
    if options.threads > cores:
        print(f'--threads {options.threads}: there are {cores} cores, so {cores}', file=sys.stderr)
    if options.sweep:
        return Results(THREADS, options.rounds, model, {MOST_TRIED: threads})
    model |= facts_of_model('encoder', options.encoder) if options.encoder else STAND_IN
    settings = {'threads': threads, 'n_ctx': options.n_ctx, 'tokens': options.tokens}
    return Results(ENGINE, options.rounds, model, settings)


def _find_models(options: argparse.Namespace) -> None:
    """Put paths in the place of names; without names, that of the stand-in."""
    if not options.llm:
        options.llm = write_model()
        return
    edition = find_edition(options.llm)
    if edition and options.model_type is None:
        options.model_type = catalogue.find(options.llm).model_type
    options.llm = find_decoder(options.llm)
    if options.encoder:
        options.encoder = find_file('--encoder', options.encoder)
    elif edition and (paths := edition.paths()):
        options.encoder = paths[0]


def _measure(results: Results, options: argparse.Namespace) -> None:
    """Add the figures to the results."""
    if results.kind == THREADS:
        sweep(results, options.llm, options.seconds)
        return
    n_threads = results.settings['threads']
    family = FAMILIES[options.model_type or 0]
    encoder: VisionEncoder
    decoder = NotingDecoder(options.llm, DecoderConfig(options.n_ctx, n_threads=n_threads))
    if options.encoder:
        encoder = open_encoder(options.encoder, family, EncoderConfig(n_threads=n_threads))
    else:
        encoder = StandInEncoder(decoder.n_embd)
    figures = results.figures
    with Engine(decoder, encoder, family) as engine:
        bench = Bench(engine, options.rounds, options.tokens)
        for name, measure in (
            ('prefill', bench.prefill),
            ('token loop', bench.token_loop),
            ('speculation', bench.speculation),
            ('structured answers', lambda: structured(engine, options.rounds)),
            # Before the first token, for which there is another decoder.
            ('memory', lambda: {'peak memory MB': figure([_peak_memory_kib() / 1024])}),
            ('image encoder', bench.encode),
            ('first token', bench.first_token),
            ('filling the context', bench.filling),
        ):
            print(f'measuring: {name} ...', file=sys.stderr, flush=True)
            figures |= measure()
    results.ratios = {name: figures.pop(name) for name in BARS}


def _peak_memory_kib() -> float:
    """Return the peak of our resident memory and the encoder process's, if there is one."""
    total = 0.0
    for children in Path('/proc/self/task').glob('*/children'):
        for pid in children.read_text().split():
            status = Path(f'/proc/{pid}/status').read_text()
            peak = re.search(r'VmHWM:\s+(\d+)', status)
            total += float(peak[1]) if peak else 0.0
    return total + resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _show(results: Results) -> bool:
    """Print the results; tell whether all ratios that have bars reach them."""
    if results.kind == THREADS:
        print_sweep(results)
        return True
    _print_table(results)
    ratios, is_fine = {name: item.value for name, item in results.ratios.items()}, True
    if _is_stand_in(results):
        is_fine = print_verdicts(BARS, ratios)
    else:
        print_ratios(BARS, ratios)
    _print_explanations(results)
    return is_fine


def _is_stand_in(results: Results) -> bool:
    """Tell whether they are of what the benchmark brings itself, which the bars are for."""
    return bool(results.model['encoder'] == STAND_IN['encoder'])


def _print_table(results: Results) -> None:
    print(results.conditions(), '\n')
    columns = ['image encoder ms', 'prefill ms/token', 'eval ms/token', 'cold ms', 'follow-up ms']
    columns += ['prepared ms', 'C++ order ms', 'peak memory MB', 'tokens reused']
    print(f'| {" | ".join(columns)} |\n|{"---|" * len(columns)}')
    print(f'| {" | ".join(in_digits(results.value(name)) for name in columns)} |')
    print(
        '\nMilliseconds from a question to its first token: cold, the first one about a picture;'
        ' follow-up, the next;\nprepared, with pre_infer; C++ order, with a context made and the'
        ' picture encoded after the question.\n'
    )


def _print_explanations(results: Results) -> None:
    print(
        f'\nOf the {results.value("structured, tokens"):.0f} tokens of the answer in JSON'
        f' {results.value("structured, forced"):.0f} are forced.'
    )
    if not _is_stand_in(results):
        return
    n_prompt = results.value('tokens reused') + results.value('follow-up tokens')
    before = X5_ENCODER_MS + X5_PREFILL_MS * n_prompt
    print(
        f'\nOn an RDK X5 with InternVL2.5-1B (published: encoder {X5_ENCODER_MS:.0f} ms, prefill'
        f' {X5_PREFILL_MS} ms a token) the ratio\n"prepared" means {before / 1e3:.1f} s ->'
        f' {before / 1e3 * results.ratios["prepared"].value:.2f} s to the first token.'
    )


if __name__ == '__main__':
    main()
