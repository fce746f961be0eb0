"""Questions about camera images: ros2 launch hobot_llamacpp_py llama_vlm.launch.py."""

from hobot_llamacpp_py.launching.description import generate


def generate_launch_description():
    return generate(vlm=True)
