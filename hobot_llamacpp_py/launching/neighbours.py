"""The neighbours of the node on a robot: camera, codec, web view and speech, all of TogetheROS.

Which of them a launch file starts, and with what. (How is in description.py.)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ['Neighbour', 'apt_name', 'neighbours', 'whole_number']

CAMERAS = ('mipi', 'usb', 'fb')
SPEECH = ('local', 'cloud')


@dataclass(frozen=True)
class Neighbour:
    """A launch file (arguments) or an executable (parameters) of another package.

    Attributes:
        words: of the executable's command line.
        remaps: its names for topics -> ours.
        instead: what takes its place where it is not installed, the best first.
    """

    role: str
    package: str
    launch_file: str = ''
    executable: str = ''
    arguments: Mapping[str, Any] = field(default_factory=dict)
    words: tuple[str, ...] = ()
    remaps: Mapping[str, str] = field(default_factory=dict)
    instead: tuple[Neighbour, ...] = ()

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
            instead=_webcams(values['device'], width, height),
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
            instead=(_own_camera(values['publish_image_source']),),
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
            instead=_webcams('/dev/video0', width, height),
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


def _webcams(device: str, width: str, height: str) -> tuple[Neighbour, ...]:
    """Return what a webcam can be driven by where TogetheROS is not installed."""
    size = [whole_number(width), whole_number(height)]
    return (
        Neighbour(
            'camera',
            'usb_cam',
            executable='usb_cam_node_exe',
            arguments={'video_device': device, 'image_width': size[0], 'image_height': size[1]},
            remaps={'image_raw': '/image'},
        ),
        Neighbour(
            'camera',
            'v4l2_camera',
            executable='v4l2_camera_node',
            arguments={'video_device': device, 'image_size': size},
            remaps={'image_raw': '/image'},
        ),
        _own_camera(device),
    )


def _own_camera(source: str) -> Neighbour:
    return Neighbour('camera', 'hobot_llamacpp_py', executable='camera', words=(source,))


def _speech(vlm: bool, asr: str, tts: str, values: Mapping[str, str]) -> Iterable[Neighbour]:
    wake_word = int(vlm and whole_number(values['llamacpp_advance']) == 1)
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
                'tts_method': 'sambert',
                'cosy_voice': 'longjielidou',
                'audio_device': device,
                'text_topic': values['llamacpp_text_msg_pub_name'],
            },
        )


def whole_number(text: str) -> int | str:
    """Return a number or bool as such; the node explains what is wrong with anything else."""
    if text.lower() in ('true', 'false'):
        return int(text.lower() == 'true')
    return int(text) if text.isdecimal() else text
