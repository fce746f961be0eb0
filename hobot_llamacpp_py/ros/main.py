"""The process around the node: arguments, signals, the executor's thread, and the end."""

from __future__ import annotations

import os
import re
import sys
import tempfile
import threading
from collections.abc import Callable

import rclpy
from rclpy.exceptions import NameValidationException, ParameterException
from rclpy.executors import (
    ExternalShutdownException,
    ShutdownException,
    SingleThreadedExecutor,
)
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import remove_ros_args

from hobot_llamacpp_py.allocator import give_back_large_blocks
from hobot_llamacpp_py.errors import MEMORY_IS_SHORT, VlmError
from hobot_llamacpp_py.ros.dead_segments import remove_dead_segments
from hobot_llamacpp_py.ros.node import STOP_TIMEOUT, LlamacppNode
from hobot_llamacpp_py.ros.parameters import explained
from hobot_llamacpp_py.ros.settings import BUILT_IN, COMMAND
from hobot_llamacpp_py.signals import News, ignore_ends, on_end

__all__ = ['run']

USAGE = f"""usage: {COMMAND} -p NAME:=VALUE ...

For example, with the built-in model:
    {BUILT_IN}
`ros2 param describe` and docs/parameters.md say what each parameter does."""


def run(args: list[str] | None = None) -> int:
    """Run the node and return the exit status: 0, or 1 on an error that a log line explains."""
    give_back_large_blocks()
    # rclpy's own handlers would shut the context down at once, and the answer that is being
    # given could not be published any more.
    try:
        given = remove_ros_args(sys.argv if args is None else args)[1:]
        if {'-h', '--help'} & set(given):
            print(USAGE)
            return 0
        if given:
            print(f'ignored: {" ".join(given)}; parameters go after --ros-args', file=sys.stderr)
        remove_dead_segments()
        arguments = [*(sys.argv if args is None else args), *_without_log_files()]
        rclpy.init(args=arguments, signal_handler_options=SignalHandlerOptions.NO)
    except Exception as error:
        print(_argument_error(str(error)), file=sys.stderr)
        return 1
    # The main thread only waits, so that a signal is served whatever the others do.
    exits: News[int] = News()
    on_end(lambda *_: exits.put(0))
    try:
        node = LlamacppNode(on_finished=exits.put)
    except (VlmError, NameValidationException, ParameterException) as error:
        line = explained(error) if isinstance(error, VlmError) else str(error)
        rclpy.logging.get_logger('llamacpp_node').fatal(' '.join(line.split()))
        rclpy.shutdown()
        return 1
    except rclpy_implementation.RCLError as error:  # the middleware refuses, and says why
        print(f'ROS cannot make the node: {_without_places(str(error))}', file=sys.stderr)
        rclpy.shutdown()
        return 1
    except MemoryError:
        print(MEMORY_IS_SHORT, file=sys.stderr, flush=True)
        os._exit(1)  # to free what the middleware has half made might crash
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    stopping = threading.Event()
    spinner = threading.Thread(
        target=_spin, args=(executor, node, stopping, exits.put), name='executor', daemon=True
    )
    spinner.start()
    status = exits.get()

    ignore_ends()
    ended = node.close()
    stopping.set()
    executor.shutdown(timeout_sec=STOP_TIMEOUT / 4)
    spinner.join(STOP_TIMEOUT / 4)
    if not spinner.is_alive():
        # Also where a thread is left: the middleware would leave its shared memory behind.
        node.destroy_node()
        rclpy.try_shutdown()
    if not ended or spinner.is_alive():
        # Native code, an encoder for example, does not return: leave without it.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


def _spin(
    executor: SingleThreadedExecutor,
    node: LlamacppNode,
    stopping: threading.Event,
    end: Callable[[int], None],
) -> None:
    """Serve callbacks until the executor is shut down; one that fails does not end the node."""
    while rclpy.ok():
        try:
            executor.spin()
            break
        except (ExternalShutdownException, ShutdownException):
            break
        except Exception as error:
            if stopping.is_set():  # Humble's executor stumbles over its own shutdown
                return
            if rclpy.ok():
                node.get_logger().error(f'a callback failed: {type(error).__name__}: {error}')
    if not stopping.is_set():  # nothing can be heard or said any more
        node.get_logger().fatal('ROS was shut down in this process: the node ends')
        end(1)


def _without_log_files() -> tuple[str, ...]:
    """Return the arguments by which ROS writes none, where it cannot: it would end over that."""
    home = os.path.expanduser(os.environ.get('ROS_HOME') or '~/.ros')
    folder = os.path.expanduser(os.environ.get('ROS_LOG_DIR') or os.path.join(home, 'log'))
    try:
        os.makedirs(folder, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        print(f'no log file, {folder}: {error.strerror}', file=sys.stderr)
        return '--ros-args', '--disable-external-lib-logs'
    return ()


def _argument_error(error: str) -> str:
    """Turn rcl's error about an argument into a line that shows the right quoting."""
    rule = re.search(r"parameter override rule: '-p ([^ :]+):=(.*)'\. Error", error, re.DOTALL)
    if rule is None:
        without = re.search(r"parameter override rule: '-p ([^']*)'", error)
        if without and ':=' not in without[1]:
            return f'-p {without[1]} has no :=, write -p NAME:=VALUE'
        error = _without_places(error)
        return f'the ROS arguments cannot be read: {error}{_hint(error)}'
    name, value = rule.groups()
    quoted = value.replace("'", "''")  # as YAML escapes a quote
    quoted = re.sub(r'(["$`\\])', r'\\\1', quoted)  # and the shell within double quotes
    return (
        f'{name}: ROS reads a value as YAML, and {value!r} is none; quote a text twice:'
        f""" -p {name}:="'{quoted}'" """
    ).strip()


def _without_places(error: str) -> str:
    """Return an error of rcl's as one line, without where in its source it was found out."""
    return re.sub(r', at /\S+:\d+', '', ' '.join(error.split()))


def _hint(error: str) -> str:
    """Return what to do about an error of rcl's that does not say so itself."""
    if error.startswith('['):  # the words that it does not know
        return """; quote a value with spaces twice: -p NAME:="'...'\""""
    if 'ros__parameters' in error:
        return '; values stand below NODE: and ros__parameters:, as config/params.yaml shows'
    return ''
