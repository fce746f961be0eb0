"""Vision-language node for RDK boards and any PC: a camera and a question in, words out."""
