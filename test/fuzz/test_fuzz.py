"""What fuzzing has found stays mended; and each target is fed with something new for a moment."""

from __future__ import annotations

import os

import pytest
from fuzz.run import TARGETS, run_in_process
from fuzz.target import CORPUS, corpus_of
from togetheros import use_messages

NEEDED = {
    **dict.fromkeys(('image', 'compressed_image', 'params'), 'rclpy'),
    'shared_memory_image': 'hbm_img_msgs',
    'http': 'mcp',
    **dict.fromkeys(('json_schema', 'grammar'), 'llguidance'),
}
SECONDS = float(os.environ.get('FUZZ_SECONDS', '0.3'))
"""For new inputs of each target; `make fuzz` takes longer."""


@pytest.mark.slow
@pytest.mark.parametrize('name', TARGETS)
def test_target(name: str) -> None:
    """All inputs of the corpus hold, and so do some new ones."""
    if name in NEEDED:
        use_messages()
        pytest.importorskip(NEEDED[name])
    result = run_in_process(name, SECONDS, seed=0)
    assert result.status == 0, result.output
    assert f'{name}: {len(corpus_of(name))} of the corpus' in result.output


def test_every_target_has_a_corpus() -> None:
    """Each target has inputs that are kept, and there are no others."""
    assert {path.name for path in CORPUS.iterdir()} == set(TARGETS)
    assert all(corpus_of(name) for name in TARGETS)
