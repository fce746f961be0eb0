"""The values of all parameters, checked, and what they mean for the engine."""

from __future__ import annotations

import dataclasses
from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hobot_llamacpp_py import catalogue
from hobot_llamacpp_py.board import this_board
from hobot_llamacpp_py.catalogue import Edition
from hobot_llamacpp_py.config import (
    ChatConfig,
    Constraint,
    DecoderConfig,
    EncoderConfig,
    RemoteConfig,
    SamplingConfig,
    VisionConfig,
)
from hobot_llamacpp_py.errors import ModelFileError, VlmError, one_line
from hobot_llamacpp_py.families import FAMILIES, ModelFamily
from hobot_llamacpp_py.files import find_file, missing_files
from hobot_llamacpp_py.health.packages import missing
from hobot_llamacpp_py.ros.model_parameters import (
    AnswerParameters,
    DecoderParameters,
    EncoderParameters,
    SamplingParameters,
)
from hobot_llamacpp_py.ros.node_parameters import (
    CppParameters,
    OverlayParameters,
    PictureParameters,
    PromptParameters,
    RemoteParameters,
    ServerParameters,
    WatchParameters,
)
from hobot_llamacpp_py.ros.parameter_spec import ParameterSpec, Scalar, specs_of

__all__ = ['OF_THE_MODEL', 'Parameters', 'coerce', 'explained', 'specs']

OF_THE_MODEL = ('model_type', 'model_file_name')
"""What a name of the catalogue as decoder sets as well."""


@dataclass(frozen=True)
class Parameters(
    # The fields of the last one come first.
    ServerParameters,
    RemoteParameters,
    OverlayParameters,
    WatchParameters,
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

    def with_catalogue(self, given: Container[str]) -> tuple[Parameters, Edition | None]:
        """Let a model of the catalogue as decoder set its type and encoder, unless given.

        Returns:
            The parameters, and the model's files; None where a file is named.

        Raises:
            ModelFileError: the model is not published for this board.
        """
        if not catalogue.is_name(self.llm_model_name):
            return self, None
        model = catalogue.find(self.llm_model_name)
        edition = model.ready() or model.edition(this_board())
        known = dict(zip(OF_THE_MODEL, (model.model_type, edition.encoder), strict=True))
        return self.replaced({n: v for n, v in known.items() if n not in given}), edition

    def find_models(
        self, edition: Edition | None, given: Container[str]
    ) -> tuple[dict[str, Path], ModelFileError | None]:
        """Look for the models' files; return them by parameter, and the error about the others.

        Args:
            edition: as `with_catalogue` returns it.
        """
        if self.is_remote:
            return {}, None
        wanted = {'llm_model_name': edition.decoder if edition else self.llm_model_name}
        if self.feed_type != 2:
            wanted['model_file_name'] = self.model_file_name
        files, missing = {}, {}
        for name, value in wanted.items():
            try:
                files[name] = find_file(name, value)
            except ModelFileError:
                missing[name] = value
        if missing and edition and 'model_file_name' not in given:
            fact = f'llm_model_name: {edition.model} is not on this machine, or not all of it'
            return files, ModelFileError(fact, mend=edition.command)
        return files, missing_files(missing) if missing else None

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
    line = missing(error) or one_line(error)
    if not isinstance(error, VlmError) or not error.setting:
        return line
    if error.setting == 'image_size':
        return f'{line}: set image_width and image_height'
    if error.setting == 'image_format':
        return f'{line}: then it needs image_type:=1'
    if error.setting == 'http_token':
        return f'{line} (http_token_file)'
    if error.setting == 'family':
        numbers = {family.name: family.number for family in FAMILIES.values()}
        number = numbers.get(str(error.value))
        return f'{line} (model_type)' if number is None else f'{line}: set model_type:={number}.'
    name = next((spec.name for spec in specs().values() if spec.sets == error.setting), '')
    return f'{line} ({name})' if name else line


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
