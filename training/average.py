"""Average decoders: `python -m training.average --model internvl --out config FILES`.

Of several ends of one training the mean knows scenes that it never saw better than each of them.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import gguf
from torch import Tensor

from training import command
from training.export import export_decoder, load_decoder
from training.model import Decoder, DecoderConfig
from training.tokenizer import Tokenizer

__all__ = ['Parameters', 'mean']

Parameters = dict[str, Tensor]


def mean(ends: Sequence[Parameters]) -> Parameters:
    """Return the mean of the parameters of some models."""
    return {name: sum(end[name] / len(ends) for end in ends) for name in ends[0]}


def main() -> None:
    """Write the mean of some files as a model's decoder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--model', choices=command.MODELS, required=True)
    parser.add_argument('--out', type=Path, default=Path('config'))
    parser.add_argument('files', type=Path, nargs='+', metavar='FILE')
    args = parser.parse_args()
    tokenizer = Tokenizer(args.model)
    decoder = Decoder(DecoderConfig(len(tokenizer), attention_bias=args.model == 'internvl'))
    ends = []
    for file in args.files:
        load_decoder(decoder, tokenizer, gguf.GGUFReader(file))
        ends.append({name: value.clone() for name, value in decoder.state_dict().items()})
    decoder.load_state_dict(mean(ends))
    print(f'wrote {export_decoder(decoder, tokenizer, args.out)}')


if __name__ == '__main__':
    main()
