"""A node and its client on a host of their own, whose network goes down in an answer.

It is run in a network namespace of its own, which ends with it. It prints the answers from before
and after, or `no network: ` and the reason where the machine does not let it have one.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

# As between two hosts: what shares memory would not notice.
os.environ['FASTDDS_BUILTIN_TRANSPORTS'] = 'UDPv4'

from commands import run_each
from nano import CONFIG, draw_scene
from robot import PROFILES, Robot, starter

DOWN = 1.0  # seconds, in which a whole answer is given to nobody
QUESTION = 'Describe the image.'


def link(state: str) -> str:
    """Set the only link that there is; return what does not work, or nothing."""
    commands = [f'ip link set lo {state}']
    if state == 'up':  # what goes down loses its routes
        commands.append('ip route replace 224.0.0.0/4 dev lo')
    return run_each(commands)


def wait(robot: Robot, seconds: float) -> None:
    """Listen for so long, or until there is an answer."""
    end = time.monotonic() + seconds
    robot.wait_for(lambda: robot.texts or time.monotonic() > end)


def ask_again(robot: Robot) -> str:
    """Ask until the question gets through, as a person would who is not heard."""
    robot.texts.clear()
    while True:
        robot.say(QUESTION)
        wait(robot, 5)
        if robot.texts:
            return robot.texts[-1]


def main(installed: str, folder: str) -> None:
    if failed := link('up'):
        print(f'no network: {failed}')
        return
    os.environ[PROFILES] = str(CONFIG / 'quick_discovery.xml')
    with starter(Path(installed), lambda: Path(folder))(feed_type=1) as robot:
        robot.wait_until_ready().show(draw_scene(95)[1])
        print(robot.ask(QUESTION))
        pieces = len(robot.partials)
        robot.say(QUESTION)
        robot.wait_for(lambda: len(robot.partials) > pieces, 'the first words')
        link('down')
        wait(robot, DOWN)
        link('up')
        print(ask_again(robot))
        assert robot.stop()[0] == 0
        assert 'Traceback' not in robot.log


if __name__ == '__main__':
    main(*sys.argv[1:])
