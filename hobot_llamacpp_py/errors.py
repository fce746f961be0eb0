"""Every exception that the package raises on purpose: each becomes one line for the user."""

import logging

__all__ = [
    'VlmError',
    'ModelFileError',
    'ImageError',
    'PromptError',
    'ParameterError',
    'InferenceError',
    'CancelledError',
    'one_line',
]

log = logging.getLogger(__name__)


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


def one_line(error: Exception) -> str:
    """Return the line for the user; an error that nobody foresaw is logged with its traceback."""
    if isinstance(error, VlmError):
        return str(error)
    log.error('unexpected error, please report it', exc_info=error)
    return f'internal error: {type(error).__name__}: {error}'
