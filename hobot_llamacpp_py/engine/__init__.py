"""The inference engine: pictures and questions in, pieces of text out. It knows nothing of ROS."""

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
from hobot_llamacpp_py.engine.engine import Engine
from hobot_llamacpp_py.engine.request import Answer, Request, Stats, Turn
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
    'ModelFamily',
    'ModelFileError',
    'Picture',
    'PromptError',
    'Request',
    'SamplingConfig',
    'Stats',
    'Turn',
    'VisionConfig',
    'VlmError',
    'grammar',
    'json_schema',
]
