"""What holds for the source tree as a whole."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from nano import ROOT

from hobot_llamacpp_py.web.server import PACKAGES

PACKAGE = ROOT / 'hobot_llamacpp_py'
# The rooms, each with what it may import of the package besides itself.
CORE = {
    *('allocator', 'board', 'catalogue', 'config', 'errors', 'families', 'files', 'folders'),
    *('gguf_header', 'llama_api', 'llama_end', 'llama_log', 'signals'),
}
ROOMS = {
    'health': CORE,
    'drawing': CORE,
    'vision': CORE | {'health'},
    'engine': CORE | {'health', 'vision'},
    'remote': CORE | {'vision', 'engine'},
    'web': CORE | {'health', 'vision', 'engine'},
    'watch': CORE | {'vision', 'engine'},
    'ros': CORE | {'health', 'drawing', 'vision', 'engine', 'remote', 'watch', 'web'},
    'launching': CORE | {'ros'},
    'tools': CORE | {'health', 'drawing', 'vision', 'engine', 'remote', 'watch', 'web', 'ros'},
    '__main__': {'health', 'ros', 'signals'},
}
ROS = {'rclpy', 'std_msgs', 'sensor_msgs', 'std_srvs', 'diagnostic_msgs', 'launch', 'launch_ros'}
MOST_LINES, MOST_LINES_OF_A_CLASS = 400, 250
# The modules that import a binding, so that it can be replaced and is optional.
BINDINGS = {
    'onnxruntime': {'vision/onnx.py'},
    'llama_cpp': {
        'vision/mmproj.py',
    },
    'llguidance': {'engine/constraint_compiler.py', 'engine/constraint_trial.py'},
    'openai': {'remote/connection.py'},
    'hobot_dnn': {'vision/bpu_x5.py'},
    'hobot_dnn_rdkx5': {'vision/bpu_x5.py'},
    'hbm_runtime': {'vision/bpu_s100.py'},
    'PIL': {'drawing/caption.py', 'web/pictures.py'},
    'mcp': {'web/mcp_tools.py'},
}
MODULES = sorted(path for path in PACKAGE.rglob('*.py') if path.name != '__init__.py')


def imports(path: Path) -> set[str]:
    """Return the dotted names of all that a file imports, wherever it does so."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text('utf-8'))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def name_of(path: Path) -> str:
    """Return a module's dotted name without the package's."""
    return '.'.join(path.relative_to(PACKAGE).with_suffix('').parts)


def own_imports(path: Path) -> set[str]:
    """Return the modules of the package that a file imports, without the package's name."""
    found = set()
    for name in imports(path):
        package, _, rest = name.partition('.')
        if package == PACKAGE.name and rest:
            found.add(rest)
    return found


@pytest.mark.parametrize('path', MODULES, ids=name_of)
def test_imports_run_one_way(path: Path) -> None:
    """A module imports what is below its room, and nothing of ROS unless its room is above it."""
    room = name_of(path).split('.')[0]
    allowed = ROOMS.get(room, CORE) | {room}
    assert {name.split('.')[0] for name in own_imports(path)} <= allowed
    if room not in ('ros', 'launching', 'tools', '__main__'):
        assert not ROS & {name.split('.')[0] for name in imports(path)}


def test_no_circle() -> None:
    """No modules import each other in a circle."""
    arrows = {name_of(path): own_imports(path) for path in MODULES}

    def walk(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, ' -> '.join((*way[way.index(name) :], name))
        if name not in done:
            for other in arrows.get(name, ()):
                walk(other, (*way, name))
            done.add(name)

    done: set[str] = set()
    for name in arrows:
        walk(name, ())


@pytest.mark.parametrize('path', MODULES, ids=name_of)
def test_files_are_of_one_concept(path: Path) -> None:
    """No module and no class is so long that it must be more than one."""
    text = path.read_text('utf-8')
    assert len(text.splitlines()) <= MOST_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ClassDef):
            lines = (node.end_lineno or 0) - node.lineno + 1
            assert lines <= MOST_LINES_OF_A_CLASS, node.name


def test_architecture_shows_every_module() -> None:
    """docs/architecture.md has a line for every module."""
    text = (ROOT / 'docs' / 'architecture.md').read_text('utf-8')
    missing = [path.name for path in MODULES if f' {path.name} ' not in text]
    assert missing == []


@pytest.mark.parametrize('binding', BINDINGS)
def test_bindings_are_imported_where_they_are_wrapped(binding: str) -> None:
    """Each binding is imported by the modules that wrap it, and by no other."""
    found = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob('*.py')
        if binding in {name.split('.')[0] for name in imports(path)}
    }
    assert found == BINDINGS[binding]


# What rosdep has no key for, or where it is needed at run time only if it is there.
NOT_DECLARED = {
    *('llama_cpp', 'llguidance', 'onnxruntime', 'gguf', 'huggingface_hub', 'requests'),  # PyPI
    'matplotlib',  # bench --plot
    'prompt_toolkit',  # PyPI, for the terminal
    *('anyio', 'h11', 'mcp', 'openai', 'prometheus_client', 'starlette', 'uvicorn'),  # PyPI
    *('hobot_dnn', 'hobot_dnn_rdkx5', 'hbm_runtime', 'ai_msgs', 'hbm_img_msgs'),  # boards
}
DEBIAN = {'numpy': 'python3-numpy', 'cv2': 'python3-opencv', 'PIL': 'python3-pil'}
DEBIAN |= {'yaml': 'python3-yaml', 'jinja2': 'python3-jinja2'}


def test_package_xml_declares_what_is_imported() -> None:
    """rosdep installs all that the package imports and knows a key for, and no more."""
    paths = [*PACKAGE.rglob('*.py'), *(ROOT / 'launch').glob('*.py')]
    imported = {name.split('.')[0] for path in paths for name in imports(path)}
    imported -= {*sys.stdlib_module_names, PACKAGE.name, *NOT_DECLARED}
    declared = re.findall('<exec_depend>(.*?)</exec_depend>', (ROOT / 'package.xml').read_text())
    assert sorted(declared) == sorted(DEBIAN.get(name, name) for name in imported)


def test_packages_of_the_server_are_the_pinned_ones() -> None:
    """What the error about missing packages installs is what the tests run with."""
    pinned = (ROOT / 'requirements' / 'web.txt').read_text('utf-8').splitlines()
    assert set(PACKAGES.values()) <= set(pinned)


def test_make_explains_itself() -> None:
    """Without a target, make lists every one that there is."""
    targets = re.findall(r'^([a-z0-9-]+):', (ROOT / 'Makefile').read_text('utf-8'), re.MULTILINE)
    result = subprocess.run(['make', '-C', ROOT], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    listed = re.findall(r'^make ([a-z0-9-]+) ', result.stdout, re.MULTILINE)
    assert sorted(listed) == sorted(set(targets) - {'help'})


def test_built_in_models_are_small() -> None:
    """All files of config/ together stay below 16 MB."""
    size = sum(path.stat().st_size for path in (ROOT / 'config').rglob('*') if path.is_file())
    assert size < 16e6
