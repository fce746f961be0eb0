"""Import the package and ask the built-in models; whole_package.sh runs it on the board."""

from __future__ import annotations

import importlib
import pkgutil
import platform

import cv2
import numpy as np
from nano import MODELS, answer, draw_scene, request_of

import hobot_llamacpp_py
from hobot_llamacpp_py.config import DecoderConfig, SamplingConfig
from hobot_llamacpp_py.engine import Engine, Turn

# Rooms that need ROS, or what their own requirements name.
OPTIONAL = tuple(f'hobot_llamacpp_py.{room}' for room in ('launching', 'remote', 'tools', 'web'))
print(f'{platform.machine()}, numpy {np.__version__}, OpenCV {cv2.__version__}')
for module in pkgutil.walk_packages(hobot_llamacpp_py.__path__, 'hobot_llamacpp_py.'):
    if not module.name.startswith(('hobot_llamacpp_py.ros', 'hobot_llamacpp_py.__main__')):
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as error:
            is_ours = str(error.name).startswith('hobot_llamacpp_py')
            if is_ours or not module.name.startswith(OPTIONAL):
                raise
print('everything imports but what needs ROS, or is no part of board.txt')

for family, (encoder, decoder, kind) in MODELS.items():
    config, right = DecoderConfig(n_threads=1), 0
    with Engine.open(decoder, encoder, family=kind, config=config) as engine:
        for seed in range(5):
            scene, bgr = draw_scene(seed)
            for question in ('Describe the image.', '有几个图形？'):
                turn = Turn(question, engine.picture(bgr))
                request = request_of(turn, sampling=SamplingConfig(temperature=0))
                right += ''.join(engine.generate(request)) == answer(scene, question)
    print(f'{family}: {right} of 10 answers right')
    assert right == 10
