"""Plain settings of the engine, each with its one default: no ROS in here.

The decoder's and the sampler's fields have llama.cpp's meaning.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

__all__ = [
    'ChatConfig',
    'Constraint',
    'DecoderConfig',
    'EncoderConfig',
    'KvCacheType',
    'RemoteConfig',
    'ResizeMode',
    'SamplingConfig',
    'Switch',
    'VisionConfig',
]

Switch = Literal['auto', 'on', 'off']
KvCacheType = Literal['f32', 'f16', 'q8_0', 'q4_0']
ResizeMode = Literal['letterbox', 'stretch']


@dataclass(frozen=True)
class DecoderConfig:
    """How the text decoder's context is built."""

    n_ctx: int = 4096
    n_ubatch: int = 512
    n_threads: int = 0
    """0: as many as others leave free, at most 8; else this number, whatever happens."""
    flash_attn: Switch = 'auto'
    kv_cache_type: KvCacheType = 'f16'


@dataclass(frozen=True)
class EncoderConfig:
    """How the vision encoder is run."""

    backend: str = 'auto'
    """One of `vision.backends.BACKENDS`; auto goes by the file's suffix."""
    n_threads: int = 0
    """Where it computes on the CPU; 0: as many as the decoder, or one where there is none."""
    bpu_core: int = 0
    """0: any; 1: the first core, and so on."""
    bpu_priority: int = 0
    """0 to 255, the most urgent."""
    timeout: float = 30.0
    """Seconds after which an encoder counts as hung; it is stopped, or its process ended."""


@dataclass(frozen=True)
class RemoteConfig:
    """How a server is asked that stands in for the models."""

    model: str = ''
    """The model's name there; empty: the first that the server lists."""
    timeout: float = 30.0
    """Seconds without a word of the server after which a request counts as failed."""


@dataclass(frozen=True)
class VisionConfig:
    """How pictures are brought to the encoder, and how long their embeddings are kept."""

    resize_mode: ResizeMode = 'letterbox'
    """letterbox: keep the aspect, shrink if larger, top-left, zero padding; or stretch."""
    embedding_cache_size: int = 4
    """Pictures whose embeddings are kept."""
    frame_reuse_threshold: float = 0.0
    """Mean absolute difference (0 to 255) of pixels below which a picture counts as the one before
    it; 0: only if they are identical."""


@dataclass(frozen=True)
class Constraint:
    """What an answer has to follow; `engine.json_schema` and `engine.grammar` make it."""

    kind: Literal['json_schema', 'grammar']
    text: str
    """The schema as JSON, or the grammar in Lark's notation."""
    given: str = field(default='', compare=False)
    """The schema as it was given, for those who do not go by llguidance."""


@dataclass(frozen=True)
class SamplingConfig:
    """How the next token is picked; temperature 0 is greedy, seed -1 is random."""

    temperature: float = 0.5
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    repeat_penalty: float = 1.0
    repeat_last_n: int = 64
    seed: int = -1
    constraint: Constraint | None = None
    """What the answer has to follow, if anything."""


@dataclass(frozen=True)
class ChatConfig:
    """How a conversation is kept and how it is answered."""

    system_prompt: str = 'You are a helpful assistant.'
    history_turns: int = -1
    """Turns that are remembered; -1: all that fit the context."""
    max_tokens: int = 256
    sampling: SamplingConfig = SamplingConfig()
    speculative: bool = True
    """Draft tokens from memory; the answer is the same, only sooner there."""
    thinking: Switch = 'auto'
    """Whether a model that can think before it answers does so; auto: as it likes."""
