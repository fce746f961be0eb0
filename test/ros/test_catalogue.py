"""A name of the catalogue in place of a model's files."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from nano import CONFIG
from robot import Robot, without_stamps

Start = Callable[..., AbstractContextManager[Robot]]
NAMED = dict(model_file_name=None, model_type=None, image=CONFIG / 'image2.jpg')
ANSWER = (
    'There is a yellow star at the top, a red circle on the left and a blue square on the right.'
)


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder of models with the built-in ones under a public model's names."""
    monkeypatch.setenv('XDG_DATA_HOME', str(tmp_path))
    folder = tmp_path / 'hobot_llamacpp_py/models/SmolVLM2-256M'
    folder.mkdir(parents=True)
    name = 'SmolVLM2-256M-Video-Instruct-Q8_0.gguf'
    shutil.copy(CONFIG / 'nano_smolvlm.gguf', folder / name)
    shutil.copy(CONFIG / 'mmproj-nano_smolvlm.gguf', folder / f'mmproj-{name}')
    return folder


@pytest.mark.usefixtures('models')
def test_one_name_for_all(start: Start) -> None:
    """The name gives decoder, encoder and model_type; they can be asked for afterwards."""
    with start(llm_model_name='smolvlm2-256m', **NAMED) as robot:
        robot.wait_until_ready()
        assert robot.ask('Describe the image.') == ANSWER
        assert robot.status['model_file_name'].endswith(
            'mmproj-SmolVLM2-256M-Video-Instruct-Q8_0.gguf'
        )


@pytest.mark.usefixtures('models')
def test_a_file_of_the_catalogue_by_its_bare_name(start: Start) -> None:
    """What `models get` has put into a folder of its own is found as the documents call it."""
    bare = dict(llm_model_name='SmolVLM2-256M-Video-Instruct-Q8_0.gguf', model_type=1)
    encoder = 'mmproj-SmolVLM2-256M-Video-Instruct-Q8_0.gguf'
    with start(**{**NAMED, **bare, 'model_file_name': encoder}) as robot:
        robot.wait_until_ready()
        assert robot.ask('Describe the image.') == ANSWER


@pytest.mark.usefixtures('models')
def test_an_encoder_of_ones_own(start: Start) -> None:
    """An encoder that is given counts, whatever the catalogue has."""
    own = CONFIG / 'nano_smolvlm_vit.onnx'
    with start(**{**NAMED, 'model_file_name': own}, llm_model_name='SmolVLM2-256M') as robot:
        robot.wait_until_ready()
        assert robot.ask('Describe the image.') == ANSWER
        assert robot.status['model_file_name'] == str(own)


def test_what_is_missing(start: Start, models: Path) -> None:
    """A model that is not here, or not wholly, is one line with the command that gets it."""
    for encoder in models.glob('mmproj-*'):
        encoder.unlink()
    with start(llm_model_name='SmolVLM2-256M', **NAMED) as robot:
        assert robot.wait_for_end() == 1
    assert without_stamps(robot.log)[-1] == (
        'FATAL: llm_model_name: SmolVLM2-256M is not on this machine, or not all of it; get it'
        ' with: ros2 run hobot_llamacpp_py models get SmolVLM2-256M'
    )
