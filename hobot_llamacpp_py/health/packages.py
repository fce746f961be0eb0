"""What is installed with which command."""

from __future__ import annotations

__all__ = ['INSTALL_LIBMTMD', 'INSTALL_ONNXRUNTIME', 'NEEDED', 'missing', 'version_of']

INSTALL_ONNXRUNTIME = 'pip3 install onnxruntime'
INSTALL_LIBMTMD = (
    'pip3 install --force-reinstall --no-deps llama-cpp-python, or use an .onnx encoder'
)
NEEDED = {
    'cv2': 'sudo apt install python3-opencv',
    'jinja2': 'sudo apt install python3-jinja2',
    'llama_cpp': 'pip3 install llama-cpp-python',
    'numpy': 'sudo apt install python3-numpy',
    'yaml': 'sudo apt install python3-yaml',
}
"""What the node imports, and how each is installed."""


def missing(error: Exception) -> str:
    """Return the line about an import that failed for want of a package, '' for another error."""
    name = error.name if isinstance(error, ModuleNotFoundError) else None
    commands = {**NEEDED, 'rclpy': 'source /opt/ros/humble/setup.bash, or that of your ROS 2'}
    return f'{name} is not installed: {commands[name]}' if name in commands else ''


def version_of(package: str) -> str:
    """Return the version of an installed package, '' if it is not installed."""
    import importlib.metadata  # slow, and the node needs the commands only

    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ''
