"""Average decoders: `python -m training.average --model internvl --out config FILES`.

Of several ends of one training the mean knows scenes that it never saw better than each of them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import gguf

from training import command
from training.export import export_decoder, load_decoder
from training.model import Decoder, DecoderConfig
from training.tokenizer import Tokenizer


def main() -> None:
    """Write the mean of some files as a model's decoder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--model', choices=command.MODELS, required=True)
    parser.add_argument('--out', type=Path, default=Path('config'))
    parser.add_argument('files', type=Path, nargs='+', metavar='FILE')
    args = parser.parse_args()
    tokenizer = Tokenizer(args.model)
    decoder = Decoder(DecoderConfig(len(tokenizer), attention_bias=args.model == 'internvl'))
    total = {name: value.clone().zero_() for name, value in decoder.state_dict().items()}
    for file in args.files:
        load_decoder(decoder, tokenizer, gguf.GGUFReader(file))
        for name, value in decoder.state_dict().items():
            total[name] += value / len(args.files)
    decoder.load_state_dict(total)
    print(f'wrote {export_decoder(decoder, tokenizer, args.out)}')


if __name__ == '__main__':
    main()
