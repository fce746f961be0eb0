"""Every exception that the package raises on purpose: each becomes one line for the user."""

__all__ = [
    'VlmError',
    'ModelFileError',
    'ImageError',
    'PromptError',
    'ParameterError',
    'InferenceError',
    'CancelledError',
]


class VlmError(Exception):
    """Base of all errors that a user can cause and mend; its text is one clear line."""


class ModelFileError(VlmError):
    """A model file is missing, unreadable, or does not fit the other model."""


class ImageError(VlmError):
    """A picture is missing, damaged, or of a format that is not supported."""


class PromptError(VlmError):
    """A prompt cannot be answered as it stands, for example because it is too long."""


class ParameterError(VlmError):
    """A parameter has a value outside its type, range or choices."""


class InferenceError(VlmError):
    """The encoder or the decoder failed while it ran."""


class CancelledError(VlmError):
    """The running request was cancelled."""
