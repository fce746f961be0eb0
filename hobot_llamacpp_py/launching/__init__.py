"""What the launch files start: the node, and its neighbours on a robot."""
