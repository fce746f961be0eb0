"""Fixtures for all tests."""

from __future__ import annotations

import pytest
from nano import MODELS
from togetheros import use_messages

use_messages()


@pytest.fixture(scope='session', params=sorted(MODELS))
def family(request: pytest.FixtureRequest) -> str:
    """Both built-in models, one after the other."""
    return str(request.param)
