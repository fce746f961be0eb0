"""The inference engine: pictures and questions in, pieces of text out. It knows nothing of ROS."""

from hobot_llamacpp_py.config import ChatConfig, DecoderConfig, EncoderConfig, SamplingConfig
from hobot_llamacpp_py.engine.chat import Chat
from hobot_llamacpp_py.engine.decoder import CancelToken
from hobot_llamacpp_py.engine.engine import Answer, Engine, Request, Stats
from hobot_llamacpp_py.engine.grammar import schema_to_grammar
from hobot_llamacpp_py.engine.prompt_format import Turn

__all__ = [
    'Answer',
    'CancelToken',
    'Chat',
    'ChatConfig',
    'DecoderConfig',
    'EncoderConfig',
    'SamplingConfig',
    'Engine',
    'Request',
    'Stats',
    'Turn',
    'schema_to_grammar',
]
