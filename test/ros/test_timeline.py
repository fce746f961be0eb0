"""The steps of an answer never overlap and leave nothing out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip('rclpy', reason='needs ROS 2')

import numpy as np

from hobot_llamacpp_py.engine import Stats
from hobot_llamacpp_py.ros.sight import Sight, steps
from hobot_llamacpp_py.ros.timeline import Interval
from hobot_llamacpp_py.vision.picture import Picture

PICTURE = Picture.of(np.zeros((2, 2, 3), np.uint8))
SECOND = 10**9
seconds = st.floats(0, 100)


def read() -> np.ndarray:
    """Nobody wants to see it."""
    raise AssertionError


@given(encode=seconds, first_token=seconds, whole=seconds)
def test_steps_follow_each_other(encode: float, first_token: float, whole: float) -> None:
    """Whatever was measured, three steps make up the time of an answer without gap or overlap."""
    answering = Interval(1000 * SECOND, int(whole * SECOND))
    sight = Sight(PICTURE, None, read, preprocess=Interval(999 * SECOND, SECOND))
    found = list(
        steps(sight, answering, Stats(encode_s=encode, first_token_s=first_token)).values()
    )
    assert found[1].start == answering.start
    assert [step.end for step in found[1:-1]] == [step.start for step in found[2:]]
    assert found[-1].end == answering.end
    assert min(step.duration for step in found) >= 0


def test_prepared_picture() -> None:
    """Of a prepared picture the encoder's time is that of the preparation."""
    prepared = Interval(5 * SECOND, 2 * SECOND)
    sight = Sight(PICTURE, None, read, Interval(4 * SECOND, SECOND), prepared)
    nothing_to_encode = Stats(encode_s=1e-5, first_token_s=0.1)
    found = steps(sight, Interval(20 * SECOND, SECOND), nothing_to_encode)
    assert found['predict_infer'] == prepared
    assert found['postprocess'] == Interval(20 * SECOND + SECOND // 10, SECOND * 9 // 10)


def test_text_chat() -> None:
    """Without a picture there are no steps of one."""
    assert list(steps(None, Interval(0, SECOND), Stats())) == ['predict_parse', 'postprocess']
