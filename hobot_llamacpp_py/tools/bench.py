"""Measure what the engine promises, as ratios within one run, and hold it against its bars.

Without arguments it measures a decoder of the shape of Qwen2.5-0.5B Q4_0 that it writes itself,
with an encoder stand-in; `--llm` and `--encoder` measure real models, on a board for example.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import resource
import sys
from pathlib import Path
from typing import Any

from hobot_llamacpp_py.config import DecoderConfig, EncoderConfig
from hobot_llamacpp_py.engine import FAMILIES, Engine, VlmError
from hobot_llamacpp_py.engine.decoder import Decoder
from hobot_llamacpp_py.tools.bars import Bar, print_verdicts
from hobot_llamacpp_py.tools.bench_engine import Bench, StandInEncoder
from hobot_llamacpp_py.tools.bench_model import write_model
from hobot_llamacpp_py.tools.bench_structured import structured
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
STAND_IN = 'stand-in, which only takes its time'


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark; exit with 1 if a ratio misses its bar."""
    parser = argparse.ArgumentParser(prog='bench', description=__doc__.split('\n')[0])
    parser.add_argument('--llm', type=Path, help='a GGUF decoder in place of the stand-in')
    parser.add_argument('--encoder', type=Path, help='its vision encoder')
    parser.add_argument('--model-type', type=int, default=0, choices=FAMILIES)
    cores = len(os.sched_getaffinity(0))
    parser.add_argument('--threads', type=int, default=min(8, cores), help='%(default)s here')
    parser.add_argument('--rounds', type=int, default=5, help='measurements of each: %(default)s')
    parser.add_argument('--tokens', type=int, default=96, help='of an answer: %(default)s')
    parser.add_argument('--json', type=Path, help='write the results to this file, too')
    options = parser.parse_args(arguments)
    try:
        results = _measure(options)
    except VlmError as error:
        print(f'error: {error}', file=sys.stderr)
        sys.exit(2)
    _print_table(results)
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + '\n')
    sys.exit(not all(BARS[name].holds(ratio) for name, ratio in results['ratios'].items()))


def _measure(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    if (options.llm is None) != (options.encoder is None):
        raise VlmError('--llm and --encoder go together')
    config = DecoderConfig(n_ctx=2048, n_threads=options.threads)
    family = FAMILIES[options.model_type]
    encoder: VisionEncoder
    decoder = Decoder(options.llm or write_model(), config)
    if options.encoder:
        encoder = open_encoder(options.encoder, family, EncoderConfig(n_threads=options.threads))
    else:
        encoder = StandInEncoder(decoder.n_embd)
    figures: dict[str, float] = {}
    with Engine(decoder, encoder, family) as engine:
        bench = Bench(engine, options.rounds, options.tokens)
        for name, measure in (
            ('prefill', bench.prefill),
            ('token loop', bench.token_loop),
            ('speculation', bench.speculation),
            ('structured answers', lambda: structured(engine, options.rounds)),
        ):
            print(f'measuring: {name} ...', file=sys.stderr, flush=True)
            figures |= measure()
        figures['peak memory MB'] = _peak_memory_kib() / 1024
        print('measuring: first token ...', file=sys.stderr, flush=True)
        figures['image encoder ms'] = bench.encode()
        figures |= bench.first_token()
    return {
        'machine': {
            'processor': _processor(),
            'cores': os.cpu_count(),
            'threads': decoder.n_threads,
            'decoder': decoder.path.name,
            'encoder': options.encoder.name if options.encoder else STAND_IN,
        },
        'ratios': {name: figures.pop(name) for name in BARS},
        'figures': figures,
    }


def _peak_memory_kib() -> float:
    """Return the peak of our resident memory and the encoder process's, if there is one."""
    total = 0.0
    for children in Path('/proc/self/task').glob('*/children'):
        for pid in children.read_text().split():
            status = Path(f'/proc/{pid}/status').read_text()
            peak = re.search(r'VmHWM:\s+(\d+)', status)
            total += float(peak[1]) if peak else 0.0
    return total + resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _processor() -> str:
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(':')[1].strip() for line in lines if line.startswith('model name')]
    return names[0] if names else platform.machine()


def _print_table(results: dict[str, dict[str, Any]]) -> None:
    figures = results['figures']
    print(', '.join(f'{name}: {value}' for name, value in results['machine'].items()), '\n')
    columns = ['image encoder ms', 'prefill ms/token', 'eval ms/token', 'cold ms', 'follow-up ms']
    columns += ['prepared ms', 'C++ order ms', 'peak memory MB', 'tokens reused']
    print(f'| {" | ".join(columns)} |\n|{"---|" * len(columns)}')
    print(f'| {" | ".join(f"{figures[name]:.1f}" for name in columns)} |')
    print(
        '\nMilliseconds from a question to its first token: cold, the first one about a picture;'
        ' follow-up, the next;\nprepared, with pre_infer; C++ order, with a context made and the'
        ' picture encoded after the question.\n'
    )
    print_verdicts(BARS, results['ratios'])
    print(
        f'\nOf the {figures["structured, tokens"]:.0f} tokens of the answer in JSON'
        f' {figures["structured, forced"]:.0f} are forced.'
    )
    if results['machine']['encoder'] != STAND_IN:
        print('\nThe bars are for the model and the stand-in that the benchmark brings itself.')
        return
    n_prompt = figures['tokens reused'] + figures['follow-up tokens']
    before = X5_ENCODER_MS + X5_PREFILL_MS * n_prompt
    print(
        f'\nOn an RDK X5 with InternVL2.5-1B (published: encoder {X5_ENCODER_MS:.0f} ms, prefill'
        f' {X5_PREFILL_MS} ms a token) the ratio\n"prepared" means {before / 1e3:.1f} s ->'
        f' {before / 1e3 * results["ratios"]["prepared"]:.2f} s to the first token.'
    )


if __name__ == '__main__':
    main()
