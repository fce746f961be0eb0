"""Two hosts in one machine: this process on one of them, and the node on the other.

It is run in network and mount namespaces of its own, which end with it. It prints the node's
answer, or `no network: ` and the reason where the machine does not let it have the second host.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

# What two hosts have: the network between them, and no common memory.
os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'SUBNET'
os.environ['FASTDDS_BUILTIN_TRANSPORTS'] = 'UDPv4'
os.environ.pop('ROS_LOCALHOST_ONLY', None)

from commands import run_each
from nano import MODELS, draw_scene
from robot import Robot

NETWORK = (
    'mount -t tmpfs tmpfs /run',  # where the other namespace gets its name
    f'ip netns attach station {os.getpid()}',
    'ip netns add robot',
    'ip link add eth0 type veth peer name eth0 netns robot',
    *(
        f'ip -netns {host} {command}'
        for host, address in (('station', '10.0.0.1'), ('robot', '10.0.0.2'))
        for command in (
            f'address add {address}/24 dev eth0',
            'link set lo up',
            'link set eth0 up',
            'route add default dev eth0',  # for the multicast of discovery
        )
    ),
)


def main(installed: str, folder: str) -> None:
    if failed := run_each(NETWORK):
        print(f'no network: {failed}')
        return
    encoder, decoder, kind = MODELS['internvl']
    parameters = dict(model_file_name=encoder, llm_model_name=decoder, model_type=kind.number)
    parameters |= dict(feed_type=1, image_timeout=20.0)
    elsewhere = ('ip', 'netns', 'exec', 'robot')
    with Robot(Path(installed), Path(folder), parameters, command=elsewhere) as robot:
        robot.wait_until_ready()
        robot.show(draw_scene(94)[1])
        print(robot.ask('描述一下这张图片。'))


if __name__ == '__main__':
    main(*sys.argv[1:])
