"""Parameters arrive as YAML has read them and are brought back to their types."""

import ast
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from nano import ROOT

from hobot_llamacpp_py.config import Constraint, SamplingConfig
from hobot_llamacpp_py.errors import ParameterError, RuleError
from hobot_llamacpp_py.files import read_text
from hobot_llamacpp_py.ros.parameters import Parameters, coerce, specs
from hobot_llamacpp_py.watch.rules import load_rules


@pytest.mark.parametrize(
    ('name', 'value', 'expected'),
    [
        ('pre_infer', True, 1),
        ('pre_infer', 0, 0),
        ('once', 1, True),
        ('temperature', 0, 0.0),
        ('max_image_age', 3, 3.0),
        ('n_ctx', 2048.0, 2048),
        ('user_prompt', 42, '42'),
        ('user_prompt', 1.5, '1.5'),
        ('user_prompt', True, 'true'),
        ('flash_attn', True, 'on'),
        ('flash_attn', False, 'off'),
    ],
)
def test_coerced(name: str, value: object, expected: object) -> None:
    """A scalar of another type is converted without loss."""
    result = coerce(name, value)
    assert result == expected
    assert type(result) is type(expected)


@pytest.mark.parametrize(
    ('name', 'value', 'words'),
    [
        ('feed_type', 3, 'feed_type: 3 is not one of 0, 1, 2'),
        ('feed_type', 'x', "feed_type: 'x' is not a whole number"),
        ('n_ctx', 2048.5, 'n_ctx: 2048.5 is not a whole number'),
        ('temperature', -1, r'temperature: -1.0 is out of range \(0 to 100\)'),
        ('temperature', float('nan'), 'temperature: nan is not a number'),
        ('temperature', 'hot', "temperature: 'hot' is not a number"),
        ('once', 2, 'once: 2 is not true or false'),
        ('user_prompt', [1, 2], r'user_prompt: \[1, 2\] is not a text'),
        ('resize_mode', 'crop', "resize_mode: 'crop' is not one of letterbox, stretch"),
    ],
)
def test_refused(name: str, value: object, words: str) -> None:
    """A value that does not fit is refused with the parameter's name and what it may be."""
    with pytest.raises(ParameterError, match=words):
        coerce(name, value)


def test_defaults_pass_their_own_checks() -> None:
    """Every default is inside its range; every parameter has a sentence."""
    for spec in specs().values():
        assert coerce(spec.name, spec.default) == spec.default
        assert spec.sentence
    assert Parameters.from_values({}) == Parameters()


def test_params_file() -> None:
    """Every parameter stands in config/params.yaml, and what YAML makes of it is its default."""
    (node,) = yaml.safe_load((ROOT / 'config' / 'params.yaml').read_text('utf-8')).values()
    assert node['ros__parameters'].keys() == specs().keys()
    assert Parameters.from_values(node['ros__parameters']) == Parameters()


def test_history_is_automatic() -> None:
    """-1 keeps the conversation, but not for images on a topic."""
    for feed_type, expected in ((0, -1), (1, 0), (2, -1)):
        assert Parameters(feed_type=feed_type).chat_config('').history_turns == expected
    assert Parameters(feed_type=1, history_turns=3).chat_config('').history_turns == 3


def test_sampling_reaches_the_engine() -> None:
    """Each sampling parameter arrives under its own name."""
    chosen = dict(temperature=0.1, top_k=2, top_p=0.3, min_p=0.4, repeat_penalty=1.5)
    wanted = Constraint('grammar', 'start: "a"')
    sampling = Parameters(**chosen, repeat_last_n=6, seed=7).chat_config('', wanted).sampling
    others = dict(repeat_last_n=6, seed=7, constraint=wanted)
    assert sampling == SamplingConfig(**chosen, **others)


EDITED = """
import dataclasses, json, sys
from hobot_llamacpp_py import config
from hobot_llamacpp_py.engine import Request
from hobot_llamacpp_py.ros.parameters import Parameters, specs

parameters = Parameters()
chat = parameters.chat_config(parameters.system_prompt)
assert chat == config.ChatConfig() == Request(()).config
assert parameters.decoder_config() == config.DecoderConfig()
assert parameters.vision_config() == config.VisionConfig()
assert parameters.encoder_config() == config.EncoderConfig()
print(json.dumps({spec.sets: spec.default for spec in specs().values() if spec.sets}))
"""


def test_text_of_a_large_file_is_refused(tmp_path: Path) -> None:
    """A parameter that names a model's file in place of a text's takes no memory for it."""
    path = tmp_path / 'model.gguf'
    with path.open('wb') as file:
        file.truncate(64 << 30)
    with pytest.raises(ParameterError, match='is too large: more than 1000000 characters'):
        read_text('json_schema', str(path))
    with pytest.raises(RuleError, match='more than 1000000 characters'):
        load_rules(path)


def test_a_default_has_one_home(tmp_path: Path) -> None:
    """A default that is changed in config.py is changed for parameters and Python users alike."""
    copy = tmp_path / 'hobot_llamacpp_py'
    shutil.copytree(ROOT / 'hobot_llamacpp_py', copy)
    source = (copy / 'config.py').read_text('utf-8')

    def other(match: re.Match[str]) -> str:
        value = ast.literal_eval(match[3])
        if isinstance(value, bool):
            changed: object = not value
        elif isinstance(value, (int, float)):
            changed = value + 1
        else:
            changed = {'auto': 'on', 'f16': 'q8_0', 'letterbox': 'stretch'}.get(value, value + '!')
        return f'    {match[1]}: {match[2]} = {changed!r}'

    pattern = r'^    (?!backend)(\w+): (\w+) = ([-\d.]+|\'.*\'|True|False)$'
    changed, n = re.subn(pattern, other, source, flags=re.MULTILINE)
    assert n >= 20
    (copy / 'config.py').write_text(changed, 'utf-8')

    result = subprocess.run(
        [sys.executable, '-c', EDITED], cwd=tmp_path, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    before = {spec.sets: spec.default for spec in specs().values() if spec.sets}
    after = json.loads(result.stdout)
    same = {name for name in before if before[name] == after[name]}
    assert same == {'EncoderConfig.backend'}
