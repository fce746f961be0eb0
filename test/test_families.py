"""A model family is one entry: nothing else has to know of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import gguf
from gguf_files import edited
from nano import CONFIG, MODELS, ROOT

SCRIPT = """
import sys
from dataclasses import replace

from hobot_llamacpp_py.families import FAMILIES, INTERNVL, PromptLayout

FAMILIES[7] = replace(
    INTERNVL,
    number=7,
    name='Picnic',
    models='Picnic 1',
    prompt=replace(
        INTERNVL.prompt,
        user='<|im_start|>user\\n',
        images=(('<|im_start|>user\\n<pic>', '</pic>\\n'),),
    ),
)

from hobot_llamacpp_py.engine import Chat, Engine, EncoderConfig, ModelFileError
from hobot_llamacpp_py.ros.parameters import Parameters, explained
from hobot_llamacpp_py.vision.encoder_process import ProcessEncoder
from hobot_llamacpp_py.vision.image_file import read_image

decoder, encoder, image = sys.argv[1:]
parameters = Parameters.from_values({'model_type': 7, 'temperature': 0, 'llm_threads': 1})
config = parameters.chat_config(parameters.system_prompt)
decoding = parameters.decoder_config()
with Engine.open(decoder, encoder, family=parameters.family, config=decoding) as engine:
    picture = engine.picture(read_image(image))
    print(*Chat(engine, config).ask('Describe the image.', picture), sep='')
try:
    Engine.open(decoder, encoder, family=INTERNVL, config=decoding)
except ModelFileError as error:
    print(explained(error))
outside = ProcessEncoder(encoder, parameters.family, EncoderConfig('onnx'))
print(outside.n_tokens)
outside.close()
"""


def test_one_entry_is_all(tmp_path: Path) -> None:
    """A family that the test adds is asked for by its number, answers, and is recognised."""
    encoder, decoder, _ = MODELS['internvl']
    key = 'tokenizer.ggml.tokens'
    tokens = gguf.GGUFReader(decoder).fields[key].contents()
    renamed = {'<img>': '<pic>', '</img>': '</pic>'}
    path = edited(tmp_path / 'v.gguf', {key: [renamed.get(token, token) for token in tokens]})

    arguments = [str(path), str(encoder), str(CONFIG / 'image2.jpg')]
    result = subprocess.run(
        [sys.executable, '-c', SCRIPT, *arguments], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == [
        'There is a yellow star at the top, a red circle on the left and a blue square on the'
        ' right.',
        'InternVL does not fit this GGUF: its vocabulary has no <img> or <|vision_start|>.'
        ' It looks like a Picnic: set model_type:=7.',
        '64',
    ]
