"""Several nodes: on one robot or many, in one process or two, on one host or two."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from logging import getLogger
from pathlib import Path

import pytest
from nano import MODELS, ROOT, answer, draw_scene

pytest.importorskip('rclpy', reason='needs ROS 2')
import rclpy
from domain import own_domain
from image_messages import image_message, shared_memory_message
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from robot import NAMES, TIMEOUT, Robot
from std_msgs.msg import String

from hobot_llamacpp_py.ros.node import LlamacppNode

DESCRIBE = '描述一下这张图片。'
TOGETHEROS = importlib.util.find_spec('ai_msgs') is not None  # else without its two topics


class TestOneProcess:
    """Two nodes in one executor, as components are."""

    @pytest.fixture
    @staticmethod
    def context() -> Iterator[rclpy.Context]:
        core = getLogger('hobot_llamacpp_py')
        before = core.level, core.propagate, core.handlers
        with own_domain() as domain:
            context = rclpy.Context()
            rclpy.init(context=context, domain_id=domain)
            yield context
            rclpy.try_shutdown(context=context)
        core.level, core.propagate, core.handlers = before

    def test_each_answers_about_its_own_images(
        self, context: rclpy.Context, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """Each has its own models, images and log lines; one goes on when the other has ended."""
        scenes = {'left': draw_scene(90), 'right': draw_scene(91)}
        families = {'left': 'internvl', 'right': 'smolvlm'}
        client = rclpy.create_node('client', context=context)
        executor = SingleThreadedExecutor(context=context)
        executor.add_node(client)
        nodes, prompts, texts = {}, {}, {side: [] for side in scenes}
        for side, (_, bgr) in scenes.items():
            nodes[side] = self.make(context, side, families[side])
            executor.add_node(nodes[side])
            name = f'/{side}/llamacpp_node/text'
            client.create_subscription(String, name, texts[side].append, 10)
            prompts[side] = client.create_publisher(String, f'/{side}/prompt_text', 10)
            message = image_message(bgr, 'bgr8')
            images = client.create_publisher(type(message), f'/{side}/image', 1)
            # a camera
            client.create_timer(
                0.2, lambda images=images, message=message: images.publish(message)
            )

        def wait_for(done: Callable[[], bool]) -> None:
            deadline = time.monotonic() + TIMEOUT
            while not done():
                assert time.monotonic() < deadline
                executor.spin_once(timeout_sec=0.1)

        def ask(*sides: str) -> dict[str, str]:
            for side in sides:
                prompts[side].publish(String(data=DESCRIBE))
            wait_for(lambda: all(texts[side] for side in sides))
            return {side: texts[side].pop().data for side in sides}

        expected = {side: answer(scene, DESCRIBE) for side, (scene, _) in scenes.items()}
        try:
            wait_for(lambda: all(prompts[side].get_subscription_count() for side in scenes))
            assert ask('left', 'right') == expected
            prompts['left'].publish(String(data='你好'))
            assert ask('left') == {'left': expected['left']}
            nodes['right'].close()
            nodes.pop('right').destroy_node()
            assert ask('left') == {'left': expected['left']}
        finally:
            for node in nodes.values():
                node.close()
                node.destroy_node()
            executor.shutdown()
        log = capfd.readouterr().err
        assert '[left.llamacpp_node]: preparing, for the wake word' in log
        for side in scenes:
            assert f'[{side}.llamacpp_node]: answer: {expected[side]}' in log

    @staticmethod
    def make(context: rclpy.Context, namespace: str, family: str) -> LlamacppNode:
        encoder, decoder, kind = MODELS[family]
        values = dict(feed_type=1, pre_infer=1, image_timeout=TIMEOUT, temperature=0.0)
        values |= dict(model_file_name=str(encoder), llm_model_name=str(decoder))
        values |= dict(model_type=kind.number, llm_threads=1)
        # As the launch files do with a namespace.
        values |= dict(ros_img_sub_topic_name='image', ros_string_sub_topic_name='prompt_text')
        values |= dict(text_msg_pub_topic_name='tts_text', ai_msg_pub_topic_name='llama_cpp_node')
        overrides = [Parameter(name, value=value) for name, value in values.items()]
        # The namespace as on a command line: an argument of one node and not of the process.
        arguments = ['--ros-args', '-r', f'__ns:=/{namespace}']
        return LlamacppNode(context=context, cli_args=arguments, parameter_overrides=overrides)


def test_two_processes_with_all_names_remapped(installed: Path, tmp_path: Path) -> None:
    """Each name can be remapped, so that two robots of one network do not hear each other."""
    names = {
        robot: {name: f'/{robot}/my{name}' for name in NAMES} | {'/llamacpp_node': f'/{robot}/vlm'}
        for robot in ('one', 'two')
    }
    encoder, decoder, kind = MODELS['internvl']
    parameters = dict(model_file_name=encoder, llm_model_name=decoder, model_type=kind.number)
    parameters |= dict(feed_type=1, image_timeout=20.0)

    def start(robot: str, beside: Robot | None = None, **more: object) -> Robot:
        folder = tmp_path / robot
        folder.mkdir()
        arguments = ['-r', '__node:=vlm', '-r', f'__ns:=/{robot}']
        for name, remapped in names[robot].items():
            if name != '/llamacpp_node':
                arguments += ['-r', f'{name.replace("/llamacpp_node/", "~/")}:={remapped}']
        return Robot(
            installed,
            folder,
            {**parameters, **more},
            arguments=arguments,
            togetheros=TOGETHEROS,
            names=names[robot],
            beside=beside,
        )

    (scene, bgr), (other_scene, other_bgr) = draw_scene(92), draw_scene(93)
    shared_memory = dict(is_shared_mem_sub=1) if TOGETHEROS else {}
    with start('one') as one, start('two', beside=one, **shared_memory) as two:
        one.wait_until_ready()
        two.wait_until_ready()
        one.show(bgr)
        if TOGETHEROS:
            two.publish(shared_memory_message(other_bgr), '/hbmem_img')
        else:
            two.show(other_bgr)
        one.say(DESCRIBE)
        two.say(DESCRIBE)
        for robot, right in (
            (one, answer(scene, DESCRIBE)),
            (two, answer(other_scene, DESCRIBE)),
        ):
            assert robot.next_text() == right
            robot.wait_for(lambda r=robot, t=right: ''.join(r.partials) == t, 'all pieces')
            robot.wait_for(lambda r=robot, t=right: ''.join(r.speech).endswith(t), 'speaking all')
            if TOGETHEROS:
                assert [target.type for target in robot.next_targets().targets] == [right]
            assert f'questions come from {robot.names["/prompt_text"]}' in robot.log
            assert robot.call('cancel').message == 'no answer is running'
            assert robot.call('reset').success
            assert robot.texts == []
        left = {name for name, _ in one.client.get_topic_names_and_types()}
        assert not left & NAMES.keys()


def test_two_hosts(installed: Path, tmp_path: Path) -> None:
    """Images and questions from one host are answered on another one, over the network."""
    isolate = ['unshare', '--net', '--mount']
    if os.geteuid() != 0:
        isolate += ['--user', '--map-root-user']
    script = Path(__file__).with_name('two_hosts.py')
    try:
        result = subprocess.run(
            [*isolate, sys.executable, str(script), str(installed), str(tmp_path)],
            env={
                **os.environ,
                'PYTHONPATH': os.pathsep.join([str(ROOT), *filter(None, sys.path)]),
            },
            capture_output=True,
            text=True,
            timeout=3 * TIMEOUT,
        )
    except FileNotFoundError as error:
        pytest.skip(f'needs network namespaces: {error}')
    if result.stderr.startswith('unshare: '):
        pytest.skip(f'needs network namespaces: {result.stderr.strip()}')
    if result.stdout.startswith('no network: '):
        pytest.skip(f'needs network namespaces: {result.stdout.strip()}')
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == answer(draw_scene(94)[0], DESCRIBE)
