"""The values of all parameters, checked, and what they mean for the engine."""

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
    RemoteConfig,
    SamplingConfig,
    VisionConfig,
)
from hobot_llamacpp_py.errors import VlmError, one_line
from hobot_llamacpp_py.families import FAMILIES, ModelFamily
from hobot_llamacpp_py.ros.model_parameters import (
    AnswerParameters,
    DecoderParameters,
    EncoderParameters,
    SamplingParameters,
)
from hobot_llamacpp_py.ros.node_parameters import (
    CppParameters,
    PictureParameters,
    PromptParameters,
    RemoteParameters,
    ServerParameters,
)
from hobot_llamacpp_py.ros.parameter_spec import ParameterSpec, Scalar, specs_of

__all__ = ['Parameters', 'coerce', 'explained', 'specs']


@dataclass(frozen=True)
class Parameters(
    # The fields of the last one come first.
    ServerParameters,
    RemoteParameters,
    EncoderParameters,
    DecoderParameters,
    SamplingParameters,
    AnswerParameters,
    PictureParameters,
    PromptParameters,
    CppParameters,
):
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
    def is_remote(self) -> bool:
        """Whether a server stands in for the models."""
        return self.llm_model_name.lower().startswith(('http://', 'https://'))

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

    def remote_config(self) -> RemoteConfig:
        """Return what concerns a server that stands in for the models."""
        return RemoteConfig(**self._fields(RemoteConfig))

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
    """Return what is known of each parameter, by name."""
    return _SPECS


_SPECS = specs_of(Parameters)
