"""The one table of the node's parameters: type, default, range and a sentence for each."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hobot_llamacpp_py.config import (
    ChatConfig,
    Constraint,
    DecoderConfig,
    EncoderConfig,
    SamplingConfig,
    VisionConfig,
)
from hobot_llamacpp_py.errors import VlmError, one_line
from hobot_llamacpp_py.families import FAMILIES, INTERNVL, ModelFamily
from hobot_llamacpp_py.ros.parameter_spec import (
    ParameterSpec,
    Scalar,
    param,
    setting,
    specs_of,
)
from hobot_llamacpp_py.vision.backends import BACKENDS

__all__ = ['Parameters', 'coerce', 'explained', 'specs']


@dataclass(frozen=True)
class Table:
    """All parameters of the node; the order is that of the documentation."""

    # The C++ node's.
    feed_type: int = param(
        0,
        '0: answer about a local image; 1: about a subscribed image topic; 2: text chat',
        choices=(0, 1, 2),
    )
    model_type: int = param(
        INTERNVL.number,
        '; '.join(f'{number}: {family.models}' for number, family in FAMILIES.items())
        + '; chooses prompt format and preprocessing',
        choices=tuple(FAMILIES),
    )
    image: str = param('config/image2.jpg', 'the local image of feed_type 0')
    image_type: int = param(
        0,
        'the local image is 0: an encoded file (jpg, png, bmp, webp ...);'
        ' 1: raw NV12, which needs image_width and image_height',
        choices=(0, 1),
    )
    user_prompt: str = param(
        '', 'the first prompt, asked at start; set at run time it is asked then', runtime=True
    )
    system_prompt: str = setting(
        ChatConfig,
        'system_prompt',
        'the system prompt, or the path of a .txt file that holds it',
        runtime=True,
    )
    model_file_name: str = param(
        'vit_model_int16_v2.bin', 'the vision encoder; its suffix chooses the backend'
    )
    llm_model_name: str = param('Qwen2.5-0.5B-Instruct-Q4_0.gguf', 'the GGUF text decoder')
    llm_threads: int = setting(
        DecoderConfig,
        'n_threads',
        'threads of llama.cpp; 0: as many as others leave free, at most 8',
        at_least=0,
    )
    is_shared_mem_sub: int = param(
        0, '1: take images from /hbmem_img (hbm_img_msgs/HbmMsg1080P, NV12)', choices=(0, 1)
    )
    pre_infer: int = param(0, "1: do the image's work before the prompt comes", choices=(0, 1))
    cute_words: str = param(
        '好的，让我看看先哈',
        'filler phrases separated by ";": one is spoken as soon as a prompt is taken; empty: none',
        runtime=True,
    )
    ai_msg_pub_topic_name: str = param(
        '/llama_cpp_node', 'final result, ai_msgs/PerceptionTargets'
    )
    text_msg_pub_topic_name: str = param(
        '/tts_text', 'streamed text in speakable pieces, std_msgs/String'
    )
    ros_img_sub_topic_name: str = param('/image', 'the image topic of feed_type 1')
    ros_string_sub_topic_name: str = param('/prompt_text', 'the prompt topic, std_msgs/String')

    # Ours: decoder.
    n_ctx: int = setting(
        DecoderConfig, 'n_ctx', 'positions in the KV cache', at_least=64, at_most=1 << 20
    )
    n_ubatch: int = setting(
        DecoderConfig, 'n_ubatch', 'most positions computed at once', at_least=1, at_most=1 << 16
    )
    max_tokens: int = setting(
        ChatConfig, 'max_tokens', 'most tokens of an answer', at_least=1, runtime=True
    )
    flash_attn: str = setting(DecoderConfig, 'flash_attn', 'flash attention')
    kv_cache_type: str = setting(DecoderConfig, 'kv_cache_type', 'number type of the KV cache')
    # Ours: sampling.
    temperature: float = setting(
        SamplingConfig,
        'temperature',
        'sampling temperature; 0: greedy',
        at_least=0,
        at_most=100,
        runtime=True,
    )
    top_k: int = setting(
        SamplingConfig,
        'top_k',
        'sample from this many most likely tokens; 0: from all',
        at_least=0,
        at_most=0x7FFFFFFF,
        runtime=True,
    )
    top_p: float = setting(
        SamplingConfig,
        'top_p',
        'sample from the most likely tokens of this total probability; 1: from all',
        at_least=0,
        at_most=1,
        runtime=True,
    )
    min_p: float = setting(
        SamplingConfig,
        'min_p',
        'drop tokens less likely than this share of the most likely one; 0: none',
        at_least=0,
        at_most=1,
        runtime=True,
    )
    repeat_penalty: float = setting(
        SamplingConfig,
        'repeat_penalty',
        'divide the logits of recent tokens by this; 1: off',
        at_least=0.01,
        at_most=10,
        runtime=True,
    )
    repeat_last_n: int = setting(
        SamplingConfig,
        'repeat_last_n',
        'tokens that the repeat penalty looks back on; -1: the whole context',
        at_least=-1,
        runtime=True,
    )
    seed: int = setting(
        SamplingConfig,
        'seed',
        'seed of the random numbers; -1: another one each time',
        at_least=-1,
        at_most=0xFFFFFFFF,
        runtime=True,
    )
    # Ours: the conversation.
    history_turns: int = setting(
        ChatConfig,
        'history_turns',
        'turns kept in the conversation; -1: 0 for images on a topic, else all that fit n_ctx;'
        ' 0: each prompt stands alone',
        at_least=-1,
        runtime=True,
    )
    # Ours: images.
    image_transport: str = param(
        'auto',
        'type of the image topic; auto: as its publisher has it, else <topic>/compressed',
        choices=('auto', 'raw', 'compressed'),
    )
    image_width: int = param(0, 'width of a raw NV12 file', at_least=0, at_most=1 << 15)
    image_height: int = param(0, 'height of a raw NV12 file', at_least=0, at_most=1 << 15)
    image_timeout: float = param(
        5.0,
        'seconds to wait for a first or fresh frame after a prompt, then the answer is an error',
        at_least=0,
        at_most=86400,
        runtime=True,
    )
    max_image_age: float = param(
        0.0,
        'a frame received longer ago than this many seconds is not used; 0: any age',
        at_least=0,
        at_most=86400,
        runtime=True,
    )
    resize_mode: str = setting(
        VisionConfig,
        'resize_mode',
        'letterbox: keep the aspect, shrink if larger, top-left, zero padding; stretch',
    )
    frame_reuse_threshold: float = setting(
        VisionConfig,
        'frame_reuse_threshold',
        'mean absolute difference (0 to 255) below which a new frame counts as the cached one;'
        ' 0: only an identical frame',
        at_least=0,
        at_most=255,
    )
    embedding_cache_size: int = setting(
        VisionConfig,
        'embedding_cache_size',
        'pictures whose embeddings are kept',
        at_least=1,
        at_most=1024,
    )
    prompt_queue_size: int = param(
        8, 'prompts waiting; when full the newest is refused', at_least=1, at_most=10000
    )
    once: bool = param(
        False,
        'answer user_prompt once, on standard output as well, and exit with status 0, or 1 on'
        ' error',
    )
    continuous: bool = param(
        False, 'feed_type 1: answer user_prompt again on the newest frame whenever idle'
    )
    wake_words: str = param(
        '你好',
        'separated by ";": with pre_infer 1 such a prompt starts preparing and is not answered;'
        ' empty: prepare while idle',
    )
    pre_infer_period: float = param(
        1.0,
        'least seconds between two preparations while idle; with continuous: a frame that was'
        ' encoded ahead is replaced by a newer one after so long',
        at_least=0,
        at_most=86400,
    )
    # Ours: the answer.
    speculative: bool = setting(
        ChatConfig,
        'speculative',
        'speculative decoding: draft tokens from earlier answers and the prompt; the answer stays'
        ' the same',
        runtime=True,
    )
    thinking: str = setting(
        ChatConfig,
        'thinking',
        'whether a model that can think before it answers does so; auto: as it likes;'
        ' thoughts are on ~/thinking only',
        runtime=True,
    )
    json_schema: str = param(
        '', 'JSON Schema that the answer follows, inline or a file; empty: none', runtime=True
    )
    grammar: str = param(
        '', 'its grammar instead (GBNF or Lark), inline or a file; empty: none', runtime=True
    )
    publish_overlay: bool = param(
        False,
        'publish the picture that was asked about on ~/overlay/compressed and ~/overlay, with'
        ' question and answer beneath it',
    )
    # Ours: the encoder.
    encoder_backend: str = setting(
        EncoderConfig,
        'backend',
        'backend of the vision encoder; auto: by the suffix',
        choices=('auto', *BACKENDS),
    )
    bpu_core: int = setting(
        EncoderConfig,
        'bpu_core',
        'BPU core of the encoder; 0: any; 1: the first, and so on',
        at_least=0,
        at_most=7,
    )
    bpu_priority: int = setting(
        EncoderConfig,
        'bpu_priority',
        'BPU priority of the encoder; 255: the most urgent',
        at_least=0,
        at_most=255,
    )
    encoder_timeout: float = setting(
        EncoderConfig,
        'timeout',
        'seconds after which a running BPU or mmproj encoder counts as hung and is started again',
        at_least=0.1,
        at_most=86400,
    )


@dataclass(frozen=True)
class Parameters(Table):
    """Values of all parameters, coerced and checked, and what they mean for the engine."""

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> Parameters:
        """Coerce and check values by name; those left out take their default.

        Raises:
            ParameterError: the first value that does not fit, by name and with its choices.
        """
        return cls().replaced(values)

    def replaced(self, values: Mapping[str, Any]) -> Parameters:
        """Return a copy with some values changed, coerced and checked like the others."""
        given: dict[str, Any] = {name: coerce(name, value) for name, value in values.items()}
        return dataclasses.replace(self, **given)

    @property
    def family(self) -> ModelFamily:
        """What the models were trained with."""
        return FAMILIES[self.model_type]

    @property
    def asks_again(self) -> bool:
        """Whether the same question is asked about frame after frame."""
        return self.continuous and bool(self.user_prompt.strip())

    @property
    def prepares_ahead(self) -> bool:
        """Whether frames are prepared as they come: with pre_infer and without a wake word."""
        return self.feed_type == 1 and bool(self.pre_infer) and not _words(self.wake_words)

    def is_wake_word(self, prompt: str) -> bool:
        """Tell whether a prompt is to be prepared for, and not to be answered."""
        if not self.pre_infer or self.feed_type == 2 or self.once:
            return False
        return prompt.strip(_PUNCTUATION) in _words(self.wake_words)

    def decoder_config(self) -> DecoderConfig:
        """Return what concerns the decoder's context."""
        return DecoderConfig(**self._fields(DecoderConfig))

    def encoder_config(self) -> EncoderConfig:
        """Return what concerns the vision encoder."""
        return EncoderConfig(**self._fields(EncoderConfig))

    def vision_config(self) -> VisionConfig:
        """Return what concerns pictures and their embeddings."""
        return VisionConfig(**self._fields(VisionConfig))

    def chat_config(self, system_prompt: str, constraint: Constraint | None = None) -> ChatConfig:
        """Return what concerns the conversation; the system prompt is a text, not a file."""
        fields = self._fields(ChatConfig)
        if self.history_turns < 0 and self.feed_type == 1:
            fields['history_turns'] = 0
        sampling = SamplingConfig(**self._fields(SamplingConfig), constraint=constraint)
        return ChatConfig(**{**fields, 'system_prompt': system_prompt}, sampling=sampling)

    def _fields(self, config: type) -> dict[str, Any]:
        """Return the values of the fields of a dataclass of settings that parameters set."""
        values = {}
        for spec in specs().values():
            owner, _, field = spec.sets.partition('.')
            if owner == config.__name__:
                values[field] = getattr(self, spec.name)
        return values


_PUNCTUATION = ' \t\n,.!?;:，。！？；：、…~～'


def _words(text: str) -> set[str]:
    """Split a `;`-separated list of words."""
    return {word.strip() for word in text.split(';')} - {''}


def explained(error: Exception) -> str:
    """Return an error's line for the user, with the parameter that it is about."""
    line = one_line(error)
    if not isinstance(error, VlmError) or not error.setting:
        return line
    if error.setting == 'image_size':
        return f'{line}: set image_width and image_height'
    if error.setting == 'image_format':
        return f'{line}: then it needs image_type:=1'
    if error.setting == 'family':
        numbers = {family.name: family.number for family in FAMILIES.values()}
        number = numbers.get(str(error.value))
        return f'{line} (model_type)' if number is None else f'{line}: set model_type:={number}.'
    name = next(spec.name for spec in specs().values() if spec.sets == error.setting)
    return f'{line} ({name})'


def coerce(name: str, value: object) -> Scalar:
    """Bring a value to the type of the parameter of that name, and check its range.

    Raises:
        ParameterError: with the parameter's name, the value and what it may be.
    """
    return _SPECS[name].coerce(value)


def specs() -> dict[str, ParameterSpec]:
    """Return the table's rows by name."""
    return _SPECS


_SPECS = specs_of(Parameters)
