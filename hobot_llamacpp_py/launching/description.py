"""What llama_vlm.launch.py and llama_llm.launch.py start: the node and its neighbours.

A neighbour that is not installed is left out with a message; nothing about a neighbour stops the
node.

The node's parameters come from three places, the later ones win: what the launch file sets, the
`params_file`, and the arguments that the user gave.

`launch` is imported where it is used: what is decided here can be tested without it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Mapping
from typing import Any

from hobot_llamacpp_py.launching.neighbours import Neighbour, apt_name, neighbours, whole_number
from hobot_llamacpp_py.ros.parameters import OF_THE_MODEL, specs

__all__ = ['arguments', 'generate', 'node_parameters']

PACKAGE = 'hobot_llamacpp_py'
NODE = 'llamacpp_node'

# Parameters of the node that are arguments of the launch files, and take their defaults there.
_PARAMETERS = {
    'llm_model_name': 'llamacpp_gguf_model_file_name',
    'user_prompt': 'llamacpp_user_prompt',
    'system_prompt': 'llamacpp_system_prompt',
    'text_msg_pub_topic_name': 'llamacpp_text_msg_pub_name',
    'ros_string_sub_topic_name': 'llamacpp_prompt_msg_sub_name',
    'model_file_name': 'llamacpp_vit_model_file_name',
    'model_type': 'llamacpp_model_type',
    'pre_infer': 'llamacpp_advance',
}
_OF_THE_CAMERA = ('model_file_name', 'model_type', 'pre_infer')


def arguments(vlm: bool, environment: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Return the launch arguments: name -> (default, description)."""
    camera, device = {}, '/dev/video0' if environment.get('CAM_TYPE') == 'usb' else 'F37'
    if vlm:
        camera = {
            'llamacpp_image_width': ('1920', 'width of the camera image'),
            'llamacpp_image_height': ('1080', 'height of the camera image'),
            'device': (device, 'camera: a video device (CAM_TYPE=usb) or a sensor (mipi)'),
            'publish_image_source': ('./config/image2.jpg', 'picture that CAM_TYPE=fb publishes'),
        }
    own = {
        argument: (str(specs()[name].default), specs()[name].sentence)
        for name, argument in _PARAMETERS.items()
        if vlm or name not in _OF_THE_CAMERA
    }
    if not vlm:
        sentence = own['llamacpp_system_prompt'][1]
        own['llamacpp_system_prompt'] = ('config/system_prompt.txt', sentence)
    return {
        **camera,
        **own,
        'audio_asr_model': ('sense-voice-small-fp16.gguf', 'local speech recognition model'),
        'audio_device': ('hw:0,0', 'microphone and loudspeaker'),
        'namespace': ('', 'put all nodes and topics below this name, for several robots'),
        'params_file': ('', 'YAML parameters of the node; arguments that are given win over them'),
    }


def node_parameters(
    vlm: bool, values: Mapping[str, str], given: Collection[str], has_shared_memory: bool
) -> tuple[dict[str, int | str], dict[str, int | str]]:
    """Return the node's parameters: those that a params_file may change, and those it may not.

    With a namespace the topic names are relative.

    Args:
        values: of all launch arguments.
        given: names of the arguments that the user gave.
        has_shared_memory: hbm_img_msgs is installed.
    """
    # The topic names that are no arguments stand here too: a namespace makes them relative.
    parameters: dict[str, int | str] = {
        'llm_threads': 6,
        'ai_msg_pub_topic_name': str(specs()['ai_msg_pub_topic_name'].default),
        'cute_words': '来了',
    }
    if vlm:
        parameters |= {
            'is_shared_mem_sub': int(has_shared_memory),
            'ros_img_sub_topic_name': str(specs()['ros_img_sub_topic_name'].default),
            'cute_words': '好的，我看一下;没问题，稍等;让我看看;马上就好',
        }
    for name, argument in _PARAMETERS.items():
        # A name of the catalogue as decoder sets what belongs to a model, unless it is given.
        if argument in values and (name not in OF_THE_MODEL or argument in given):
            is_number = name in ('model_type', 'pre_infer')
            parameters[name] = whole_number(values[argument]) if is_number else values[argument]
    if values['namespace']:
        for name in parameters:
            if name.endswith('_topic_name'):
                parameters[name] = str(parameters[name]).lstrip('/')
    fixed = {name: parameters.pop(name) for name in _PARAMETERS if _PARAMETERS[name] in given}
    return parameters, {'feed_type': 1 if vlm else 2, **fixed}


def generate(vlm: bool) -> Any:
    """Return the launch.LaunchDescription of one of the two launch files."""
    from launch import LaunchDescription
    from launch.actions import DeclareLaunchArgument, OpaqueFunction

    declared = arguments(vlm, os.environ)
    given: set[str] = set()

    def note_given(context: Any) -> None:  # runs before the arguments take their defaults
        given.update(declared.keys() & context.launch_configurations.keys())

    def start(context: Any) -> list[Any]:
        # Plain strings from here on: the choices below need values, not substitutions.
        values = {name: context.launch_configurations[name] for name in declared}
        outer_namespace = context.launch_configurations.get('ros_namespace', '')
        return _actions(vlm, values, given, outer_namespace)

    return LaunchDescription(
        [
            OpaqueFunction(function=note_given),
            *(
                DeclareLaunchArgument(name, default_value=default, description=description)
                for name, (default, description) in declared.items()
            ),
            OpaqueFunction(function=start),
        ]
    )


def _actions(
    vlm: bool, values: dict[str, str], given: Collection[str], outer_namespace: str
) -> list[Any]:
    from launch.actions import GroupAction, LogInfo
    from launch_ros.actions import Node, PushRosNamespace, SetRemap

    values['namespace'] = values['namespace'].strip('/')
    # With that of a launch file that includes ours. Always there: only a node whose whole name is
    # known gets its parameters by that name, and so whatever name a params_file has for it.
    namespace = '/'.join(['', *filter(None, (outer_namespace.strip('/'), values['namespace']))])
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

    changeable, fixed = node_parameters(vlm, values, given, has_shared_memory)
    parameters: list[Any] = []
    if values['params_file']:
        params_file = os.path.abspath(os.path.expanduser(values['params_file']))
        if not os.path.isfile(params_file):  # launch would only warn and go on without it
            raise FileNotFoundError(f'params_file: there is no {params_file}')
        parameters.append(params_file)
    parameters.append(_texts_kept(fixed))
    node = Node(
        package=PACKAGE,
        executable=PACKAGE,
        name=NODE,
        namespace=namespace or '/',
        output='screen',
        # Of no name and before the params_file, which may so change them.
        arguments=['--ros-args', *_options(changeable)],
        parameters=parameters,
    )

    scope = []
    if values['namespace']:
        # The neighbours take absolute topic names, so theirs are remapped.
        topics = {'/image', '/hbmem_img', '/tts_text', '/prompt_text', '/llama_cpp_node'}
        topics |= {values['llamacpp_text_msg_pub_name'], values['llamacpp_prompt_msg_sub_name']}
        scope = [PushRosNamespace(values['namespace'])]
        scope += [SetRemap(t, f'{namespace}/{t.lstrip("/")}') for t in sorted(topics)]
    return [
        *(LogInfo(msg=f'[{PACKAGE}] {message}') for message in messages),
        GroupAction([*scope, *started, node]),
    ]


def _options(parameters: Mapping[str, int | str]) -> list[str]:
    """Write parameters as options of a command line; JSON is YAML that needs no quoting rules."""
    return [
        word
        for name, value in parameters.items()
        for word in ('-p', f'{name}:={json.dumps(value, ensure_ascii=False)}')
    ]


def _texts_kept(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters for launch_ros that leaves texts such as "yes" or "a: b" what they are."""
    from launch_ros.parameter_descriptions import ParameterValue

    return {
        name: ParameterValue(value, value_type=str) if isinstance(value, str) else value
        for name, value in parameters.items()
    }


def _start(neighbour: Neighbour, report: Callable[[str], None]) -> Any:
    """Return the action that starts the neighbour, or report why there is none."""
    from launch.actions import GroupAction, IncludeLaunchDescription
    from launch.launch_description_sources import PythonLaunchDescriptionSource
    from launch_ros.actions import Node

    prefix = _prefix(neighbour.package) or ''
    if neighbour.launch_file:
        path = os.path.join(prefix, 'share', neighbour.package, 'launch', neighbour.launch_file)
    else:
        path = os.path.join(prefix, 'lib', neighbour.package, neighbour.executable)
    if not (prefix and os.path.isfile(path)):
        missing = f'{neighbour.package} is not installed ({neighbour.advice})'
        for other in neighbour.instead:
            if action := _start(other, lambda message: None):
                report(f'{neighbour.role}: {missing}: {other.package} takes its place')
                return action
        report(f'no {neighbour.role}: {missing}')
        return None
    if neighbour.executable:
        return Node(
            package=neighbour.package,
            executable=neighbour.executable,
            output='screen',
            parameters=[_texts_kept(neighbour.arguments)],
            arguments=[*neighbour.words, '--ros-args', '--log-level', 'warn'],
            remappings=[*neighbour.remaps.items()],
        )
    include = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(path), launch_arguments=neighbour.arguments.items()
    )
    # In a group of its own: launch files would set each other's arguments.
    return GroupAction([_tolerant(include, f'{neighbour.role}: {path}')])


def _tolerant(entity: Any, name: str) -> Any:
    """Wrap an entity of a launch file so that, where it fails, only it is left out.

    A neighbour's launch file may miss a package of its own, which may show while it is read or
    as late as when one of its processes is to be started.
    """
    from launch import LaunchDescriptionEntity
    from launch.actions import LogInfo

    class Tolerant(LaunchDescriptionEntity):
        def visit(self, context: Any) -> list[Any]:
            try:
                entities = entity.visit(context) or []
            except Exception as error:
                return [LogInfo(msg=f'[{PACKAGE}] left out of the {name}: {error}')]
            return [_tolerant(inner, name) for inner in entities]

        def get_asyncio_future(self) -> Any:
            return entity.get_asyncio_future()

    return Tolerant()


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
