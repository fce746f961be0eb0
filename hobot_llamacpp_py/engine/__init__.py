"""The inference engine: pictures and questions in, pieces of text out. It knows nothing of ROS."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hobot_llamacpp_py.config import (
    ChatConfig,
    Constraint,
    DecoderConfig,
    EncoderConfig,
    SamplingConfig,
    VisionConfig,
)
from hobot_llamacpp_py.engine.cancel import CancelToken
from hobot_llamacpp_py.engine.chat import Chat
from hobot_llamacpp_py.engine.constraints import grammar, json_schema
from hobot_llamacpp_py.engine.request import Answer, Inquiry, Request, Stats, Turn, Verdict
from hobot_llamacpp_py.engine.vlm import Vlm
from hobot_llamacpp_py.errors import (
    CancelledError,
    ConstraintError,
    ImageError,
    InferenceError,
    ModelFileError,
    PromptError,
    VlmError,
)
from hobot_llamacpp_py.families import FAMILIES, INTERNVL, SMOLVLM2, ModelFamily
from hobot_llamacpp_py.vision.picture import Picture

if TYPE_CHECKING:
    from hobot_llamacpp_py.engine.engine import Engine

__all__ = [
    'FAMILIES',
    'INTERNVL',
    'SMOLVLM2',
    'Answer',
    'CancelToken',
    'CancelledError',
    'Chat',
    'ChatConfig',
    'Constraint',
    'ConstraintError',
    'DecoderConfig',
    'EncoderConfig',
    'Engine',
    'ImageError',
    'InferenceError',
    'Inquiry',
    'ModelFamily',
    'ModelFileError',
    'Picture',
    'PromptError',
    'Request',
    'SamplingConfig',
    'Stats',
    'Turn',
    'Verdict',
    'VisionConfig',
    'Vlm',
    'VlmError',
    'grammar',
    'json_schema',
]


def __getattr__(name: str) -> Any:
    if name == 'Engine':  # with it llama.cpp, which a node whose model is a server does without
        from hobot_llamacpp_py.engine.engine import Engine

        return Engine
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
