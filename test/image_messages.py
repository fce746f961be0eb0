"""Image messages of every encoding, made from a BGR picture."""

from __future__ import annotations

from typing import Any

import numpy as np
from raw_images import nv12, raw_image
from sensor_msgs.msg import Image


def image_message(bgr: np.ndarray, encoding: str, pad: int = 0, big_endian: bool = False) -> Image:
    """Write a picture in an encoding, each row padded with some bytes at its end."""
    raw = raw_image(bgr, encoding, pad, big_endian)
    return Image(
        width=raw.width,
        height=raw.height,
        encoding=encoding,
        step=raw.step,
        is_bigendian=big_endian,
        data=raw.data,
    )


def shared_memory_message(bgr: np.ndarray, pad: int = 0, encoding: bytes = b'nv12') -> Any:
    """Write a picture into a hbm_img_msgs/HbmMsg1080P; bytes that are not used are 99."""
    from hbm_img_msgs.msg import HbmMsg1080P

    rows = np.pad(nv12(bgr), ((0, 0), (0, pad)), constant_values=99)
    data = np.full(HbmMsg1080P.MAX_SIZE, 99, np.uint8)
    data[: rows.size] = rows.ravel()
    return HbmMsg1080P(
        height=bgr.shape[0],
        width=bgr.shape[1],
        step=rows.shape[1],
        data_size=rows.size,
        encoding=np.frombuffer(encoding.ljust(12, b'\0'), np.uint8),
        data=data,
    )
