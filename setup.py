"""Package description for colcon (ament_python)."""

import os

from setuptools import find_packages, setup

NAME = 'hobot_llamacpp_py'


def tree(folder, destination):
    """List folder and its subfolders as data_files below destination."""
    return [
        (
            os.path.join(destination, os.path.relpath(path, folder)).rstrip('/.'),
            [os.path.join(path, name) for name in sorted(names)],
        )
        for path, _, names in sorted(os.walk(folder))
        if names
    ]


setup(
    name=NAME,
    version='0.1.0',
    packages=find_packages(include=[NAME, NAME + '.*']),
    package_data={NAME: ['py.typed', 'web/page.html']},
    data_files=[
        ('share/ament_index/resource_index/packages', ['resource/' + NAME]),
        ('share/' + NAME, ['package.xml']),
        *tree('launch', 'share/' + NAME + '/launch'),
        *tree('config', 'share/' + NAME + '/config'),
        # The documented first step copies it from here: cp -r .../lib/hobot_llamacpp_py/config/ .
        *tree('config', 'lib/' + NAME + '/config'),
    ],
    install_requires=['setuptools'],
    extras_require={'test': ['pytest']},
    zip_safe=False,
    author='hobot_llamacpp_py maintainers',
    maintainer='hobot_llamacpp_py maintainers',
    description='Vision language models on RDK boards: a ROS 2 node with BPU and llama.cpp',
    license='Apache-2.0',
    python_requires='>=3.10',
    entry_points={
        'console_scripts': [
            'hobot_llamacpp_py = hobot_llamacpp_py.__main__:main',
            'camera = hobot_llamacpp_py.tools.camera:main',
            'watch = hobot_llamacpp_py.tools.watch:main',
            'serve = hobot_llamacpp_py.tools.serve:main',
            'chat = hobot_llamacpp_py.tools.chat:main',
            'models = hobot_llamacpp_py.tools.models:main',
            'demo = hobot_llamacpp_py.tools.demo:main',
            'doctor = hobot_llamacpp_py.tools.doctor:main',
            'bench = hobot_llamacpp_py.tools.bench:main',
            'bench_node = hobot_llamacpp_py.tools.bench_node:main',
            'bench_light = hobot_llamacpp_py.tools.bench_light:main',
            'bench_remote = hobot_llamacpp_py.tools.bench_remote:main',
            'bench_watch = hobot_llamacpp_py.tools.bench_watch:main',
            'bench_http = hobot_llamacpp_py.tools.bench_http:main',
            'bench_threads = hobot_llamacpp_py.tools.bench_threads:main',
        ],
    },
)
