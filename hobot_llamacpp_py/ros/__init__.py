"""The ROS 2 shell: it translates between messages and the engine, nothing more."""
