"""Fixtures for all tests."""

from __future__ import annotations

import os

import hypothesis
import pytest
from nano import MODELS
from togetheros import use_messages

use_messages()
os.environ.pop('PYTHONDONTWRITEBYTECODE', None)  # hundreds of nodes are started
# Always the same examples, so that the same code is judged alike; time is no matter of tests.
hypothesis.settings.register_profile('same', derandomize=True, deadline=None)
hypothesis.settings.load_profile('same')


@pytest.fixture(scope='session', params=sorted(MODELS))
def family(request: pytest.FixtureRequest) -> str:
    """Both built-in models, one after the other."""
    return str(request.param)
