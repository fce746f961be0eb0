"""The inference engine: pictures and questions in, pieces of text out. It knows nothing of ROS."""
