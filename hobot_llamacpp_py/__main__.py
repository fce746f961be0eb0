"""Start the node: `python -m hobot_llamacpp_py --ros-args -p name:=value ...`."""

from hobot_llamacpp_py.ros.main import main

main()
