"""The launch files: what they start beside the node, and with which arguments."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from hobot_llamacpp_py import launch_description
from hobot_llamacpp_py.launch_description import arguments, neighbours, node_parameters

ROOT = Path(__file__).parents[1]

VLM_NEIGHBOURS = {
    'mipi_cam': 'mipi_cam.launch.py',
    'hobot_usb_cam': 'hobot_usb_cam.launch.py',
    'hobot_image_publisher': 'hobot_image_publisher.launch.py',
    'hobot_shm': 'hobot_shm.launch.py',
    'hobot_codec': 'hobot_codec_encode.launch.py hobot_codec_decode.launch.py',
    'websocket': 'websocket.launch.py',
}
SPEECH_NEIGHBOURS = {
    'sensevoice_ros2': 'sensevoice_ros2',
    'hobot_tts': 'hobot_tts',
    'aliyun_asr_node': 'asr_node',
    'aliyun_tts_node': 'aliyun_tts_node',
}


def defaults(vlm: bool, environment: dict[str, str] | None = None, **given: str) -> dict[str, str]:
    declared = arguments(vlm, environment or {})
    assert given.keys() <= declared.keys()
    return {name: default for name, (default, _) in declared.items()} | given


# --- What is decided, without launch


def test_arguments_of_the_cpp_package():
    """Both launch files take the C++ package's arguments, with its defaults."""
    both = {
        'llamacpp_gguf_model_file_name': 'Qwen2.5-0.5B-Instruct-Q4_0.gguf',
        'llamacpp_user_prompt': '',
        'llamacpp_text_msg_pub_name': '/tts_text',
        'llamacpp_prompt_msg_sub_name': '/prompt_text',
        'audio_asr_model': 'sense-voice-small-fp16.gguf',
        'audio_device': 'hw:0,0',
        'namespace': '',
        'params_file': '',
    }
    assert defaults(vlm=False) == both | {'llamacpp_system_prompt': 'config/system_prompt.txt'}
    assert defaults(vlm=True) == both | {
        'llamacpp_system_prompt': 'You are a helpful assistant.',
        'llamacpp_image_width': '1920',
        'llamacpp_image_height': '1080',
        'llamacpp_vit_model_file_name': 'vit_model_int16_v2.bin',
        'llamacpp_model_type': '0',
        'llamacpp_advance': '0',
        'device': 'F37',
        'publish_image_source': './config/image2.jpg',
    }
    assert defaults(vlm=True, environment={'CAM_TYPE': 'usb'})['device'] == '/dev/video0'


@pytest.mark.parametrize(
    ('environment', 'camera', 'codec'),
    [
        ({}, 'mipi_cam', 'hobot_codec_encode.launch.py'),
        ({'CAM_TYPE': ''}, 'mipi_cam', 'hobot_codec_encode.launch.py'),
        ({'CAM_TYPE': 'mipi'}, 'mipi_cam', 'hobot_codec_encode.launch.py'),
        ({'CAM_TYPE': 'usb'}, 'hobot_usb_cam', 'hobot_codec_decode.launch.py'),
        ({'CAM_TYPE': 'fb'}, 'hobot_image_publisher', 'hobot_codec_encode.launch.py'),
    ],
)
def test_camera_type(environment, camera, codec):
    """CAM_TYPE chooses the camera and the direction of the codec."""
    chosen, _ = neighbours(True, defaults(True, environment), environment)
    expected = [camera, 'hobot_shm', 'hobot_codec', 'websocket']
    assert expected == [neighbour.package for neighbour in chosen]
    assert codec == chosen[2].launch_file


def test_unknown_camera_type():
    """A CAM_TYPE that does not exist is said, and mipi is used."""
    environment = {'CAM_TYPE': 'webcam'}
    chosen, messages = neighbours(True, defaults(True, environment), environment)
    assert chosen[0].package == 'mipi_cam'
    assert messages[0] == 'CAM_TYPE=webcam is none of mipi, usb, fb: using mipi'


def test_speech_is_opt_in():
    """Without ASR_TYPE and TTS_TYPE there is no speech, and one line says how to turn it on."""
    chosen, messages = neighbours(False, defaults(False), {})
    assert chosen == []
    assert messages == [
        'speech is off; to turn it on: export ASR_TYPE=local TTS_TYPE=local (or cloud)'
    ]


@pytest.mark.parametrize('advance', ['0', '1'])
def test_speech(advance):
    """ASR_TYPE and TTS_TYPE start the speech nodes; the wake word is pushed for pre-inference."""
    values = defaults(True, llamacpp_advance=advance, audio_device='hw:1,0')
    local = {'ASR_TYPE': 'local', 'TTS_TYPE': 'local'}
    chosen, messages = neighbours(True, values, local)
    assert messages == []
    assert [(n.package, n.executable, dict(n.arguments)) for n in chosen[-2:]] == [
        (
            'sensevoice_ros2',
            'sensevoice_ros2',
            {
                'push_wakeup': int(advance),
                'asr_model': 'sense-voice-small-fp16.gguf',
                'asr_pub_topic_name': '/prompt_text',
                'micphone_name': 'hw:1,0',
            },
        ),
        ('hobot_tts', 'hobot_tts', {'playback_device': 'hw:1,0'}),
    ]
    chosen, _ = neighbours(True, values, {'ASR_TYPE': 'cloud', 'TTS_TYPE': 'cloud'})
    assert [n.package for n in chosen[-2:]] == ['aliyun_asr_node', 'aliyun_tts_node']


def test_topics_are_absolute_without_a_namespace_and_relative_with_one():
    """As in the C++ package by default; below the namespace where one is given."""
    plain = node_parameters(True, defaults(True), has_shared_memory=True)
    inside = node_parameters(True, defaults(True, namespace='robot1'), has_shared_memory=True)
    names = [name for name in plain if name.endswith('_topic_name')]
    assert sorted(plain[name] for name in names) == [
        '/image',
        '/llama_cpp_node',
        '/prompt_text',
        '/tts_text',
    ]
    assert [f'/{inside[name]}' for name in names] == [plain[name] for name in names]


def test_parameters_of_the_vlm_node():
    """The VLM node listens to the camera, through shared memory where it can."""
    parameters = node_parameters(True, defaults(True, llamacpp_advance='true'), False)
    assert (parameters['feed_type'], parameters['llm_threads']) == (1, 6)
    assert (parameters['is_shared_mem_sub'], parameters['pre_infer']) == (0, 1)
    assert parameters['model_type'] == 0


def test_launch_files_name_the_same_function():
    """The launch files are thin: both get everything from the shared description."""
    for name, vlm in ('llama_vlm', True), ('llama_llm', False):
        text = (ROOT / 'launch' / f'{name}.launch.py').read_text()
        assert f'return generate(vlm={vlm})' in text


# --- What is started, with launch

# Runs a launch file as `ros2 launch` does; in a process of its own, for launch keeps global state.
RUNNER = """
import sys
from launch import LaunchDescription, LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
service = LaunchService(noninteractive=True)
arguments = [tuple(argument.split(':=', 1)) for argument in sys.argv[2:]]
source = PythonLaunchDescriptionSource(sys.argv[1])
include = IncludeLaunchDescription(source, launch_arguments=arguments)
service.include_launch_description(LaunchDescription([include]))
sys.exit(service.run())
"""
# A neighbour's launch file that notes what it was given.
NEIGHBOUR = """
import json
from launch import LaunchDescription
from launch.actions import OpaqueFunction
def note(context):
    with open({path!r}, 'w') as file:
        json.dump({{k: v for k, v in context.launch_configurations.items()}}, file)
def generate_launch_description():
    return LaunchDescription([OpaqueFunction(function=note)])
"""
# An executable that notes its arguments and its parameter files, and ends.
EXECUTABLE = """#!/bin/sh
printf '%s\\n' "$@" > {path}.args
while [ $# -gt 0 ]; do [ "$1" = --params-file ] && cat "$2" >> {path}.yaml; shift; done
exit 0
"""


class Robot:
    """A prefix with stand-ins for the packages of a robot."""

    def __init__(self, prefix: Path) -> None:
        self.prefix = prefix
        self.install('hobot_llamacpp_py', executable='hobot_llamacpp_py')

    def install(self, package: str, launch_files: str = '', executable: str = '') -> None:
        marker = self.prefix / 'share/ament_index/resource_index/packages' / package
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.touch()
        (self.prefix / 'share' / package / 'launch').mkdir(parents=True)
        for name in launch_files.split():
            text = NEIGHBOUR.format(path=str(self.prefix / f'{name}.json'))
            (self.prefix / 'share' / package / 'launch' / name).write_text(text)
        if executable:
            path = self.prefix / 'lib' / package / executable
            path.parent.mkdir(parents=True)
            path.write_text(EXECUTABLE.format(path=self.prefix / executable))
            path.chmod(0o755)

    def install_all(self) -> None:
        self.install('hbm_img_msgs')
        for package, launch_files in VLM_NEIGHBOURS.items():
            self.install(package, launch_files)
        for package, executable in SPEECH_NEIGHBOURS.items():
            self.install(package, executable=executable)

    def launch(self, name: str, *given: str, **environment: str) -> str:
        """Run one of our launch files to its end and return what it printed."""
        inherited = {k: v for k, v in os.environ.items() if not k.endswith('_TYPE')}
        result = subprocess.run(
            [sys.executable, '-c', RUNNER, str(ROOT / 'launch' / name), *given],
            env=inherited
            | {
                'AMENT_PREFIX_PATH': str(self.prefix),
                'PYTHONPATH': os.pathsep.join([str(ROOT), *filter(None, sys.path)]),
                'ROS_LOG_DIR': str(self.prefix / 'log'),
            }
            | environment,
            cwd=self.prefix,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=60,
        )
        assert result.returncode == 0, result.stdout
        return result.stdout

    def started(self) -> set[str]:
        """Return the launch files and executables that ran."""
        paths = [*self.prefix.glob('*.json'), *self.prefix.glob('*.args')]
        return {path.name.removesuffix('.json').removesuffix('.args') for path in paths}

    def given(self, launch_file: str) -> dict:
        return json.loads((self.prefix / f'{launch_file}.json').read_text())

    def arguments(self, executable: str = 'hobot_llamacpp_py') -> list[str]:
        return (self.prefix / f'{executable}.args').read_text().splitlines()

    def parameters(self, executable: str = 'hobot_llamacpp_py') -> dict:
        parameters = {}
        for line in (self.prefix / f'{executable}.yaml').read_text().split('ros__parameters:')[1:]:
            # each file is `name: {ros__parameters: ...}`; later files win
            body = '\n'.join(part for part in line.split('\n') if part.startswith('    '))
            parameters |= yaml.safe_load(body)
        return parameters


@pytest.fixture
def robot(tmp_path):
    pytest.importorskip('launch_ros', reason='needs the launch system of an installed ROS 2')
    return Robot(tmp_path)


def test_node_starts_alone(robot):
    """Without any neighbour the VLM node starts, and each missing one is named."""
    output = robot.launch('llama_vlm.launch.py')
    assert robot.started() == {'hobot_llamacpp_py'}
    for package in 'mipi-cam', 'hobot-shm', 'hobot-codec', 'websocket', 'hbm-img-msgs':
        assert f'sudo apt install tros-humble-{package})' in output
    assert 'speech is off' in output
    assert robot.parameters()['is_shared_mem_sub'] == 0


@pytest.mark.parametrize(
    ('camera', 'expected'),
    [
        ('mipi', {'mipi_cam.launch.py', 'hobot_codec_encode.launch.py'}),
        ('usb', {'hobot_usb_cam.launch.py', 'hobot_codec_decode.launch.py'}),
        ('fb', {'hobot_image_publisher.launch.py', 'hobot_codec_encode.launch.py'}),
    ],
)
def test_vlm_with_neighbours(robot, camera, expected):
    """With all neighbours installed, those of the camera type start with the node."""
    robot.install_all()
    output = robot.launch('llama_vlm.launch.py', 'llamacpp_image_width:=640', CAM_TYPE=camera)
    always = {'hobot_shm.launch.py', 'websocket.launch.py', 'hobot_llamacpp_py'}
    assert robot.started() == expected | always
    assert 'not installed' not in output
    assert robot.parameters()['is_shared_mem_sub'] == 1
    widths = [
        value
        for name in expected
        for key, value in robot.given(name).items()
        if key in ('mipi_image_width', 'usb_image_width', 'publish_output_image_w')
    ]
    assert widths == ['640']


def test_launch_files_do_not_see_each_others_arguments(robot):
    """What one neighbour is given does not reach the next one."""
    robot.install_all()
    robot.launch('llama_vlm.launch.py')
    assert 'mipi_io_method' in robot.given('mipi_cam.launch.py')
    assert 'mipi_io_method' not in robot.given('websocket.launch.py')


def test_broken_neighbour(robot):
    """A neighbour whose launch file fails is left out with the reason."""
    robot.install('websocket', 'websocket.launch.py')
    broken = robot.prefix / 'share/websocket/launch/websocket.launch.py'
    broken.write_text('def generate_launch_description():\n    raise LookupError("no nginx")\n')
    output = robot.launch('llama_vlm.launch.py')
    assert 'no web view' in output and 'no nginx' in output
    assert 'hobot_llamacpp_py' in robot.started()


def test_text_chat(robot):
    """The text chat starts the node and, where asked for, speech; no camera."""
    robot.install_all()
    robot.launch('llama_llm.launch.py', ASR_TYPE='local', TTS_TYPE='cloud')
    assert robot.started() == {'hobot_llamacpp_py', 'sensevoice_ros2', 'aliyun_tts_node'}
    assert robot.parameters()['feed_type'] == 2
    assert robot.parameters()['system_prompt'] == 'config/system_prompt.txt'
    assert robot.parameters('sensevoice_ros2')['push_wakeup'] == 0


@pytest.mark.parametrize('prompt', ['yes', '42', 'What is this: a "cat"?', "it's", '', '你好'])
def test_prompts_arrive_as_they_are(robot, prompt):
    """A prompt is text, whatever YAML would make of it."""
    robot.launch('llama_vlm.launch.py', f'llamacpp_user_prompt:={prompt}')
    assert robot.parameters()['user_prompt'] == prompt


def test_namespace(robot):
    """With a namespace the node and its neighbours live below it, and so do their topics."""
    robot.install_all()
    robot.launch('llama_vlm.launch.py', 'namespace:=robot1')
    assert '__ns:=/robot1' in robot.arguments()
    assert '/hbmem_img:=/robot1/hbmem_img' in robot.arguments()
    assert robot.parameters()['text_msg_pub_topic_name'] == 'tts_text'
    camera = robot.given('mipi_cam.launch.py')
    assert camera['ros_namespace'] == '/robot1'
    assert ['/image', '/robot1/image'] in camera['ros_remaps']


def test_params_file(robot):
    """The parameters of a file win over the launch arguments."""
    path = robot.prefix / 'params.yaml'
    path.write_text('/**:\n  ros__parameters:\n    llm_threads: 2\n')
    robot.launch('llama_vlm.launch.py', f'params_file:={path}')
    assert robot.parameters()['llm_threads'] == 2


def test_missing_params_file(robot):
    """A params_file that does not exist is an error, not a start without it."""
    with pytest.raises(AssertionError, match='params_file: there is no'):
        robot.launch('llama_vlm.launch.py', 'params_file:=nowhere.yaml')


def test_own_picture_is_found(robot):
    """CAM_TYPE=fb publishes the package's picture where the working directory has none."""
    robot.install_all()
    picture = robot.prefix / 'share' / launch_description.PACKAGE / 'config/image2.jpg'
    picture.parent.mkdir()
    picture.touch()
    robot.launch('llama_vlm.launch.py', CAM_TYPE='fb')
    source = robot.given('hobot_image_publisher.launch.py')['publish_image_source']
    assert os.path.normpath(source) == str(picture)
