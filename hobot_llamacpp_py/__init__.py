"""Vision-language node for RDK boards and any PC: a camera and a question in, words out."""

import os

# Of a damaged picture we tell ourselves.
os.environ.setdefault('OPENCV_LOG_LEVEL', 'FATAL')
# Most pixels of a picture. OpenCV's own limit, which it reads when it is imported, is a gigapixel:
# a message of 100 kB could take 6 GB.
os.environ.setdefault('OPENCV_IO_MAX_IMAGE_PIXELS', str(100 * 10**6))
