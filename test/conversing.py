"""Conversations in which everything happens that may, beside an engine that sees none of it.

A `World` has one engine, in a thread as the HTTP server's or the node's, and whatever uses it:
chats, standing questions, a client of the HTTP server. Operations are done to it one after the
other. Each answer is compared with a fresh engine's that was given what the conversation then
is: token by token, and by the logits of each. So is what was said before a cancel.
"""

from __future__ import annotations

import contextlib
import json
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from nano import draw_scene
from observed import Asked, Fuse, Observed, TroubledEncoder
from served import data_url

from hobot_llamacpp_py.config import ChatConfig, DecoderConfig, SamplingConfig
from hobot_llamacpp_py.engine import (
    CancelledError,
    CancelToken,
    Chat,
    Engine,
    InferenceError,
    Inquiry,
    Picture,
    PromptError,
    Request,
    Verdict,
    grammar,
    json_schema,
)
from hobot_llamacpp_py.engine.decoder import Decoder
from hobot_llamacpp_py.families import ModelFamily
from hobot_llamacpp_py.llama_api import llama_cpp
from hobot_llamacpp_py.vision.encoder import VisionEncoder
from hobot_llamacpp_py.watch.rules import Rule
from hobot_llamacpp_py.watch.watcher import Watcher
from hobot_llamacpp_py.web.server import Server
from hobot_llamacpp_py.web.standalone import EngineThread

__all__ = [
    'CONSTRAINTS',
    'GREEDY',
    'PICTURES',
    'SCHEMA',
    'Ahead',
    'Ask',
    'Empty',
    'Fresh',
    'GoOn',
    'Http',
    'Judge',
    'Kind',
    'Operation',
    'Prepare',
    'Reset',
    'Trouble',
    'Watch',
    'World',
]

TIMEOUT = 120  # seconds that an operation may take, on a machine that is busy with others
PICTURES = [draw_scene(seed)[1] for seed in range(7)]  # more than have their embeddings kept
GREEDY = SamplingConfig(temperature=0)
INQUIRIES = [
    Inquiry('Is there a star? Answer yes or no.', ('Yes', 'No')),
    Inquiry('有几个图形？', tuple(map(str, range(20)))),
    Inquiry('What color is the circle?', max_tokens=6),
    Inquiry('Where is the square?', ('a', 'aa', 'aaa', 'aaaa')),
]
RULES = [
    Rule('star', 'Is there a star?', answers=('Yes', 'No')),
    Rule('color', 'What color is the circle?', 'choice', ('red', 'green', 'blue'), every=2),
    Rule('count', '有几个图形？', 'integer', tuple(map(str, range(11))), hold=1),
    Rule('text', 'Describe the image.', 'text', max_tokens=5),
]
SCHEMA = {
    'type': 'object',
    'properties': {'color': {'enum': ['red', 'green', 'blue']}, 'n': {'type': 'integer'}},
    'required': ['color', 'n'],
}
CONSTRAINTS = {
    'schema': json_schema(SCHEMA),
    'regex': grammar('start: /[a-z ]{3,30}[.]/'),
    'long': grammar('start: /[A-Za-z ]{1000,}/'),  # fills the context
    'gbnf': grammar('root ::= "The " ("circle" | "star") " is " [a-z]+ "."'),
}
T = TypeVar('T')


@dataclass(frozen=True)
class Kind:
    """A kind of model and memory.

    Attributes:
        tolerance: of logits, in their standard deviations: what llama.cpp's own numbers move by
            when the same tokens come in batches of other sizes.
    """

    decoder: Path
    family: ModelFamily
    config: DecoderConfig
    tolerance: float


@dataclass(frozen=True)
class Trouble:
    """What goes wrong in an operation.

    Attributes:
        fuse: operations of llama.cpp until a cancel.
        timer: tenths of a millisecond until a cancel; what it meets differs at each run.
        encoder: what it does with the pictures that it has to encode.
        piece: how many pieces are said (or verdicts given) until `then`.
        then: cancel, forget (the conversation), empty (the KV cache), leave, ask or judge.
    """

    fuse: int | None = None
    timer: int | None = None
    encoder: tuple[str, ...] = ()
    piece: int = 0
    then: str = ''


NONE = Trouble()


class Fresh:
    """An engine whose context is made anew for each request."""

    def __init__(self, kind: Kind, encoder: VisionEncoder) -> None:
        self.kind = kind
        decoder = Decoder(kind.decoder, kind.config)
        self.engine = Observed(decoder, TroubledEncoder(encoder), kind.family)
        self._verdicts: dict[tuple[str, Inquiry, ChatConfig], Verdict] = {}

    def answer(self, request: Request, given: Sequence[np.ndarray | None] = ()) -> Asked:
        """Answer a request without any drafts, by logits that are given or its own."""
        self._renew()
        self.engine.given = given
        try:
            answer = self.engine.generate(
                replace(request, config=replace(request.config, speculative=False))
            )
            for _ in answer:
                pass
        finally:
            self.engine.given = ()
        assert self.engine.asked is not None
        return self.engine.asked

    def refuses(self, request: Request) -> bool:
        """Tell whether a request cannot be asked."""
        try:
            self.engine.generate(request)
        except PromptError:
            return True
        return False

    def verdict(self, picture: Picture, inquiry: Inquiry, config: ChatConfig) -> Verdict:
        """Answer an inquiry by itself."""
        key = (picture.key, inquiry, config)
        if key not in self._verdicts:
            self._renew()
            (self._verdicts[key],) = self.engine.judge(picture, [inquiry], config)
        return self._verdicts[key]

    def _renew(self) -> None:
        self.engine.reset()
        self.engine.loop.close()
        self.engine.decoder.renew()


class _Job:
    """Work for the engine's thread."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self.cancel, self.done, self._work = CancelToken(), Future[Any](), work

    def run(self, *_: object) -> None:
        try:
            self.done.set_result(self._work())
        except BaseException as error:
            self.done.set_exception(error)


@dataclass
class _Left:
    """An answer that nobody reads to its end, for the time being."""

    chat: Chat
    pieces: Iterator[str]
    asked: Asked


class World:
    """One engine and all who use it; use as a context manager."""

    def __init__(self, fresh: Fresh, encoder: VisionEncoder) -> None:
        kind = self.kind = fresh.kind
        self.fresh = fresh
        decoder = Decoder(kind.decoder, kind.config)
        self.fuse = Fuse(decoder)
        self.encoder = TroubledEncoder(encoder, self.fuse)
        self.engine = Observed(decoder, self.encoder, kind.family)
        self.chats = [Chat(self.engine) for _ in range(2)]
        self.now = 0.0
        self.watcher = Watcher(RULES, lambda: self.now)
        self.left: _Left | None = None
        self.notes: list[str] = []  # of what came about
        self.messages: list[dict[str, Any]] = []  # of the HTTP client's conversation
        config = ChatConfig(sampling=GREEDY, max_tokens=32)
        self._thread = EngineThread(lambda: self.engine, 'nano', config, 8, on_failed=print)
        self._thread.start()

    def __enter__(self) -> World:
        return self

    def __exit__(self, *_: object) -> None:
        self.left = None
        self._thread.close(TIMEOUT)
        if 'url' in self.__dict__:
            self._server.stop(TIMEOUT)

    @cached_property
    def url(self) -> str:
        """Where the HTTP server is, which starts when it is asked for the first time."""
        self._server = Server(self._thread, '127.0.0.1', 0)
        self._server.start()
        return f'http://127.0.0.1:{self._server.port}/v1/chat/completions'

    def run(self, operations: Sequence[Operation]) -> None:
        """Do one operation after the other; at the end each chat is asked without trouble."""
        config = ChatConfig(sampling=GREEDY, max_tokens=24)
        for operation in (*operations, *(Ask(i, 'Thanks', 0, config) for i in range(2))):
            if isinstance(operation, Http):
                operation.do(self)
            else:
                self.in_thread(lambda operation=operation: operation.do(self))
            self.in_thread(self._check_memory)

    def in_thread(self, work: Callable[[], T]) -> T:
        """Do something in the thread that has the engine."""
        job = _Job(work)
        assert self._thread.put(job)
        result: T = job.done.result(TIMEOUT)
        return result

    def picture(self, index: int | None) -> Picture | None:
        """Return one of the pictures, as the engine's."""
        return None if index is None else self.engine.picture(PICTURES[index])

    @contextlib.contextmanager
    def troubled(self, trouble: Trouble) -> Iterator[None]:
        """Have something go wrong, and no longer than this."""
        timer = threading.Timer((trouble.timer or 0) * 1e-4, self.fuse.cancel)
        self.encoder.troubles[:] = trouble.encoder
        self.fuse.length = trouble.fuse
        if trouble.timer is not None:
            timer.start()
        try:
            yield
        finally:
            timer.cancel()
            if trouble.timer is not None:
                timer.join()
            self.fuse.length = None
            # What still is encoded for nobody counts to this trouble, not to what comes after it.
            pictures = self.engine._pictures
            assert pictures is not None
            pictures._embeddings._executor.submit(int).result(TIMEOUT)
            self.encoder.troubles.clear()

    def interrupt(self, trouble: Trouble, chat: Chat | None = None) -> None:
        """Do what happens in the middle of an answer."""
        match trouble.then:
            case 'cancel':
                self.fuse.cancel()
            case 'forget':
                for forgetting in self.chats if chat is None else (chat,):
                    forgetting.reset()
            case 'empty':
                self.engine.reset()
            case 'ask':
                other = self.chats[chat is self.chats[0]]
                Ask(self.chats.index(other), 'Where is the star?', 1).do(self)
            case 'judge':
                Judge(2).do(self)

    # -- comparisons -----------------------------------------------------------------------------

    def check(self, asked: Asked, *, is_whole: bool) -> None:
        """Compare an answer, or what was said of it, with a fresh engine's."""
        answer, request = asked.answer, replace(asked.request, turns=asked.answer.turns)
        expected = self.fresh.answer(request)
        mine, its = asked.picks, expected.picks
        for i, (one, other) in enumerate(zip(mine, its, strict=False)):
            if one.logits is not None and other.logits is not None:
                difference = np.abs(one.logits - other.logits).max() / other.logits.std()
                assert difference <= self.kind.tolerance, (i, difference)
            if one.token != other.token:
                # They are as good as equal: then it must be these logits that make the difference.
                given = [pick.logits for pick in mine[: i + 1]]
                again = self.fresh.answer(request, given).picks
                assert [p.token for p in again[: i + 1]] == [p.token for p in mine[: i + 1]]
                self.notes.append('near a tie')
                return
        assert len(mine) <= len(its)
        if is_whole:
            for name in ('tokens', 'text', 'finish', 'thoughts', 'is_thinking', 'turns'):
                assert getattr(answer, name) == getattr(expected.answer, name), name
            stats = answer.stats
            assert stats.reused + stats.prefilled == expected.answer.stats.prefilled
            self.notes.append(f'answers that end by {answer.finish}')

    def check_verdict(
        self, picture: Picture, inquiry: Inquiry, answer: str, p: float | None, config: ChatConfig
    ) -> None:
        """Compare a verdict with a fresh engine's."""
        expected = self.fresh.verdict(picture, inquiry, config)
        assert answer == expected.answer
        assert p == pytest.approx(expected.probability, abs=2 * self.kind.tolerance)

    def _check_memory(self) -> None:
        """Compare what the KV cache is said to hold with what llama.cpp has."""
        memory = llama_cpp.llama_get_memory(self.engine.decoder.context)
        judge = self.engine._judge
        for cache in (self.engine.cache, *([judge.trunk] if judge else ())):
            last = llama_cpp.llama_memory_seq_pos_max(memory, cache.sequence)
            assert last == cache.n_past - 1

    @contextlib.contextmanager
    def failing(self, trouble: Trouble) -> Iterator[None]:
        """Let errors through that the trouble explains, and no others."""
        try:
            yield
        except CancelledError:
            assert (
                trouble.fuse is not None
                or trouble.timer is not None
                or ('cancel' in (trouble.then, *trouble.encoder))
            )
        except InferenceError as error:
            self.notes.append(f'error: {error}'.partition('(')[0])
            reasons = {
                'raise': 'was told to fail',
                'nan': 'no numbers',
                'inf': 'no numbers',
                'shape': 'embeddings of shape',
            }
            known = [reasons[what] for what in trouble.encoder if what in reasons]
            known += ['another request has begun'] * (trouble.then in ('empty', 'ask', 'judge'))
            if not any(reason in str(error) for reason in known):
                raise


# -- operations ----------------------------------------------------------------------------------


class Operation:
    """One thing that happens."""

    def do(self, world: World) -> None:
        """Do it, and compare what comes of it."""


@dataclass(frozen=True)
class Ask(Operation):
    """A question in one of the conversations."""

    chat: int
    question: str
    picture: int | None = None
    config: ChatConfig = ChatConfig(sampling=GREEDY, max_tokens=24)
    trouble: Trouble = NONE

    def do(self, world: World) -> None:
        trouble, chat, engine = self.trouble, world.chats[self.chat], world.engine
        chat.config, before = self.config, chat.turns
        with world.troubled(trouble):
            try:
                answer = chat.ask(self.question, world.picture(self.picture))
            except PromptError:
                assert engine.wanted is not None and world.fresh.refuses(engine.wanted)
                assert chat.turns == before
                world.notes.append('a prompt that does not fit')
                return
            assert engine.asked is not None
            left = _Left(chat, iter(answer), engine.asked)
            is_whole = False
            with world.failing(trouble):
                is_whole = self._read(world, left)
        asked = left.asked
        if not is_whole:
            world.check(asked, is_whole=False)
            if trouble.then in ('cancel', 'leave', '', 'empty') and world.left is not left:
                assert chat.turns == before
            return
        if answer.finish == 'cancelled':
            world.notes.append('cancelled answers')
        world.check(asked, is_whole=answer.finish != 'cancelled')
        if trouble.then == 'forget' and trouble.piece < len(answer.text):
            return
        is_half = self.config.sampling.constraint is not None and answer.finish != 'stop'
        if answer.tokens and not is_half:
            *earlier, last = answer.turns
            assert chat.turns == (*earlier, replace(last, answer=tuple(answer.tokens)))
        elif trouble.then != 'forget':
            assert chat.turns == before

    def _read(self, world: World, left: _Left) -> bool:
        """Read an answer; tell whether that was to its end."""
        for i, _ in enumerate(left.pieces):
            if i == self.trouble.piece and self.trouble.then:
                if self.trouble.then == 'leave':
                    world.left = left
                    return False
                world.interrupt(self.trouble, left.chat)
        return True


@dataclass(frozen=True)
class GoOn(Operation):
    """The answer that was left is read on, if it still can be."""

    def do(self, world: World) -> None:
        left, world.left = world.left, None
        if left is None:
            return
        before, is_whole = left.chat.turns, False
        with world.failing(Trouble(then='ask')):
            for _ in left.pieces:
                pass
            is_whole = True
            world.notes.append('an answer that was left and goes on')
        world.check(left.asked, is_whole=is_whole)
        assert is_whole or left.chat.turns == before


@dataclass(frozen=True)
class Prepare(Operation):
    """What can be done before a question is asked is done."""

    chat: int
    picture: int | None
    config: ChatConfig = ChatConfig()
    trouble: Trouble = NONE

    def do(self, world: World) -> None:
        chat = world.chats[self.chat]
        chat.config, before = self.config, chat.turns
        forgiving = contextlib.suppress(PromptError)
        with world.troubled(self.trouble), world.failing(self.trouble), forgiving:
            chat.prepare(world.picture(self.picture))
        assert chat.turns == before


@dataclass(frozen=True)
class Judge(Operation):
    """Many questions about one picture."""

    picture: int
    inquiries: tuple[int, ...] = (0, 1, 2)
    config: ChatConfig = ChatConfig()
    trouble: Trouble = NONE

    def do(self, world: World) -> None:
        picture = world.picture(self.picture)
        assert picture is not None
        inquiries = [INQUIRIES[i] for i in self.inquiries]
        verdicts: list[Verdict] = []
        with world.troubled(self.trouble), world.failing(self.trouble):
            for verdict in world.engine.judge(picture, inquiries, self.config):
                verdicts.append(verdict)
                if len(verdicts) > self.trouble.piece and self.trouble.then:
                    if self.trouble.then == 'leave':
                        break
                    world.interrupt(self.trouble)
        for found in verdicts:
            arguments = found.inquiry, found.answer, found.probability, self.config
            world.check_verdict(picture, *arguments)
        if self.trouble == NONE:
            assert {found.inquiry for found in verdicts} == set(inquiries)


@dataclass(frozen=True)
class Watch(Operation):
    """A round of the standing questions, of some of them from now on."""

    picture: int
    rules: tuple[int, ...] = (0, 1, 2, 3)
    trouble: Trouble = NONE

    def do(self, world: World) -> None:
        picture, watcher = world.picture(self.picture), world.watcher
        assert picture is not None
        world.now += 1
        watcher.rules = [RULES[i] for i in self.rules]
        config, found = ChatConfig(), []
        with world.troubled(self.trouble), world.failing(self.trouble):
            for evaluation in watcher.watch(world.engine, picture, world.now, config):
                found.append(evaluation)
                if len(found) > self.trouble.piece and self.trouble.then:
                    if self.trouble.then == 'leave':
                        break
                    world.interrupt(self.trouble)
        for evaluation in found:
            inquiry = evaluation.rule.inquiry
            expected = world.fresh.verdict(picture, inquiry, config)
            assert evaluation.value == evaluation.rule.value(expected.answer)
            world.check_verdict(picture, inquiry, expected.answer, evaluation.probability, config)


@dataclass(frozen=True)
class Http(Operation):
    """A turn of the conversation that an HTTP client has.

    Attributes:
        before: again: the last turn is asked anew; edited: the client wrote another answer into
            it; anew: a conversation begins.
        options: of OpenAI's protocol.
    """

    question: str
    picture: int | None = None
    before: str = ''
    options: tuple[tuple[str, Any], ...] = ()
    trouble: Trouble = NONE

    def do(self, world: World) -> None:
        messages = world.messages
        if self.before == 'anew':
            messages.clear()
        elif self.before == 'again':
            del messages[-2:]
        elif self.before == 'edited' and messages:
            messages[-1] = {'role': 'assistant', 'content': 'There is a red star.'}
        asked_with = [*messages, {'role': 'user', 'content': self._content()}]
        world.in_thread(lambda: setattr(world.engine, 'asked', None))
        body = {'temperature': 0, **dict(self.options), 'messages': asked_with}
        with world.troubled(self.trouble):
            status, response = _post(world.url, body)
        asked = world.engine.asked
        if status == 200:
            assert asked is not None
            message, usage = response['choices'][0]['message'], response['usage']
            assert asked.answer.text.startswith(message['content'])
            assert usage['completion_tokens'] == asked.answer.n_tokens
            messages += [asked_with[-1], {'role': 'assistant', 'content': message['content']}]
            world.notes.append('answers by HTTP')
        elif status == 400:
            assert world.engine.wanted is not None and world.fresh.refuses(world.engine.wanted)
            return
        else:
            with world.failing(self.trouble):
                kind = CancelledError if status == 503 else InferenceError
                raise kind(response['error']['message'])
        if asked is not None:
            self._check_turns(world.engine, asked, asked_with)
            is_whole = asked.answer.finish not in ('cancelled', '')
            world.in_thread(lambda: world.check(asked, is_whole=is_whole))

    def _content(self) -> Any:
        text = {'type': 'text', 'text': self.question}
        if self.picture is None:
            return [text]
        url = {'url': data_url(PICTURES[self.picture])}
        return [{'type': 'image_url', 'image_url': url}, text]

    def _check_turns(
        self, engine: Engine, asked: Asked, messages: Sequence[dict[str, Any]]
    ) -> None:
        """Check that the engine was given what the client has sent."""
        said = [
            b''.join(map(engine.vocabulary.piece, turn.answer)).decode('utf-8', 'replace').strip()
            for turn in asked.request.turns[:-1]
            if turn.answer is not None
        ]
        assert said == [m['content'].strip() for m in messages if m['role'] == 'assistant']
        questions = [m['content'][-1]['text'] for m in messages if m['role'] == 'user']
        assert [turn.question for turn in asked.request.turns] == questions


def _post(url: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    headers = {'content-type': 'application/json'}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


@dataclass(frozen=True)
class Ahead(Operation):
    """A picture is encoded before anybody asks about it."""

    picture: int
    trouble: Trouble = NONE

    def do(self, world: World) -> None:
        picture = world.picture(self.picture)
        assert picture is not None
        with world.troubled(self.trouble), world.failing(self.trouble):
            world.engine.encode_ahead(picture).result(TIMEOUT)


@dataclass(frozen=True)
class Reset(Operation):
    """A conversation is forgotten."""

    chat: int

    def do(self, world: World) -> None:
        world.chats[self.chat].reset()


@dataclass(frozen=True)
class Empty(Operation):
    """The KV cache is emptied."""

    def do(self, world: World) -> None:
        world.engine.reset()
