"""The start of the process."""

import signal
import subprocess
import sys

import pytest
from nano import ROOT

BUILT_IN = ['--ros-args', '-p', 'llm_model_name:=config/nano_internvl.gguf', '-p', 'feed_type:=2']
MISSING = """
import sys
sys.modules[{name!r}] = None
from hobot_llamacpp_py.__main__ import main
main()
"""
SCRIPT = """
import os, sys
class Impatient:
    def find_spec(self, name, path=None, target=None):
        if name == 'rclpy':
            os.kill(os.getpid(), {number})
sys.meta_path.insert(0, Impatient())
from hobot_llamacpp_py.__main__ import main
main()
"""


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_the_node_is_imported(number: int) -> None:
    """Whoever changes their mind at once sees no traceback."""
    script = SCRIPT.format(number=int(number))
    result = subprocess.run(
        [sys.executable, '-c', script], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, '', '')


OTHER_THREAD = """
import signal, sys, threading, time
from hobot_llamacpp_py.signals import News, on_end
news = News()
on_end(lambda number, _: news.put(number))
def other():
    time.sleep(0.5)  # the main thread waits by then
    signal.pthread_kill(threading.get_ident(), {number})
    time.sleep(60)
threading.Thread(target=other, daemon=True).start()
print(news.get())
"""


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_that_another_thread_gets(number: int) -> None:
    """The kernel chooses the thread; the main one wakes all the same."""
    script = OTHER_THREAD.format(number=int(number))
    result = subprocess.run(
        [sys.executable, '-c', script], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert (result.stdout, result.stderr) == (f'{int(number)}\n', '')


@pytest.mark.parametrize(
    'name, mend',
    [
        ('llama_cpp', 'pip3 install llama-cpp-python'),
        ('yaml', 'sudo apt install python3-yaml'),
        ('rclpy', 'source /opt/ros/'),
    ],
)
def test_a_package_that_is_missing(name: str, mend: str) -> None:
    """What is not installed is one line with the command that installs it."""
    pytest.importorskip('rclpy', reason='needs ROS 2')
    result = subprocess.run(
        [sys.executable, '-c', MISSING.format(name=name), *BUILT_IN],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 1
    assert f'{name} is not installed: {mend}' in result.stderr.splitlines()[-1]
    assert 'Traceback' not in result.stderr
