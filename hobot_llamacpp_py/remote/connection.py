"""The HTTP side: one server, asked through OpenAI's client by one thread that can be cancelled."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import time
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from hobot_llamacpp_py.engine.cancel import CancelToken
from hobot_llamacpp_py.errors import CancelledError, RemoteError
from hobot_llamacpp_py.remote.backoff import POLL

__all__ = ['Connection', 'Delta', 'Usage']

INSTALL = 'pip3 install -r requirements/remote.txt'
TOKEN = 'OPENAI_API_KEY'
CONNECT_TIMEOUT = 5.0  # seconds
CLOSE_TIMEOUT = 0.2  # seconds
MOST_OF_A_MESSAGE = 200  # characters
T = TypeVar('T')


@dataclass(frozen=True)
class Usage:
    """What an answer cost, in tokens."""

    prompt: int
    cached: int
    completion: int
    reasoning: int


@dataclass(frozen=True)
class Delta:
    """A piece of an answer."""

    text: str = ''
    thought: str = ''
    finish: str = ''
    """Why the answer has ended; empty: it has not."""
    usage: Usage | None = None


class Connection:
    """A server that speaks OpenAI's protocol. All calls come from one thread.

    Args:
        url: what the endpoints' names are appended to.
        timeout: seconds without a word of it after which a call fails.

    Raises:
        RemoteError: OpenAI's client is not installed, or the token cannot be sent.
    """

    def __init__(self, url: str, timeout: float) -> None:
        self.url, self._timeout = url, timeout
        token = os.environ.get(TOKEN, '').strip()
        if not token.isascii() or not token.isprintable():
            raise RemoteError(f'the token in ${TOKEN} has characters that HTTP cannot send')
        try:
            import openai
        except ImportError as error:
            raise RemoteError(
                f"a server as llm_model_name needs OpenAI's client ({error}): {INSTALL}"
            ) from None
        self._has_token = bool(token)
        self._client = openai.AsyncOpenAI(
            base_url=url,
            api_key=token or 'none',
            max_retries=0,
            # One that was kept may have died since, by a radio or a server that went; a question
            # would be lost on it, which costs more than a new one.
            default_headers={'Connection': 'close'},
            timeout=openai.Timeout(None, connect=CONNECT_TIMEOUT),
        )
        # It runs only while a call waits: nothing goes on behind the caller's back, and what is
        # cancelled ends where it stands, which a thread that reads from a socket would not.
        self._loop = asyncio.new_event_loop()

    def models(self, cancel: CancelToken, timeout: float = math.inf) -> list[str]:
        """Return the names of the server's models.

        Raises:
            RemoteError: it did not tell.
            CancelledError: the token was set.
        """

        async def ask() -> list[str] | None:
            page: Any = await self._client.models.list()
            return [model.id for model in page.data] if hasattr(page, 'data') else None

        names = self._wait(ask(), cancel, timeout)
        if names is None:
            raise RemoteError(f'{self.url} {_NO_SERVER}')
        return names

    def stream(self, body: dict[str, Any], cancel: CancelToken) -> Iterator[Delta]:
        """Ask for a chat completion; closed early, the request ends on the server as well.

        Raises:
            RemoteError: the server cannot be reached, refused, broke off or said nothing.
            CancelledError: the token was set.
        """

        async def ask() -> Any:
            return await self._client.chat.completions.create(stream=True, **body)

        async def read() -> Any:
            return await anext(stream, None)

        stream: Any = self._wait(ask(), cancel)
        try:
            kind = stream.response.headers.get('content-type', '')
            if 'event-stream' not in kind:
                raise RemoteError(f'{self.url} {_NO_SERVER} (it sent {kind or "nothing"})')
            has_begun = has_ended = False
            while True:
                try:
                    chunk = self._wait(read(), cancel)
                except RemoteError:
                    if has_ended:  # all was said
                        return
                    raise
                if chunk is None:
                    break
                delta = _delta(chunk)
                has_begun, has_ended = True, has_ended or bool(delta.finish)
                yield delta
            if not has_begun:
                raise RemoteError(
                    f'{self.url} gave no answer; perhaps the question is too long for its context',
                    status=200,
                )
            if not has_ended:
                raise RemoteError(f'{self.url} {_BROKEN}')
        finally:
            self._close(stream.close())

    def close(self) -> None:
        """End the connections; again does no harm."""
        if not self._loop.is_closed():
            self._close(self._client.close())
            # Waits for a name that is being looked up: nothing else can end that.
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
            self._loop.close()

    def _wait(
        self, work: Coroutine[Any, Any, T], cancel: CancelToken, timeout: float = math.inf
    ) -> T:
        """Wait for something to be done, no longer than somebody wants it to."""
        timeout = min(timeout, self._timeout)
        deadline = time.monotonic() + timeout
        task = self._loop.create_task(work)
        try:
            while not task.done():
                if cancel.is_set():
                    raise CancelledError('the request was cancelled')
                if time.monotonic() > deadline:
                    raise RemoteError(
                        f'{self.url} has said nothing for {timeout:g} s',
                        setting='RemoteConfig.timeout',
                    )
                self._loop.run_until_complete(asyncio.wait({task}, timeout=POLL))
        except BaseException:
            task.cancel()
            self._close(task)
            raise
        try:
            return task.result()
        except Exception as error:
            raise self._failure(error) from None

    def _close(self, closing: Any) -> None:
        """Let the loop close something, and the sockets that are closed in its next rounds."""

        async def close() -> None:
            with contextlib.suppress(Exception, asyncio.CancelledError):
                await asyncio.wait_for(closing, CLOSE_TIMEOUT)
            for _ in range(3):
                await asyncio.sleep(0)

        self._loop.run_until_complete(close())

    def _failure(self, error: Exception) -> RemoteError:
        """Return what went wrong as a line that says whose affair it is."""
        response = getattr(error, 'response', None)
        if response is None:
            said = _message(getattr(error, 'body', None))
            if said:  # within a stream
                return RemoteError(f'{self.url} failed: {said}')
            what = 'cannot be reached' if _is_connecting(error) else _BROKEN
            return RemoteError(f'{self.url} {what}: {_reason(error)}')
        status: int = response.status_code
        if 'html' in response.headers.get('content-type', ''):
            return RemoteError(f'{self.url} {_NO_SERVER} (status {status}: an HTML page)')
        words = _STATUS.get(status, 'answers with an error')
        if status == 401 and not self._has_token:
            words = f'wants a token: put it into ${TOKEN}'
        said = _message(getattr(error, 'body', None)) or _one_line(error)
        return RemoteError(
            f'{self.url} {words} (status {status}): {said}',
            status=status,
            retry_after=_seconds(response.headers.get('retry-after', '')),
        )


_NO_SERVER = "does not speak OpenAI's protocol: check host, port and path (/v1)"
_BROKEN = 'broke off in the middle of an answer'
_STATUS = {
    400: 'cannot answer that',
    401: f'refuses the token in ${TOKEN}',
    403: f'refuses the token in ${TOKEN}',
    404: 'does not have that',
    413: 'finds that too large',
    422: 'cannot answer that',
    429: 'has too much to do',
    503: 'has too much to do',
}


def _delta(chunk: Any) -> Delta:
    """Return what is in a chunk, whatever a server left out of it."""
    usage = getattr(chunk, 'usage', None)
    choice = next(iter(getattr(chunk, 'choices', None) or ()), None)
    delta = getattr(choice, 'delta', None)
    # Two names are about for what a model thinks, and none is OpenAI's.
    thought = getattr(delta, 'reasoning_content', None) or getattr(delta, 'reasoning', None)
    text = getattr(delta, 'content', None) or getattr(delta, 'refusal', None)
    return Delta(
        _clean(text), _clean(thought), getattr(choice, 'finish_reason', None) or '', _usage(usage)
    )


def _clean(text: Any) -> str:
    """Return a text that is valid UTF-8, as topics want it."""
    return text.encode('utf-8', 'replace').decode() if isinstance(text, str) else ''


def _usage(usage: Any) -> Usage | None:
    if usage is None:
        return None

    def count(owner: str, name: str) -> int:
        value = getattr(getattr(usage, owner, None) if owner else usage, name, None)
        return value if isinstance(value, int) else 0

    return Usage(
        count('', 'prompt_tokens'),
        count('prompt_tokens_details', 'cached_tokens'),
        count('', 'completion_tokens'),
        count('completion_tokens_details', 'reasoning_tokens'),
    )


def _message(body: Any) -> str:
    """Return what a server says of an error; each one has its own place for that."""
    for name in ('message', 'detail', 'error'):
        if isinstance(body, dict) and isinstance(body.get(name), str):
            body = body[name]
    return _one_line(body) if isinstance(body, str) else ''


def _one_line(text: object) -> str:
    return ' '.join(str(text).split())[:MOST_OF_A_MESSAGE]


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _is_connecting(error: Exception) -> bool:
    names = {type(cause).__name__ for cause in _chain(error)}
    return bool(names & {'ConnectError', 'ConnectTimeout'})


def _reason(error: Exception) -> str:
    """Return the operating system's words where it is the reason, else the innermost ones."""
    *_, last = _chain(error)
    for cause in _chain(error):
        if isinstance(cause, OSError) and cause.errno:
            return os.strerror(cause.errno) if cause.errno > 0 else str(cause.strerror)
        if type(cause).__name__ == 'ConnectTimeout':
            return f'no answer within {CONNECT_TIMEOUT:g} s'
    return _one_line(last) or type(last).__name__


def _seconds(header: str) -> float:
    """Return the seconds of a Retry-After header, 0 where there are none."""
    try:
        seconds = float(header)
    except ValueError:
        return 0.0
    return seconds if 0 <= seconds < math.inf else 0.0
