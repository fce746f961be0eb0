"""Vision-language node for RDK boards and any PC: a camera and a question in, words out."""

import os

# OpenCV's own limit is 3 GB for a picture, which a file of some hundred bytes can claim. It is
# read when OpenCV is loaded, so it stands here: before any module of ours imports that.
os.environ.setdefault('OPENCV_LOG_LEVEL', 'FATAL')  # of a damaged picture we tell ourselves
os.environ.setdefault('OPENCV_IO_MAX_IMAGE_PIXELS', str(1 << 26))
