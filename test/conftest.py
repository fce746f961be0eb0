"""Fixtures for all tests."""

from __future__ import annotations

import pytest
from nano import MODELS


@pytest.fixture(scope='session', params=sorted(MODELS))
def family(request: pytest.FixtureRequest) -> str:
    """Both built-in models, one after the other."""
    return str(request.param)
