"""The one table of the node's parameters: type, default, range and a sentence for each.

ROS hands over what YAML made of a value, so `pre_infer:=true`, `temperature:=0` and
`user_prompt:=42` arrive as other types than declared: `coerce` brings them back, then checks.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hobot_llamacpp_py.config import ChatConfig, DecoderConfig, EncoderConfig, SamplingConfig
from hobot_llamacpp_py.errors import ParameterError
from hobot_llamacpp_py.vision.encoder import BACKENDS
from hobot_llamacpp_py.vision.preprocess import RESIZE_MODES

__all__ = ['ParameterSpec', 'Parameters', 'coerce', 'specs']

Scalar = bool | int | float | str


def _param(
    default: Scalar,
    sentence: str,
    *,
    at_least: float = -math.inf,
    at_most: float = math.inf,
    choices: tuple[Scalar, ...] = (),
    runtime: bool = False,
) -> Any:
    metadata = dict(
        sentence=sentence, at_least=at_least, at_most=at_most, choices=choices, runtime=runtime
    )
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Parameters:
    """All parameters of the node, coerced and checked; the order is that of the documentation."""

    # The C++ node's.
    feed_type: int = _param(
        0,
        '0: answer about a local image; 1: about a subscribed image topic; 2: text chat',
        choices=(0, 1, 2),
    )
    model_type: int = _param(
        0,
        '0: InternVL 2.5 and 3; 1: SmolVLM2; chooses prompt format and preprocessing',
        choices=(0, 1),
    )
    image: str = _param('config/image2.jpg', 'the local image of feed_type 0')
    image_type: int = _param(
        0,
        'the local image is 0: an encoded file (jpg, png, bmp, webp ...);'
        ' 1: raw NV12, which needs image_width and image_height',
        choices=(0, 1),
    )
    user_prompt: str = _param(
        '', 'the first prompt, asked at start; set at run time it is asked then', runtime=True
    )
    system_prompt: str = _param(
        'You are a helpful assistant.',
        'the system prompt, or the path of a .txt file that holds it',
        runtime=True,
    )
    model_file_name: str = _param(
        'vit_model_int16_v2.bin', 'the vision encoder; its suffix chooses the backend'
    )
    llm_model_name: str = _param('Qwen2.5-0.5B-Instruct-Q4_0.gguf', 'the GGUF text decoder')
    llm_threads: int = _param(
        8, 'threads of llama.cpp; clamped, with a warning, to what the machine has', at_least=1
    )
    is_shared_mem_sub: int = _param(
        0, '1: take images from /hbmem_img (hbm_img_msgs/HbmMsg1080P, NV12)', choices=(0, 1)
    )
    pre_infer: int = _param(0, "1: do the image's work before the prompt comes", choices=(0, 1))
    cute_words: str = _param(
        '好的，让我看看先哈',
        'filler phrases separated by ";": one is spoken as soon as a prompt is taken; empty: none',
        runtime=True,
    )
    ai_msg_pub_topic_name: str = _param(
        '/llama_cpp_node', 'final result, ai_msgs/PerceptionTargets'
    )
    text_msg_pub_topic_name: str = _param(
        '/tts_text', 'streamed text in speakable pieces, std_msgs/String'
    )
    ros_img_sub_topic_name: str = _param('/image', 'the image topic of feed_type 1')
    ros_string_sub_topic_name: str = _param('/prompt_text', 'the prompt topic, std_msgs/String')

    # Ours: the decoder.
    n_ctx: int = _param(4096, 'positions in the KV cache', at_least=64, at_most=1 << 20)
    n_ubatch: int = _param(512, 'most positions computed at once', at_least=1, at_most=1 << 16)
    max_tokens: int = _param(256, 'most tokens of an answer', at_least=1, runtime=True)
    flash_attn: str = _param('auto', 'flash attention', choices=('auto', 'on', 'off'))
    kv_cache_type: str = _param(
        'f16', 'number type of the KV cache', choices=('f32', 'f16', 'q8_0', 'q4_0')
    )
    # Ours: sampling.
    temperature: float = _param(
        0.5, 'sampling temperature; 0: greedy', at_least=0, at_most=100, runtime=True
    )
    top_k: int = _param(
        40,
        'sample from this many most likely tokens; 0: from all',
        at_least=0,
        at_most=0x7FFFFFFF,
        runtime=True,
    )
    top_p: float = _param(
        0.95,
        'sample from the most likely tokens of this total probability; 1: from all',
        at_least=0,
        at_most=1,
        runtime=True,
    )
    min_p: float = _param(
        0.05,
        'drop tokens less likely than this share of the most likely one; 0: none',
        at_least=0,
        at_most=1,
        runtime=True,
    )
    repeat_penalty: float = _param(
        1.0,
        'divide the logits of recent tokens by this; 1: off',
        at_least=0.01,
        at_most=10,
        runtime=True,
    )
    repeat_last_n: int = _param(
        64,
        'tokens that the repeat penalty looks back on; -1: the whole context',
        at_least=-1,
        runtime=True,
    )
    seed: int = _param(
        -1,
        'seed of the random numbers; -1: another one each time',
        at_least=-1,
        at_most=0xFFFFFFFF,
        runtime=True,
    )
    # Ours: the conversation.
    history_turns: int = _param(
        -1,
        'turns kept in the conversation; -1: 0 for images on a topic, else all that fit n_ctx;'
        ' 0: each prompt stands alone',
        at_least=-1,
        runtime=True,
    )
    # Ours: images.
    image_transport: str = _param(
        'auto',
        'type of the image topic; auto: as its publisher has it, else <topic>/compressed',
        choices=('auto', 'raw', 'compressed'),
    )
    image_width: int = _param(0, 'width of a raw NV12 file', at_least=0, at_most=1 << 15)
    image_height: int = _param(0, 'height of a raw NV12 file', at_least=0, at_most=1 << 15)
    image_timeout: float = _param(
        5.0,
        'seconds to wait for a first or fresh frame after a prompt, then the answer is an error',
        at_least=0,
        at_most=86400,
        runtime=True,
    )
    max_image_age: float = _param(
        0.0,
        'a frame received longer ago than this many seconds is not used; 0: any age',
        at_least=0,
        at_most=86400,
        runtime=True,
    )
    resize_mode: str = _param(
        'letterbox',
        'letterbox: keep the aspect, shrink if larger, top-left, zero padding; stretch',
        choices=RESIZE_MODES,
    )
    frame_reuse_threshold: float = _param(
        0.0,
        'mean absolute difference (0 to 255) below which a new frame counts as the cached one;'
        ' 0: only an identical frame',
        at_least=0,
        at_most=255,
    )
    embedding_cache_size: int = _param(
        4, 'pictures whose embeddings are kept', at_least=1, at_most=1024
    )
    # Ours: prompts.
    prompt_queue_size: int = _param(
        8, 'prompts waiting; when full the newest is refused', at_least=1, at_most=10000
    )
    once: bool = _param(
        False,
        'answer user_prompt once, on standard output as well, and exit with status 0, or 1 on'
        ' error',
    )
    continuous: bool = _param(
        False, 'feed_type 1: answer user_prompt again on the newest frame whenever idle'
    )
    wake_words: str = _param(
        '你好',
        'separated by ";": with pre_infer 1 such a prompt starts preparing and is not answered;'
        ' empty: prepare while idle',
    )
    pre_infer_period: float = _param(
        1.0,
        'least seconds between two preparations while idle; with continuous: a frame that was'
        ' encoded ahead is replaced by a newer one after so long',
        at_least=0,
        at_most=86400,
    )
    # Ours: the answer.
    speculative: bool = _param(
        True,
        'speculative decoding: draft tokens from earlier answers and the prompt; the answer stays'
        ' the same',
        runtime=True,
    )
    thinking: str = _param(
        'auto',
        'whether a model that can think before it answers does so; auto: as it likes;'
        ' thoughts are on ~/thinking only',
        choices=('auto', 'on', 'off'),
        runtime=True,
    )
    json_schema: str = _param(
        '', 'JSON Schema that the answer follows, inline or a file; empty: none', runtime=True
    )
    grammar: str = _param(
        '', 'GBNF grammar that the answer follows, inline or a file; empty: none', runtime=True
    )
    # Ours: the encoder.
    encoder_backend: str = _param(
        'auto', 'backend of the vision encoder; auto: by the suffix', choices=BACKENDS
    )
    bpu_core: int = _param(
        0, 'BPU core of the encoder; 0: any; 1: the first, and so on', at_least=0, at_most=7
    )
    bpu_priority: int = _param(
        0, 'BPU priority of the encoder; 255: the most urgent', at_least=0, at_most=255
    )
    encoder_timeout: float = _param(
        30.0,
        'seconds after which a running BPU or mmproj encoder counts as hung and is started again',
        at_least=0.1,
        at_most=86400,
    )

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> Parameters:
        """Coerce and check values by name; those left out take their default.

        Raises:
            ParameterError: the first value that does not fit, by name and with its choices.
        """
        return cls(**{name: coerce(name, value) for name, value in values.items()})

    def replaced(self, values: Mapping[str, Any]) -> Parameters:
        """Return a copy with some values changed, coerced and checked like the others."""
        return dataclasses.replace(
            self, **{name: coerce(name, value) for name, value in values.items()}
        )

    def decoder_config(self) -> DecoderConfig:
        """Return what concerns the decoder's context."""
        return DecoderConfig(
            n_ctx=self.n_ctx,
            n_ubatch=self.n_ubatch,
            n_threads=self.llm_threads,
            flash_attn=self.flash_attn,  # type: ignore[arg-type]  # one of its choices
            kv_cache_type=self.kv_cache_type,
        )

    def encoder_config(self) -> EncoderConfig:
        """Return what concerns the vision encoder."""
        return EncoderConfig(
            backend=self.encoder_backend,
            bpu_core=self.bpu_core,
            bpu_priority=self.bpu_priority,
            timeout=self.encoder_timeout,
        )

    def chat_config(self, system_prompt: str, grammar: str = '') -> ChatConfig:
        """Return what concerns the conversation; both arguments are texts, not files."""
        automatic = 0 if self.feed_type == 1 else -1
        return ChatConfig(
            system_prompt=system_prompt,
            history_turns=automatic if self.history_turns < 0 else self.history_turns,
            max_tokens=self.max_tokens,
            speculative=self.speculative,
            thinking=self.thinking,  # type: ignore[arg-type]  # one of its choices
            sampling=SamplingConfig(
                **{
                    field.name: getattr(self, field.name)
                    for field in dataclasses.fields(SamplingConfig)
                    if field.name != 'grammar'
                },
                grammar=grammar,
            ),
        )


@dataclass(frozen=True)
class ParameterSpec:
    """One row of the table."""

    name: str
    type: type
    default: Scalar
    sentence: str
    at_least: float
    at_most: float
    choices: tuple[Scalar, ...]
    runtime: bool
    """Can be set while the node runs."""

    @property
    def range_text(self) -> str:
        """The allowed values in words, empty if there is no limit."""
        if self.choices:
            return ', '.join(str(choice) for choice in self.choices)
        low, high = math.isfinite(self.at_least), math.isfinite(self.at_most)
        if low and high:
            return f'{_shown(self.at_least)} to {_shown(self.at_most)}'
        return f'at least {_shown(self.at_least)}' if low else ''


def _shown(limit: float) -> str:
    return str(int(limit)) if float(limit).is_integer() else str(limit)


def specs() -> dict[str, ParameterSpec]:
    """Return the table's rows by name."""
    return _SPECS


_SPECS = {
    field.name: ParameterSpec(
        name=field.name, type=type(field.default), default=field.default, **field.metadata
    )
    for field in dataclasses.fields(Parameters)
}
_TYPE_WORDS = {bool: 'true or false', int: 'a whole number', float: 'a number', str: 'a text'}


def coerce(name: str, value: object) -> Scalar:
    """Bring a value to its parameter's type, as YAML may have read it, and check its range.

    Raises:
        ParameterError: with the parameter's name, the value and what it may be.
    """
    spec = _SPECS[name]
    if isinstance(value, bool) and 'on' in spec.choices:
        value = 'on' if value else 'off'  # YAML reads these two words as booleans
    converted = _convert(value, spec.type)
    if converted is None:
        raise ParameterError(f'{name}: {value!r} is not {_TYPE_WORDS[spec.type]}')
    if spec.choices and converted not in spec.choices:
        raise ParameterError(f'{name}: {converted!r} is not one of {spec.range_text}')
    if not isinstance(converted, str) and not spec.at_least <= converted <= spec.at_most:
        raise ParameterError(f'{name}: {converted!r} is out of range ({spec.range_text})')
    return converted


def _convert(value: object, to: type) -> Scalar | None:
    if to is str:
        if isinstance(value, bool):
            return 'true' if value else 'false'
        return str(value) if isinstance(value, (int, float, str)) else None
    if isinstance(value, str):
        return None
    if to is bool:
        return bool(value) if value in (0, 1) else None
    if to is int:
        whole = isinstance(value, (bool, int)) or isinstance(value, float) and value.is_integer()
        return int(value) if whole else None  # type: ignore[call-overload]
    return float(value) if isinstance(value, (bool, int, float)) and value == value else None
