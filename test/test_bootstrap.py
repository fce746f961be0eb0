"""scripts/bootstrap.sh: what it does again, and the one line it says when it cannot go on."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TOOLS = 'bash cat cut dirname flock grep gzip mkdir mv rm sha256sum sleep stat tail tar uname'

# Stands in for .venv/bin/python. What it is asked to install goes to the file `calls`;
# $SAYS is printed by the step that $FAILS names, which then fails (or sleeps, if so told).
PYTHON = """#!/bin/bash
[[ $* == *"-m pip"* ]] && shift 2 || exit 0
case "$*" in
  --version) exit 0 ;;
  *--find-links*) [[ -e wheel ]] && exit 0; echo 'No matching distribution found'; exit 1 ;;
esac
echo "$1 ${*: -1}" >>calls
if [[ $* == *"$FAILS"* ]]; then
  echo "$SAYS"
  [[ $SAYS != sleep ]] || sleep 30
  exit 1
fi
case "$1" in
  download)
    to=${*: -3:1}
    mkdir -p s "$to" && : >s/f && tar -czf "$to/llama_cpp_python-1.tar.gz" s
    ;;
  wheel) : >wheel ;;
esac
"""


class Repository:
    """A copy of what bootstrap.sh needs, with stand-ins for Python, pip and the compiler."""

    def __init__(self, path: Path) -> None:
        self.path = path
        for folder in 'scripts', 'requirements':
            shutil.copytree(ROOT / folder, path / folder)
        self.bin = path / 'bin'
        self.bin.mkdir()
        for tool in TOOLS.split():
            (self.bin / tool).symlink_to(shutil.which(tool))
        self.script('cc', 'cat >/dev/null')
        self.script('c++', 'cat >/dev/null')
        self.script('python3', f'exec {sys.executable} "$@"')
        self.environment = {
            'PATH': str(self.bin),
            'HOME': str(path),
            'PYTHON': 'python3',
            'FAILS': '(no step)',
        }

    def script(self, name: str, body: str) -> Path:
        path = self.bin / name
        path.write_text(f'#!/bin/bash\n{body}\n')
        path.chmod(0o755)
        return path

    def fake_venv(self) -> None:
        python = self.path / '.venv/bin/python'
        python.parent.mkdir(parents=True)
        python.write_text(PYTHON)
        python.chmod(0o755)

    def start(
        self, *sets: str, script: str = 'bootstrap.sh', **environment: str
    ) -> subprocess.Popen:
        return subprocess.Popen(
            [self.path / 'scripts' / script, *sets],
            env=self.environment | environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C reaches a whole group, but not this test
            # A background job of a script ignores Ctrl-C, and a shell cannot change that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def run(self, *sets: str, **environment: str) -> str:
        """Run it and return what it printed."""
        process = self.start(*sets, **environment)
        output, error = process.communicate(timeout=60)
        assert (process.returncode, error) == (0, '')
        return output

    def fail(self, **environment: str) -> str:
        """Run it, see it fail with one line, and return that."""
        process = self.start(**environment)
        _, error = process.communicate(timeout=60)
        assert (process.returncode, error.count('\n')) == (1, 1), error
        return error.removeprefix('error: ').rstrip('\n')

    def calls(self) -> list[str]:
        path = self.path / 'calls'
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def repository(tmp_path):
    return Repository(tmp_path)


def test_second_run_does_nothing(repository):
    """What is installed is not installed again, and saying so takes no time."""
    repository.fake_venv()
    repository.run('test')
    before = repository.calls()
    start = time.monotonic()
    assert repository.run('test') == ''
    assert repository.run() == ''
    assert time.monotonic() - start < 1
    assert repository.calls() == before


def test_changed_requirements_are_installed(repository):
    """A changed requirement file is noticed."""
    repository.fake_venv()
    repository.run()
    with (repository.path / 'requirements/hashed/pc.txt').open('a') as file:
        file.write('another==1 --hash=sha256:0\n')
    repository.run()
    assert repository.calls()[-1] == 'install requirements/hashed/pc.txt'
    assert repository.calls().count('install requirements/hashed/pc.txt') == 2


def test_compiles_once(repository):
    """llama.cpp is compiled where there is no wheel of it, and not again for the next .venv."""
    repository.fake_venv()
    output = repository.run()
    assert '4 to 10 minutes' in output
    shutil.rmtree(repository.path / '.venv')
    repository.fake_venv()
    output = repository.run()
    assert '4 to 10 minutes' not in output


def test_interrupted_compilation_goes_on(repository):
    """Ctrl-C stops it at once with one line; the next run goes on with the same source."""
    repository.fake_venv()
    process = repository.start(FAILS='wheel', SAYS='sleep')
    log = repository.path / '.venv/install.log'
    deadline = time.monotonic() + 30
    while not (log.exists() and log.read_text().endswith('sleep\n')):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=10)
    assert error == 'error: interrupted: run it again to go on from here\n'
    assert process.returncode == 1

    repository.run()
    names = [call.split()[0] for call in repository.calls()]
    assert names == ['install', 'download', 'wheel', 'install', 'wheel', 'install']


def test_interrupted_board_wheel_goes_on(repository):
    """The boards' wheel goes on, too, with one line of progress a step."""
    for name in 'aarch64-linux-gnu-gcc', 'aarch64-linux-gnu-g++':
        repository.script(name, 'echo 12')
    fake = repository.path / 'fake_python'
    fake.write_text(PYTHON)
    venv = 'mkdir -p "$4/bin" && cat fake_python >"$4/bin/python" && chmod +x "$4/bin/python"'
    repository.script('python3', venv)
    repository.script('chmod', f'exec {shutil.which("chmod")} "$@"')
    process = repository.start(script='board_wheel.sh', FAILS='wheel -v', SAYS='sleep')
    folder = repository.path / '.cache/hobot_llamacpp_py/board_wheel'
    deadline = time.monotonic() + 30
    while not any(log.read_text().endswith('sleep\n') for log in folder.glob('build-*/log')):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    output, error = process.communicate(timeout=10)
    assert output == ''  # is for the wheel's path
    assert error.startswith('Build tools: done\nllama.cpp source: done\n')
    assert error.endswith('error: interrupted: run it again to go on from here\n')

    again = repository.start(script='board_wheel.sh', FAILS='wheel -v', SAYS='nothing')
    assert 'llama.cpp failed: the end of ' in again.communicate(timeout=30)[1]
    names = [call.split()[0] for call in repository.calls()]
    assert names == ['install', 'download', 'wheel', 'install', 'wheel']


def test_wrong_python(repository):
    """An unsupported Python is named, with what is needed instead."""
    repository.script('python3', '[[ $2 == *glibc* ]] && exit 1; echo CPython 3.9.2')
    error = repository.fail()
    assert error.startswith('found CPython 3.9.2 on ')
    assert 'need CPython 3.10 to 3.13 on x86_64 Linux' in error


def test_no_python(repository):
    """A Python that does not exist is said to be missing."""
    error = repository.fail(PYTHON='/nowhere/python3')
    assert error.startswith('found no /nowhere/python3 on ')


def test_python_without_venv(repository):
    """Debian's Python comes without ensurepip; the package that brings it is named."""
    python = sys.executable
    repository.script('python3', f'[[ $2 == *ensurepip* ]] && exit 1; exec {python} "$@"')
    version = f'{sys.version_info.major}.{sys.version_info.minor}'
    error = repository.fail()
    assert error.endswith(f'sudo apt-get install python{version}-venv')


def test_no_compiler(repository):
    """Without a compiler that works, nothing is downloaded first."""
    repository.fake_venv()
    repository.script('c++', 'exit 1')
    error = repository.fail()
    assert error.endswith('there is no working C++ compiler: sudo apt-get install g++')
    assert repository.calls() == []


@pytest.mark.parametrize(
    ('says', 'expected'),
    [
        ('OSError: [Errno 28] No space left on device', 'the disk is full'),
        ('g++: fatal error: Killed signal terminated program', 'the compiler ran out of memory'),
        ('Retrying: NewConnectionError(...)', 'PyPI cannot be reached'),
        (
            'ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.',
            'a downloaded file is not the one that requirements/hashed/ knows',
        ),
        ('something else', 'llama.cpp failed: the end of .venv/install.log says why'),
    ],
)
def test_failed_step(repository, says, expected):
    """A step that fails is explained in one line that points to the log."""
    repository.fake_venv()
    error = repository.fail(FAILS='wheel', SAYS=says)
    assert error.startswith(expected)
    assert '.venv/install.log' in error
    assert says in (repository.path / '.venv/install.log').read_text()


def test_another_file_is_refused(repository, tmp_path):
    """With the real pip, a file of the right name and version that is another is not installed."""
    pytest.importorskip('ensurepip')
    name = 'packaging-26.3-py3-none-any.whl'
    (tmp_path / 'index').mkdir()
    with zipfile.ZipFile(tmp_path / 'index' / name, 'w') as wheel:
        wheel.writestr('packaging/__init__.py', '')
        metadata = 'Metadata-Version: 2.1\nName: packaging\nVersion: 26.3\n'
        wheel.writestr('packaging-26.3.dist-info/METADATA', metadata)
        wheel.writestr('packaging-26.3.dist-info/WHEEL', 'Wheel-Version: 1.0\n')
        wheel.writestr('packaging-26.3.dist-info/RECORD', '')
    hashed = repository.path / 'requirements/hashed'
    lines = (hashed / 'build.txt').read_text()
    of_packaging = re.search(r'packaging==26.3 \\\n(?: .*\n)+', lines)
    (hashed / 'build.txt').write_text(of_packaging[0])
    error = repository.fail(
        PIP_NO_INDEX='1', PIP_FIND_LINKS=str(tmp_path / 'index'), PIP_CONFIG_FILE=os.devnull
    )
    assert error.startswith('a downloaded file is not the one that requirements/hashed/ knows')


def test_no_network(repository):
    """With the real pip and an index that nobody serves, the network is blamed."""
    pytest.importorskip('ensurepip')
    error = repository.fail(
        PIP_INDEX_URL='http://127.0.0.1:9/simple', PIP_RETRIES='0', PIP_CONFIG_FILE=os.devnull
    )
    assert error.startswith('PyPI cannot be reached')


def test_sourced_ros_stays_out(repository):
    """A ROS sourced in the shell is not seen by what is installed into .venv."""
    repository.fake_venv()
    python = repository.path / '.venv/bin/python'
    python.write_text(PYTHON.replace('#!/bin/bash', '#!/bin/bash\nexport -p >exported', 1))
    repository.run(
        PYTHONPATH='/opt/ros/humble/lib/python3.10/site-packages',
        AMENT_PREFIX_PATH='/opt/ros/humble',
        LD_LIBRARY_PATH='/opt/ros/humble/lib',
    )
    assert '/opt/ros' not in (repository.path / 'exported').read_text()
