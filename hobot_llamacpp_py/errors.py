"""Every exception that the package raises on purpose: each becomes one line for the user.

VlmError
    ModelFileError      a model file, or what it is to be used with
    ImageError          a picture
    DrawingError        writing on a picture
    PromptError         a prompt
    ConstraintError     a JSON Schema or a grammar
    RuleError           a file of standing questions
    ParameterError      a ROS parameter; never raised by the core
    InferenceError      encoder or decoder, while they run
      LogitsError       what the decoder gave is no numbers
    ServerError         the HTTP server, or what it needs
    RemoteError         a server that stands in for the models
    NodeError           a running node that a tool talks to; never raised by the core
    CancelledError      not an error of anybody's
"""

from __future__ import annotations

import logging

__all__ = [
    'VlmError',
    'ModelFileError',
    'ImageError',
    'DrawingError',
    'PromptError',
    'ConstraintError',
    'RuleError',
    'ParameterError',
    'InferenceError',
    'LogitsError',
    'ServerError',
    'RemoteError',
    'NodeError',
    'CancelledError',
    'MEMORY_IS_SHORT',
    'one_line',
    'printable',
]

log = logging.getLogger(__name__)

MEMORY_IS_SHORT = 'memory is short: end other programs, or take a smaller n_ctx or model'
_LONGEST = 3000  # characters of a line
_SHORT_OF_IT = "can't start new thread", 'Insufficient memory'  # Python's words, and OpenCV's


class VlmError(Exception):
    """Base of all errors that a user can cause and mend; its text is one clear line.

    What is not printable in it, out of a file or a request, is escaped.

    Attributes:
        setting: the setting that it is about, such as 'EncoderConfig.timeout'; empty for none.
        value: what that has to be set to, where it is known.
    """

    def __init__(
        self, text: str = '', *, setting: str = '', value: int | str | None = None
    ) -> None:
        super().__init__(printable(text))
        self.setting, self.value = setting, value


class ModelFileError(VlmError):
    """A model file is missing, unreadable, or does not fit the other model.

    Attributes:
        fact: the text without `mend`.
        mend: what gets the right file, empty where that is not known; the text ends with it.
    """

    def __init__(
        self, fact: str = '', *, mend: str = '', setting: str = '', value: int | str | None = None
    ) -> None:
        text = f'{fact}; get it with: {mend}' if mend else fact
        super().__init__(text, setting=setting, value=value)
        self.fact, self.mend = printable(fact), mend


class ImageError(VlmError):
    """A picture is missing, damaged, or of a format that is not supported."""


class DrawingError(VlmError):
    """What writing on pictures needs is not installed."""


class PromptError(VlmError):
    """A prompt cannot be answered as it stands, for example because it is too long."""


class ConstraintError(VlmError):
    """A JSON Schema or a grammar cannot be used."""


class RuleError(VlmError):
    """A rule of a file of standing questions cannot work; says which file, which rule, why."""


class ParameterError(VlmError):
    """A ROS parameter has a value outside its type, range or choices."""


class InferenceError(VlmError):
    """The encoder or the decoder failed while it ran."""


class LogitsError(InferenceError):
    """The decoder gave logits that are no numbers, and its memory may hold such."""

    def __init__(self) -> None:
        super().__init__('the decoder gave logits that are no numbers')


class ServerError(VlmError):
    """The HTTP server cannot be started as it was asked for."""


class RemoteError(VlmError):
    """A server that stands in for the models cannot be asked, or failed.

    Attributes:
        status: of its HTTP answer, 0 where there was none.
        retry_after: seconds for which it wants to be left alone.
    """

    def __init__(
        self, text: str = '', *, setting: str = '', status: int = 0, retry_after: float = 0.0
    ) -> None:
        super().__init__(text, setting=setting)
        self.status, self.retry_after = status, retry_after


class NodeError(VlmError):
    """A running node is not there, or does not do what it was asked."""


class CancelledError(VlmError):
    """The running request was cancelled."""


def printable(text: str) -> str:
    """Return a text as one line that no terminal and no message stumbles over."""
    if len(text) > _LONGEST:  # something in it is out of a message or a file
        text = f'{text[: _LONGEST // 2]} ... {text[-_LONGEST // 2 :]}'
    return ''.join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def one_line(error: Exception) -> str:
    """Return the line for the user; an error that nobody foresaw is logged with its traceback."""
    if isinstance(error, VlmError):
        return str(error)
    if isinstance(error, MemoryError) or any(words in str(error) for words in _SHORT_OF_IT):
        return MEMORY_IS_SHORT
    log.error('unexpected error, please report it', exc_info=error)
    return printable(f'internal error: {type(error).__name__}: {" ".join(str(error).split())}')
