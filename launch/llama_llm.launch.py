"""Text chat: ros2 launch hobot_llamacpp_py llama_llm.launch.py."""

from hobot_llamacpp_py.launching.description import generate


def generate_launch_description():
    return generate(vlm=False)
