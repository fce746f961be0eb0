"""Vision-language node for D-Robotics RDK boards and any PC: a camera and a question in, words out."""
