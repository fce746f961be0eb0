"""The start of the process."""

import subprocess
import sys

from nano import ROOT

SCRIPT = """
import sys
class Impatient:
    def find_spec(self, name, path=None, target=None):
        if name == 'rclpy':
            raise KeyboardInterrupt
sys.meta_path.insert(0, Impatient())
from hobot_llamacpp_py.__main__ import main
main()
"""


def test_ctrl_c_while_the_node_is_imported() -> None:
    """Whoever changes their mind at once sees no traceback."""
    result = subprocess.run(
        [sys.executable, '-c', SCRIPT], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, '', '')
