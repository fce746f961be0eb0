"""What llama_vlm.launch.py and llama_llm.launch.py start: the node and its neighbours.

The neighbours (camera, codec, web view, speech) are packages of TogetheROS. One that is not
installed is left out with a message; nothing about a neighbour stops the node.

`launch` is imported where it is used: what is decided here can be tested without it.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

PACKAGE = 'hobot_llamacpp_py'
CAMERAS = ('mipi', 'usb', 'fb')
SPEECH = ('local', 'cloud')

# name: (default, description), in the order of `ros2 launch --show-args`
_NODE_ARGUMENTS = {
    'llamacpp_gguf_model_file_name': ('Qwen2.5-0.5B-Instruct-Q4_0.gguf', 'language model'),
    'llamacpp_user_prompt': ('', 'first question'),
    'llamacpp_text_msg_pub_name': ('/tts_text', 'topic of the answer in speakable pieces'),
    'llamacpp_prompt_msg_sub_name': ('/prompt_text', 'topic of the questions'),
    'audio_asr_model': ('sense-voice-small-fp16.gguf', 'local speech recognition model'),
    'audio_device': ('hw:0,0', 'microphone and loudspeaker'),
    'namespace': ('', 'put all nodes and topics below this name, for several robots'),
    'params_file': ('', 'YAML parameters of the node; they win over the other arguments'),
}


def arguments(vlm: bool, environment: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Return the launch arguments: name -> (default, description)."""
    if not vlm:
        system_prompt = ('config/system_prompt.txt', 'system prompt, text or the path of a .txt')
        return {'llamacpp_system_prompt': system_prompt, **_NODE_ARGUMENTS}
    device = '/dev/video0' if environment.get('CAM_TYPE') == 'usb' else 'F37'
    return {
        'llamacpp_image_width': ('1920', 'width of the camera image'),
        'llamacpp_image_height': ('1080', 'height of the camera image'),
        'device': (device, 'camera: a video device (CAM_TYPE=usb) or a sensor (mipi)'),
        'publish_image_source': ('./config/image2.jpg', 'picture that CAM_TYPE=fb publishes'),
        'llamacpp_vit_model_file_name': ('vit_model_int16_v2.bin', 'image encoder'),
        'llamacpp_model_type': ('0', '0: InternVL, 1: SmolVLM2'),
        'llamacpp_advance': ('0', '1: work on the image before the question comes (pre_infer)'),
        'llamacpp_system_prompt': (
            'You are a helpful assistant.',
            'system prompt, text or the path of a .txt',
        ),
        **_NODE_ARGUMENTS,
    }


@dataclass(frozen=True)
class Neighbour:
    """A launch file (arguments) or an executable (parameters) of another package."""

    role: str
    package: str
    launch_file: str = ''
    executable: str = ''
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def advice(self) -> str:
        """How to get the package."""
        if self.package.startswith('aliyun'):  # not in the board's apt repository
            return 'build it from source'
        return f'sudo apt install {apt_name(self.package)}'


def apt_name(package: str) -> str:
    """Return the Debian package that brings a ROS package to the board."""
    return 'tros-humble-' + package.replace('_', '-')


def neighbours(
    vlm: bool, values: Mapping[str, str], environment: Mapping[str, str]
) -> tuple[list[Neighbour], list[str]]:
    """Return what belongs beside the node, and messages about the environment variables."""
    chosen: list[Neighbour] = []
    messages: list[str] = []
    if vlm:
        camera = environment.get('CAM_TYPE') or CAMERAS[0]
        if camera not in CAMERAS:
            messages.append(f'CAM_TYPE={camera} is none of {", ".join(CAMERAS)}: using mipi')
            camera = CAMERAS[0]
        chosen += _images(camera, values)
    speech = {}
    for variable in ('ASR_TYPE', 'TTS_TYPE'):
        speech[variable] = environment.get(variable, '')
        if speech[variable] not in ('', *SPEECH):
            messages.append(f'{variable}={speech[variable]} is none of {", ".join(SPEECH)}')
            speech[variable] = ''
    chosen += _speech(vlm, speech['ASR_TYPE'], speech['TTS_TYPE'], values)
    if off := [variable for variable, value in speech.items() if not value]:
        # Off by default: beside the models it starves a board of eight cores.
        settings = ' '.join(f'{variable}=local' for variable in off)
        messages.append(f'speech is off; to turn it on: export {settings} (or cloud)')
    return chosen, messages


def _images(camera: str, values: Mapping[str, str]) -> Iterable[Neighbour]:
    width, height = values['llamacpp_image_width'], values['llamacpp_image_height']
    if camera == 'usb':
        yield Neighbour(
            'camera',
            'hobot_usb_cam',
            'hobot_usb_cam.launch.py',
            arguments={
                'usb_image_width': width,
                'usb_image_height': height,
                'usb_framerate': '30',
                'usb_video_device': values['device'],
            },
        )
    elif camera == 'fb':
        yield Neighbour(
            'picture publisher',
            'hobot_image_publisher',
            'hobot_image_publisher.launch.py',
            arguments={
                'publish_image_source': values['publish_image_source'],
                'publish_image_format': 'jpg',
                'publish_is_shared_mem': 'True',
                'publish_message_topic_name': '/hbmem_img',
                'publish_fps': '10',
                'publish_is_loop': 'True',
                'publish_output_image_w': width,
                'publish_output_image_h': height,
            },
        )
    else:
        yield Neighbour(
            'camera',
            'mipi_cam',
            'mipi_cam.launch.py',
            arguments={
                'mipi_image_width': width,
                'mipi_image_height': height,
                'mipi_io_method': 'shared_mem',
                'mipi_frame_ts_type': 'realtime',
                'mipi_video_device': values['device'],
            },
        )
    yield Neighbour('shared memory set-up', 'hobot_shm', 'hobot_shm.launch.py')
    # A USB camera's JPEG is decoded for the node, the others' NV12 is encoded for the web view.
    jpeg_to_memory = camera == 'usb'
    yield Neighbour(
        'codec',
        'hobot_codec',
        'hobot_codec_decode.launch.py' if jpeg_to_memory else 'hobot_codec_encode.launch.py',
        arguments={
            'codec_in_mode': 'ros' if jpeg_to_memory else 'shared_mem',
            'codec_out_mode': 'shared_mem' if jpeg_to_memory else 'ros',
            'codec_sub_topic': '/image' if jpeg_to_memory else '/hbmem_img',
            'codec_pub_topic': '/hbmem_img' if jpeg_to_memory else '/image',
        },
    )
    yield Neighbour(
        'web view',
        'websocket',
        'websocket.launch.py',
        arguments={
            'websocket_image_topic': '/image',
            'websocket_image_type': 'mjpeg',
            'websocket_only_show_image': 'True',
        },
    )


def _speech(vlm: bool, asr: str, tts: str, values: Mapping[str, str]) -> Iterable[Neighbour]:
    wake_word = int(vlm and _number(values['llamacpp_advance']) == 1)
    device, prompts = values['audio_device'], values['llamacpp_prompt_msg_sub_name']
    if asr == 'local':
        yield Neighbour(
            'speech recognition',
            'sensevoice_ros2',
            executable='sensevoice_ros2',
            arguments={
                'push_wakeup': wake_word,
                'asr_model': values['audio_asr_model'],
                'asr_pub_topic_name': prompts,
                'micphone_name': device,
            },
        )
    elif asr == 'cloud':
        yield Neighbour(
            'speech recognition',
            'aliyun_asr_node',
            executable='asr_node',
            arguments={
                'audio_device': device,
                'pub_topic_name': prompts,
                'pub_awake_keyword': bool(wake_word),
            },
        )
    if tts == 'local':
        yield Neighbour(
            'speech output',
            'hobot_tts',
            executable='hobot_tts',
            arguments={'playback_device': device},
        )
    elif tts == 'cloud':
        yield Neighbour(
            'speech output',
            'aliyun_tts_node',
            executable='aliyun_tts_node',
            arguments={
                'audio_device': device,
                'text_topic': values['llamacpp_text_msg_pub_name'],
            },
        )


def node_parameters(
    vlm: bool, values: Mapping[str, str], has_shared_memory: bool
) -> dict[str, int | str]:
    """Return the parameters of the node; with a namespace the topic names are relative."""
    parameters: dict[str, int | str] = {
        'feed_type': 1 if vlm else 2,
        'llm_threads': 6,
        'llm_model_name': values['llamacpp_gguf_model_file_name'],
        'user_prompt': values['llamacpp_user_prompt'],
        'system_prompt': values['llamacpp_system_prompt'],
        'text_msg_pub_topic_name': values['llamacpp_text_msg_pub_name'],
        'ros_string_sub_topic_name': values['llamacpp_prompt_msg_sub_name'],
        'ai_msg_pub_topic_name': '/llama_cpp_node',
        'cute_words': '来了',
    }
    if vlm:
        parameters |= {
            'model_file_name': values['llamacpp_vit_model_file_name'],
            'model_type': _number(values['llamacpp_model_type']),
            'pre_infer': _number(values['llamacpp_advance']),
            'is_shared_mem_sub': int(has_shared_memory),
            'ros_img_sub_topic_name': '/image',
            'cute_words': '好的，我看一下;没问题，稍等;让我看看;马上就好',
        }
    if values['namespace']:
        for name in parameters:
            if name.endswith('_topic_name'):
                parameters[name] = str(parameters[name]).lstrip('/')
    return parameters


def _number(text: str) -> int | str:
    """Return a number or bool as such; the node explains what is wrong with anything else."""
    if text.lower() in ('true', 'false'):
        return int(text.lower() == 'true')
    return int(text) if text.isdecimal() else text


def generate(vlm: bool) -> Any:
    """Return the launch.LaunchDescription of one of the two launch files."""
    from launch import LaunchDescription
    from launch.actions import DeclareLaunchArgument, OpaqueFunction

    declared = arguments(vlm, os.environ)

    def start(context: Any) -> list[Any]:
        # Plain strings from here on: the choices below need values, not substitutions.
        values = {name: context.launch_configurations[name] for name in declared}
        return _actions(vlm, values)

    return LaunchDescription(
        [
            *(
                DeclareLaunchArgument(name, default_value=default, description=description)
                for name, (default, description) in declared.items()
            ),
            OpaqueFunction(function=start),
        ]
    )


def _actions(vlm: bool, values: dict[str, str]) -> list[Any]:
    from launch.actions import GroupAction, LogInfo
    from launch_ros.actions import Node, PushRosNamespace, SetRemap
    from launch_ros.parameter_descriptions import ParameterValue

    values['namespace'] = namespace = values['namespace'].strip('/')
    if vlm:
        values['publish_image_source'] = _in_share(values['publish_image_source'])
    chosen, messages = neighbours(vlm, values, os.environ)

    has_shared_memory = _prefix('hbm_img_msgs') is not None
    if vlm and not has_shared_memory:
        messages.append(
            f'hbm_img_msgs is not installed (sudo apt install {apt_name("hbm_img_msgs")}):'
            ' images come from /image instead of shared memory'
        )
    started = [action for item in chosen if (action := _start(item, messages.append))]

    parameters: list[Any] = [
        {
            # Without value_type a prompt such as "yes" or "a: b" would be read as YAML.
            name: ParameterValue(value, value_type=str) if isinstance(value, str) else value
            for name, value in node_parameters(vlm, values, has_shared_memory).items()
        }
    ]
    if values['params_file']:
        params_file = os.path.abspath(os.path.expanduser(values['params_file']))
        if not os.path.isfile(params_file):  # launch would only warn and go on without it
            raise FileNotFoundError(f'params_file: there is no {params_file}')
        parameters.append(params_file)
    node = Node(
        package=PACKAGE,
        executable=PACKAGE,
        name='llamacpp_node',
        output='screen',
        parameters=parameters,
    )

    scope = []
    if namespace:
        # The neighbours take absolute topic names, so theirs are remapped.
        topics = {'/image', '/hbmem_img', '/tts_text', '/prompt_text'}
        topics |= {values['llamacpp_text_msg_pub_name'], values['llamacpp_prompt_msg_sub_name']}
        scope = [PushRosNamespace(namespace)]
        scope += [SetRemap(t, f'/{namespace}/{t.lstrip("/")}') for t in sorted(topics)]
    return [
        *(LogInfo(msg=f'[{PACKAGE}] {message}') for message in messages),
        GroupAction([*scope, *started, node]),
    ]


def _start(neighbour: Neighbour, report: Callable[[str], None]) -> Any:
    """Return the action that starts the neighbour, or report why there is none."""
    from launch import LaunchContext
    from launch.actions import GroupAction, IncludeLaunchDescription
    from launch.launch_description_sources import PythonLaunchDescriptionSource
    from launch_ros.actions import Node
    from launch_ros.parameter_descriptions import ParameterValue

    prefix = _prefix(neighbour.package) or ''
    if neighbour.launch_file:
        path = os.path.join(prefix, 'share', neighbour.package, 'launch', neighbour.launch_file)
    else:
        path = os.path.join(prefix, 'lib', neighbour.package, neighbour.executable)
    if not (prefix and os.path.isfile(path)):
        report(f'no {neighbour.role}: {neighbour.package} is not installed ({neighbour.advice})')
        return None
    if neighbour.executable:
        return Node(
            package=neighbour.package,
            executable=neighbour.executable,
            output='screen',
            parameters=[
                {
                    name: ParameterValue(value, value_type=str)
                    if isinstance(value, str)
                    else value
                    for name, value in neighbour.arguments.items()
                }
            ],
            arguments=['--ros-args', '--log-level', 'warn'],
        )
    source = PythonLaunchDescriptionSource(path)
    try:
        source.get_launch_description(LaunchContext())
    except Exception as error:  # it may miss a package of its own
        report(f'no {neighbour.role}: {path} failed: {error}')
        return None
    # In a group of its own: launch files would set each other's arguments.
    include = IncludeLaunchDescription(source, launch_arguments=neighbour.arguments.items())
    return GroupAction([include])


def _prefix(package: str) -> str | None:
    from ament_index_python.packages import PackageNotFoundError, get_package_prefix

    try:
        return str(get_package_prefix(package))
    except PackageNotFoundError:
        return None


def _in_share(path: str) -> str:
    """Return the package's own copy of a relative path that the working directory lacks."""
    installed = os.path.join(_prefix(PACKAGE) or '', 'share', PACKAGE, path)
    return installed if not os.path.exists(path) and os.path.exists(installed) else path
