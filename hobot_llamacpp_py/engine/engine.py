"""The engine: a conversation in, pieces of text out.

A request is rendered to elements (text tokens and whole images); what the KV cache already holds
of them is kept, the rest is encoded and decoded, and the answer is sampled. One thread at a time;
from others only `picture` and `encode_ahead` may be called, and a `CancelToken` be set.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt

from hobot_llamacpp_py.config import ChatConfig, DecoderConfig, EncoderConfig, VisionConfig
from hobot_llamacpp_py.engine.cancel import CancelToken
from hobot_llamacpp_py.engine.constraint_compiler import ConstraintCompiler
from hobot_llamacpp_py.engine.decoder import Decoder
from hobot_llamacpp_py.engine.kv_cache import KvCache
from hobot_llamacpp_py.engine.matcher import Matcher
from hobot_llamacpp_py.engine.pieces import Pieces
from hobot_llamacpp_py.engine.prefill import Prefill
from hobot_llamacpp_py.engine.prompt import Prompt, PromptBuilder
from hobot_llamacpp_py.engine.prompt_format import FamilyFormat
from hobot_llamacpp_py.engine.request import Answer, Inquiry, Request, Stats, Verdict
from hobot_llamacpp_py.engine.token_loop import TokenLoop
from hobot_llamacpp_py.engine.vocabulary import Vocabulary
from hobot_llamacpp_py.engine.waiting import result
from hobot_llamacpp_py.errors import (
    CancelledError,
    InferenceError,
    LogitsError,
    ModelFileError,
    PromptError,
)
from hobot_llamacpp_py.families import INTERNVL, ModelFamily
from hobot_llamacpp_py.health.footprint import encoder_bytes
from hobot_llamacpp_py.vision.embedding_cache import Embeddings
from hobot_llamacpp_py.vision.encoder import VisionEncoder
from hobot_llamacpp_py.vision.open import open_encoder
from hobot_llamacpp_py.vision.picture import Picture
from hobot_llamacpp_py.vision.pictures import Pictures

if TYPE_CHECKING:
    from hobot_llamacpp_py.engine.chat_template import ChatTemplateFormat
    from hobot_llamacpp_py.engine.judge import Judge

__all__ = ['Engine']

T = TypeVar('T')


class Engine:
    """A text decoder with, for pictures, a vision encoder.

    Args:
        decoder: the text decoder; the engine closes it.
        encoder: the vision encoder, or None for text chat; the engine closes it.
        family: what the models were trained with. Text chat goes by the GGUF's own chat template.
        vision, encoder_threads: as `Pictures` takes them.

    Raises:
        ModelFileError: the models do not fit each other or the family.
    """

    def __init__(
        self,
        decoder: Decoder,
        encoder: VisionEncoder | None = None,
        family: ModelFamily = INTERNVL,
        vision: VisionConfig = VisionConfig(),
        encoder_threads: Callable[[], int] | None = None,
    ) -> None:
        self.decoder, self.encoder, self.vocabulary = decoder, encoder, decoder.vocabulary
        self.tokenize = decoder.vocabulary.tokenize
        self.cache = KvCache(decoder)
        self.loop = TokenLoop(decoder, self.cache)
        self._prefill = Prefill(self.cache, self.loop.drafter, self.encode_ahead)
        self._pictures: Pictures | None = None
        self._judge: Judge | None = None  # from when many questions are asked about a picture
        self.constraints = ConstraintCompiler(decoder.vocabulary.handle)
        self._current: Stats | None = None  # of the request that the KV cache is for
        self._closed = False
        if encoder is None:
            chat = _chat_format(decoder.vocabulary)
            self.prompts = PromptBuilder(chat, decoder.vocabulary, decoder.n_ctx)
            return
        form = FamilyFormat(family, decoder.vocabulary)
        _check_width(encoder, decoder)
        self.prompts = PromptBuilder(form, decoder.vocabulary, decoder.n_ctx, encoder.n_tokens)
        self._pictures = Pictures(encoder, vision, encoder_threads)

    @classmethod
    def open(
        cls,
        llm: str | Path,
        encoder: str | Path | None = None,
        *,
        family: ModelFamily = INTERNVL,
        config: DecoderConfig = DecoderConfig(),
        encoder_config: EncoderConfig = EncoderConfig(),
        vision: VisionConfig = VisionConfig(),
    ) -> Engine:
        """Load the models and make an engine; on failure nothing stays loaded.

        Args:
            llm: the decoder's GGUF file.
            encoder: the vision encoder's file, or None for text chat.
        """
        decoder, opened = Decoder(llm, config, encoder_bytes(encoder)), None
        try:
            if encoder is not None:
                # The wrong vocabulary is found before an encoder is loaded, which may take long.
                FamilyFormat(family, decoder.vocabulary)
                n = encoder_config.n_threads or decoder.n_threads
                opened = open_encoder(encoder, family, replace(encoder_config, n_threads=n))
            share = None if encoder_config.n_threads else decoder.encoder_threads
            return cls(decoder, opened, family, vision, share)
        except BaseException:
            decoder.close()
            if opened is not None:
                opened.close()
            raise

    def picture(self, bgr: npt.NDArray[np.uint8]) -> Picture:
        """Fit a BGR picture [h, w, 3] to the encoder and give it an identity.

        With a `frame_reuse_threshold` that is the last picture's, if the two hardly differ.
        """
        return self._sight().picture(bgr)

    def encode_ahead(self, picture: Picture) -> Future[Embeddings]:
        """Begin to encode a picture that a later request will be about, whatever runs now."""
        return self._sight().encode(picture)

    def _sight(self) -> Pictures:
        if self._pictures is None:
            raise PromptError('a text chat takes no pictures')
        return self._pictures

    def generate(self, request: Request, cancel: CancelToken | None = None) -> Answer:
        """Answer the last turn of a request.

        Work begins with the iteration over the answer. A cancelled answer ends early and keeps
        what was said; whatever happens, the next request finds a consistent engine.

        Raises:
            PromptError: the request does not fit the context, even without earlier turns.
            InferenceError: while iterating, the encoder or the decoder failed.
        """
        self._check_open()
        prompt = self.prompts.build(request)
        answer = Answer(turns=prompt.turns)
        answer.pieces = _guarded(self, self._run(request, prompt, answer, cancel or CancelToken()))
        return answer

    def prepare(self, request: Request, cancel: CancelToken | None = None) -> Stats:
        """Do the work of a request that does not hang on its last question.

        Its picture is encoded, and everything before the question is decoded into the KV cache:
        what then is left to do when the question comes is the question itself.

        Raises:
            CancelledError: the token was set; the engine is as good as before.
            PromptError: the request does not fit the context.
            InferenceError: the encoder or the decoder failed.
        """
        self._check_open()
        stats, cancel = Stats(), cancel or CancelToken()
        elements = self.prompts.build_before_question(request)
        if self.cache.match(elements, last_again=False) < len(elements):
            self.decoder.cancel_on(cancel)
            self._current = stats
            self._prefill.run(elements, stats, cancel, logits=False)
        return stats

    def judge(
        self,
        picture: Picture,
        inquiries: Sequence[Inquiry],
        config: ChatConfig = ChatConfig(),
        cancel: CancelToken | None = None,
    ) -> Iterator[Verdict]:
        """Ask many questions about one picture, each by itself; yield verdicts as they are found.

        Conversations stay in the KV cache, but at the first call, which makes room for this.

        Raises:
            CancelledError, InferenceError: as `generate`; what was yielded until then holds.
            PromptError: a question cannot be asked, or this is a text chat.
        """
        self._check_open()
        sight = self._sight()
        if self._judge is None:
            from hobot_llamacpp_py.engine.judge import Judge

            arguments = (self.decoder, self.prompts, sight.encode, self.cache)
            self._judge = Judge(*arguments, self.on_renewed)
            self._prefill.lender = self._judge.trunk
        self._current = asked = Stats()
        verdicts = self._judge.ask(picture, inquiries, config, cancel or CancelToken())
        for found in _guarded(self, verdicts):
            yield found
            self._check_current(asked)

    def on_renewed(self) -> None:
        """Forget what the context held; the sampler belongs to the old one."""
        self.loop.close()
        self.cache.forget()
        if self._judge is not None:
            self._judge.trunk.forget()

    def figures(self) -> dict[str, object]:
        """Return what there is to tell of this moment, by name. From any thread."""
        cells = {'KV cells used': self.cache.n_past, 'KV cells': self.decoder.n_ctx}
        threads = ', '.join(map(str, self.decoder.n_threads_now))
        restarts = getattr(self.encoder, 'restarts', 0)
        return {**cells, 'threads of decode, prefill': threads, 'encoder restarts': restarts}

    def reset(self) -> None:
        """Empty the KV cache, which ends an answer that is being given; embeddings stay."""
        self._check_open()
        self._current = None
        self.cache.trim(0)
        if self._judge is not None:
            self._judge.trunk.trim(0)

    def close(self) -> None:
        """Free the models, which ends an answer that is being given; again does no harm."""
        self._closed, self._current = True, None
        self.loop.close()
        self.constraints.close()
        self.decoder.close()
        if self._pictures is not None:
            self._pictures.close()

    def _check_current(self, stats: Stats) -> None:
        self._check_open()
        if self._current is not stats:
            raise InferenceError('another request has begun, or the engine was reset')

    def _check_open(self) -> None:
        if self._closed:  # llama.cpp would end the process
            raise InferenceError('the engine is closed; iterate over an answer before that')

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(
        self, request: Request, prompt: Prompt, answer: Answer, cancel: CancelToken
    ) -> Iterator[str]:
        self._check_open()
        started = time.perf_counter()
        stats, vocabulary = answer.stats, self.vocabulary
        constraint, markers = request.config.sampling.constraint, self.prompts.form.thoughts
        text = Pieces(answer, vocabulary, markers, prompt.in_thought, constraint is not None)
        splitter = text.splitter
        self.decoder.cancel_on(cancel)
        try:
            # 1. Keep what the KV cache holds already, decode the rest.
            compiling = self.constraints.start(constraint) if constraint else None
            self._current = stats
            self._prefill.run(prompt.elements, stats, cancel)
            compiled = result(compiling, cancel) if compiling else None
            matcher = Matcher(compiled, self.constraints) if compiled else None
            # 2. Sample until the model, the limits or the user end the answer.
            decode_started = time.perf_counter()
            tokens = self.loop.sample(
                request.config, stats, splitter, matcher, lambda: self._check_current(stats)
            )
            for n_tokens, token in enumerate(tokens, 1):
                if n_tokens == 1:
                    stats.first_token_s = time.perf_counter() - started
                if vocabulary.is_end(token):
                    answer.finish = 'stop'
                    break
                if piece := text.feed(token):
                    yield piece
                if text.repeated:
                    answer.finish = 'repetition'
                    break
                if matcher and matcher.is_over:
                    answer.finish = 'stop'
                    break
                if n_tokens >= request.config.max_tokens:
                    answer.finish = 'length'
                    break
            else:
                answer.finish = 'context'
        except CancelledError:
            answer.finish = 'cancelled'
            answer.is_thinking = splitter is not None and splitter.in_thought
        else:
            stats.decode_s = time.perf_counter() - decode_started
            # 3. Give what was held back as long as more could follow.
            yield from text.finish()
        finally:
            if splitter is not None:
                stats.thinking = splitter.n_thinking


def _guarded(engine: Engine, items: Iterator[T]) -> Iterator[T]:
    """Give items; where logits are no numbers, have the context made anew.

    What is no number in the KV cache would spoil all that comes after, even when dropped.
    """
    try:
        yield from items
    except LogitsError:
        engine.decoder.renew()
        engine.on_renewed()
        raise


def _check_width(encoder: VisionEncoder, decoder: Decoder) -> None:
    if encoder.n_embd != decoder.n_embd:
        raise ModelFileError(
            f'the encoder gives image tokens of width {encoder.n_embd}, but'
            f' {decoder.path.name} takes {decoder.n_embd}: they belong to different models'
        )


def _chat_format(words: Vocabulary) -> ChatTemplateFormat:
    from hobot_llamacpp_py.engine.chat_template import ChatTemplateFormat  # and Jinja with it

    chat = ChatTemplateFormat(words, words.chat_template, words.bos, words.eos)
    chat.check()
    return chat
