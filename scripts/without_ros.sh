# shellcheck shell=bash
# Source this before anything in .venv runs. A sourced ROS (setup.bash in the login shell) would be
# found before the ROS in .venv: another distribution's rclpy, its libraries, its middleware.
if [[ -n ${AMENT_PREFIX_PATH:-} ]]; then unset LD_LIBRARY_PATH; fi
unset PYTHONPATH PYTHONHOME AMENT_PREFIX_PATH COLCON_PREFIX_PATH CMAKE_PREFIX_PATH \
  RMW_IMPLEMENTATION ROS_DISTRO ROS_VERSION ROS_PYTHON_VERSION
# Left behind by a parent process in another venv with ROS wheels; they would skip their set-up.
unset _ROS_WHEELS_BOOTSTRAP_COMPLETE
