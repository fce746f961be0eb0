"""The launch files: what they start beside the node, and with which arguments."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from domain import own_domain

from hobot_llamacpp_py.launching import description
from hobot_llamacpp_py.launching.description import arguments, node_parameters
from hobot_llamacpp_py.launching.neighbours import neighbours
from hobot_llamacpp_py.ros.parameters import specs

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
    assert [(n.package, n.executable, dict(n.arguments)) for n in chosen[-2:]] == [
        (
            'aliyun_asr_node',
            'asr_node',
            {
                'audio_device': 'hw:1,0',
                'pub_topic_name': '/prompt_text',
                'pub_awake_keyword': advance == '1',
            },
        ),
        (
            'aliyun_tts_node',
            'aliyun_tts_node',
            {
                'tts_method': 'sambert',
                'cosy_voice': 'longjielidou',
                'audio_device': 'hw:1,0',
                'text_topic': '/tts_text',
            },
        ),
    ]


def test_what_the_cameras_are_given():
    """Each neighbour of a camera gets the arguments that its launch file has."""
    size = dict(llamacpp_image_width='640', llamacpp_image_height='480')
    cameras = {
        'mipi': {
            'mipi_image_width': '640',
            'mipi_image_height': '480',
            'mipi_io_method': 'shared_mem',
            'mipi_frame_ts_type': 'realtime',
            'mipi_video_device': 'F37',
        },
        'usb': {
            'usb_image_width': '640',
            'usb_image_height': '480',
            'usb_framerate': '30',
            'usb_video_device': '/dev/video0',
        },
        'fb': {
            'publish_image_source': './config/image2.jpg',
            'publish_image_format': 'jpg',
            'publish_is_shared_mem': 'True',
            'publish_message_topic_name': '/hbmem_img',
            'publish_fps': '10',
            'publish_is_loop': 'True',
            'publish_output_image_w': '640',
            'publish_output_image_h': '480',
        },
    }
    encode = {
        'codec_in_mode': 'shared_mem',
        'codec_out_mode': 'ros',
        'codec_sub_topic': '/hbmem_img',
        'codec_pub_topic': '/image',
    }
    decode = {
        'codec_in_mode': 'ros',
        'codec_out_mode': 'shared_mem',
        'codec_sub_topic': '/image',
        'codec_pub_topic': '/hbmem_img',
    }
    web_view = {
        'websocket_image_topic': '/image',
        'websocket_image_type': 'mjpeg',
        'websocket_only_show_image': 'True',
    }
    for name, camera in cameras.items():
        environment = {'CAM_TYPE': name}
        chosen, _ = neighbours(True, defaults(True, environment, **size), environment)
        codec = decode if name == 'usb' else encode
        assert [dict(n.arguments) for n in chosen] == [camera, {}, codec, web_view]


def test_topics_are_absolute_without_a_namespace_and_relative_with_one():
    """As in the C++ package by default; below the namespace where one is given."""
    plain, _ = node_parameters(True, defaults(True), (), has_shared_memory=True)
    robot1 = defaults(True, namespace='robot1')
    inside, _ = node_parameters(True, robot1, (), has_shared_memory=True)
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
    given = dict(llamacpp_advance='true')
    parameters, fixed = node_parameters(True, defaults(True, **given), given, False)
    assert (parameters['llm_threads'], parameters['is_shared_mem_sub']) == (6, 0)
    assert len(parameters['cute_words'].split(';')) > 3
    assert fixed == {'feed_type': 1, 'pre_infer': 1}


def test_what_belongs_to_a_model_is_left_to_its_name():
    """Type and encoder are handed on if given: a model's name as decoder sets them otherwise."""
    given = dict(llamacpp_gguf_model_file_name='InternVL2_5-1B')
    parameters, fixed = node_parameters(True, defaults(True, **given), given, False)
    assert fixed == {'feed_type': 1, 'llm_model_name': 'InternVL2_5-1B'}
    assert not parameters.keys() & {'model_file_name', 'model_type'}
    given |= dict(llamacpp_vit_model_file_name='mine.onnx', llamacpp_model_type='1')
    _, fixed = node_parameters(True, defaults(True, **given), given, False)
    assert (fixed['model_file_name'], fixed['model_type']) == ('mine.onnx', 1)


def test_parameters_of_the_text_chat():
    """The text chat has no encoder and no images."""
    parameters, fixed = node_parameters(False, defaults(False), (), False)
    assert fixed == {'feed_type': 2}
    assert parameters['llm_threads'] == 6
    assert parameters['system_prompt'] == 'config/system_prompt.txt'
    assert not parameters.keys() & {'model_file_name', 'is_shared_mem_sub', 'pre_infer'}


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
# A launch file that includes one of ours.
FLEET = """
from launch import LaunchDescription
from launch.actions import GroupAction, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch_ros.actions import PushRosNamespace, SetParameter
def generate_launch_description():
    ours = IncludeLaunchDescription(
        PythonLaunchDescriptionSource({path!r}), launch_arguments=[('namespace', 'robot1')]
    )
    group = [PushRosNamespace('fleet'), SetParameter('max_tokens', 9), ours]
    return LaunchDescription([GroupAction(group)])
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
# An executable that notes who and what it is, as ROS has understood its command line, and ends.
EXECUTABLE = """#!{python}
import json, sys
import rclpy
rclpy.init(args=sys.argv)
node = rclpy.create_node(
    'unnamed', automatically_declare_parameters_from_overrides=True, enable_rosout=False
)
noted = dict(
    name=node.get_fully_qualified_name(),
    parameters={{k: v.value for k, v in node.get_parameters_by_prefix('').items()}},
    topics={{t: node.resolve_topic_name(t) for t in ['/image', '/hbmem_img', '/llama_cpp_node']}},
    images=node.resolve_topic_name('image_raw'),
    words=rclpy.utilities.remove_ros_args(sys.argv)[1:],
)
with open({path!r}, 'w') as file:
    json.dump(noted, file)
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
        (self.prefix / 'share' / package / 'launch').mkdir(parents=True, exist_ok=True)
        for name in launch_files.split():
            text = NEIGHBOUR.format(path=str(self.prefix / f'{name}.json'))
            (self.prefix / 'share' / package / 'launch' / name).write_text(text)
        if executable:
            path = self.prefix / 'lib' / package / executable
            path.parent.mkdir(parents=True, exist_ok=True)
            note = str(self.prefix / f'{executable}.json')
            path.write_text(EXECUTABLE.format(python=sys.executable, path=note))
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
        with own_domain() as domain:
            result = subprocess.run(
                [sys.executable, '-c', RUNNER, str(ROOT / 'launch' / name), *given],
                env=inherited
                | {
                    'AMENT_PREFIX_PATH': str(self.prefix),
                    'PYTHONPATH': os.pathsep.join([str(ROOT), *filter(None, sys.path)]),
                    'ROS_DOMAIN_ID': str(domain),
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
        return {path.name.removesuffix('.json') for path in self.prefix.glob('*.json')}

    def given(self, launch_file: str) -> dict:
        return json.loads((self.prefix / f'{launch_file}.json').read_text())

    def node(self, executable: str = 'hobot_llamacpp_py') -> dict:
        return json.loads((self.prefix / f'{executable}.json').read_text())

    def parameters(self, executable: str = 'hobot_llamacpp_py') -> dict:
        return self.node(executable)['parameters']


@pytest.fixture
def robot(tmp_path):
    pytest.importorskip('launch_ros', reason='needs the launch system of an installed ROS 2')
    pytest.importorskip('rclpy', reason='needs ROS 2')
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


@pytest.mark.parametrize(
    'statement',
    [
        'raise LookupError("no nginx")',
        # Noticed only when the launch has begun.
        'return LaunchDescription([OpaqueFunction(function=fail)])',
        'return LaunchDescription([Node(package="no nginx", executable="nginx")])',
    ],
)
def test_broken_neighbour(robot, statement):
    """What fails of a neighbour's launch file is left out with the reason, now or later."""
    robot.install_all()
    broken = robot.prefix / 'share/mipi_cam/launch/mipi_cam.launch.py'
    broken.write_text(
        'from launch import LaunchDescription\n'
        'from launch.actions import OpaqueFunction\n'
        'from launch_ros.actions import Node\n'
        'def fail(context):\n    raise LookupError("no nginx")\n'
        f'def generate_launch_description():\n    {statement}\n'
    )
    output = robot.launch('llama_vlm.launch.py')
    assert 'left out of the camera: ' in output and 'no nginx' in output
    assert {'hobot_llamacpp_py', 'websocket.launch.py'} <= robot.started()


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
    robot.launch('llama_vlm.launch.py', 'namespace:=robot1', TTS_TYPE='local')
    node = robot.node()
    assert node['name'] == '/robot1/llamacpp_node'
    assert node['parameters']['text_msg_pub_topic_name'] == 'tts_text'
    # also where a params_file names them as they are by default
    assert node['topics'] == {t: f'/robot1{t}' for t in node['topics']}
    assert robot.node('hobot_tts')['name'] == '/robot1/unnamed'
    camera = robot.given('mipi_cam.launch.py')
    assert camera['ros_namespace'] == '/robot1'
    assert ['/image', '/robot1/image'] in camera['ros_remaps']


def test_included_below_a_namespace(robot):
    """A launch file of a fleet can include ours below a namespace of its own."""
    fleet = robot.prefix / 'fleet.launch.py'
    fleet.write_text(FLEET.format(path=str(ROOT / 'launch' / 'llama_llm.launch.py')))
    robot.launch(str(fleet))
    node = robot.node()
    assert node['name'] == '/fleet/robot1/llamacpp_node'
    assert node['parameters']['max_tokens'] == 9
    assert node['topics']['/llama_cpp_node'] == '/fleet/robot1/llama_cpp_node'


@pytest.mark.parametrize('name', ['/**', 'llamacpp_node', '/llamacpp_node'])
def test_params_file(robot, name):
    """A file's parameters win over the launch file's, and arguments that were given over both."""
    path = robot.prefix / 'params.yaml'
    path.write_text(
        f'{name}:\n'
        '  ros__parameters:\n'
        '    feed_type: 0\n'
        '    llm_threads: 2\n'
        '    model_type: 1\n'
        '    user_prompt: from the file\n'
        '    system_prompt: from the file\n'
    )
    robot.launch(
        'llama_vlm.launch.py',
        f'params_file:={path}',
        'llamacpp_model_type:=0',
        'llamacpp_user_prompt:=',
    )
    parameters = robot.parameters()
    assert parameters['feed_type'] == 1  # what this launch file is for
    assert parameters['llm_threads'] == 2
    assert parameters['model_type'] == 0
    assert parameters['user_prompt'] == ''
    assert parameters['system_prompt'] == 'from the file'
    assert parameters['llm_model_name'] == 'Qwen2.5-0.5B-Instruct-Q4_0.gguf'


@pytest.mark.parametrize('name', ['/**', '/robot1/llamacpp_node'])
def test_params_file_below_a_namespace(robot, name):
    """With a namespace a params_file counts as well."""
    path = robot.prefix / 'params.yaml'
    path.write_text(f'{name}:\n  ros__parameters:\n    llm_threads: 2\n    model_type: 1\n')
    given = (f'params_file:={path}', 'namespace:=robot1', 'llamacpp_model_type:=0')
    robot.launch('llama_vlm.launch.py', *given)
    assert (robot.parameters()['llm_threads'], robot.parameters()['model_type']) == (2, 0)


def test_every_parameter_of_the_params_file_arrives(robot):
    """config/params.yaml can be given as it is; its values are what the node starts with."""
    robot.launch('llama_llm.launch.py', f'params_file:={ROOT / "config/params.yaml"}')
    expected = {spec.name: spec.default for spec in specs().values()} | {'feed_type': 2}
    assert {name: robot.parameters()[name] for name in expected} == expected


def test_missing_params_file(robot):
    """A params_file that does not exist is an error, not a start without it."""
    with pytest.raises(AssertionError, match='params_file: there is no'):
        robot.launch('llama_vlm.launch.py', 'params_file:=nowhere.yaml')


def test_own_picture_is_found(robot):
    """CAM_TYPE=fb publishes the package's picture where the working directory has none."""
    robot.install_all()
    picture = robot.prefix / 'share' / description.PACKAGE / 'config/image2.jpg'
    picture.parent.mkdir()
    picture.touch()
    robot.launch('llama_vlm.launch.py', CAM_TYPE='fb')
    source = robot.given('hobot_image_publisher.launch.py')['publish_image_source']
    assert os.path.normpath(source) == str(picture)


def test_a_standard_driver_takes_the_cameras_place(robot):
    """Without TogetheROS a webcam is driven by a driver that is installed."""
    robot.install('usb_cam', executable='usb_cam_node_exe')
    robot.install('hobot_llamacpp_py', executable='camera')
    output = robot.launch('llama_vlm.launch.py', 'device:=/dev/video7', CAM_TYPE='usb')
    assert 'hobot_usb_cam is not installed' in output
    assert 'usb_cam takes its place' in output
    driver = robot.node('usb_cam_node_exe')
    assert driver['parameters']['video_device'] == '/dev/video7'
    assert driver['parameters']['image_width'] == 1920
    assert driver['images'] == '/image'
    assert 'camera' not in robot.started()
    assert robot.parameters()['is_shared_mem_sub'] == 0


def test_our_own_camera_is_the_last_resort(robot):
    """Where nothing else is installed our own command publishes the picture, or the webcam."""
    robot.install('hobot_llamacpp_py', executable='camera')
    picture = robot.prefix / 'picture.jpg'
    picture.touch()
    given = f'publish_image_source:={picture}'
    output = robot.launch('llama_vlm.launch.py', given, CAM_TYPE='fb')
    assert 'hobot_image_publisher is not installed' in output
    assert 'hobot_llamacpp_py takes its place' in output
    assert robot.node('camera')['words'] == [str(picture)]
    robot.launch('llama_vlm.launch.py', CAM_TYPE='mipi')
    assert robot.node('camera')['words'] == ['/dev/video0']
