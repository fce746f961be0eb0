"""The engine: a conversation in, pieces of text out.

It turns a request into elements (text tokens and whole images), keeps what the KV cache already
holds of them, encodes and decodes the rest, and samples the answer. One thread at a time; from
others only `picture` and `encode_ahead` may be called, and a `CancelToken` be set.
"""

from __future__ import annotations

import codecs
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from hobot_llamacpp_py.config import DecoderConfig, EncoderConfig, SamplingConfig, Thinking
from hobot_llamacpp_py.engine.decoder import CancelToken, Decoder
from hobot_llamacpp_py.engine.kv_prefix import (
    Element,
    ImageSpan,
    common_prefix,
    count_positions,
    element_ids,
    grouped,
)
from hobot_llamacpp_py.engine.prompt_format import (
    ChatTemplateFormat,
    Image,
    InThought,
    PromptFormat,
    Special,
    Text,
    Turn,
    vlm_format,
)
from hobot_llamacpp_py.engine.repetition import NoGuard, RepetitionGuard
from hobot_llamacpp_py.engine.sampler import Sampler
from hobot_llamacpp_py.engine.speculation import CONTEXT, Drafter
from hobot_llamacpp_py.engine.thoughts import ThoughtSplitter
from hobot_llamacpp_py.errors import (
    CancelledError,
    ImageError,
    InferenceError,
    ModelFileError,
    PromptError,
)
from hobot_llamacpp_py.vision.embedding_cache import EmbeddingCache, Embeddings
from hobot_llamacpp_py.vision.encoder import VisionEncoder, open_encoder
from hobot_llamacpp_py.vision.picture import Picture
from hobot_llamacpp_py.vision.preprocess import ResizeMode, fit

__all__ = ['Answer', 'Engine', 'FinishReason', 'Request', 'Stats', 'without_oldest']

FinishReason = Literal['', 'stop', 'length', 'context', 'repetition', 'cancelled']

_CANCEL_POLL = 0.02  # seconds between two looks at the cancel token while the encoder works


@dataclass(frozen=True)
class Request:
    """A conversation whose last turn is to be answered."""

    turns: tuple[Turn, ...]
    system: str = ''
    max_tokens: int = 256
    sampling: SamplingConfig = SamplingConfig()
    speculative: bool = True
    """Draft tokens from memory; the answer is the same, only sooner there."""
    thinking: Thinking = 'auto'


@dataclass
class Stats:
    """What an answer cost; times in seconds, counts in positions of the KV cache."""

    encode_s: float = 0.0
    """Waited for the image encoder; what it did meanwhile or before does not count."""
    prefill_s: float = 0.0
    decode_s: float = 0.0
    first_token_s: float = 0.0
    reused: int = 0
    prefilled: int = 0
    decoded: int = 0
    drafted: int = 0
    accepted: int = 0
    """Of the drafted tokens, those that the sampler picked as well."""
    thinking: int = 0
    """Of the decoded tokens, those of thoughts and their markers."""


@dataclass
class Answer:
    """An answer in the making: iterate over it for pieces of text as they are decoded.

    After the iteration `text` is the whole answer, `tokens` its token ids, `finish` why it ended.
    What a model thinks before it answers is in `thoughts` alone; `on_thought`, if set before the
    iteration, is called with each piece of it.
    """

    pieces: Iterator[str] = field(repr=False, default=iter(()))
    text: str = ''
    tokens: list[int] = field(default_factory=list)
    finish: FinishReason = ''
    thoughts: str = ''
    is_thinking: bool = False
    """Whether the answer ended before the thought did: then there is no text."""
    on_thought: Callable[[str], None] | None = field(repr=False, default=None)
    turns: tuple[Turn, ...] = ()
    """The turns that were sent: the oldest may have been dropped to fit the context."""
    stats: Stats = field(default_factory=Stats)

    def __iter__(self) -> Iterator[str]:
        return self.pieces


class Engine:
    """A text decoder with, for pictures, a vision encoder.

    Args:
        decoder: the text decoder; the engine closes it.
        encoder: the vision encoder, or None for text chat; the engine closes it.
        model_type: 0 InternVL, 1 SmolVLM2: the prompt format for pictures. Text chat goes by the
            GGUF's own chat template.
        resize_mode: how a picture is brought to the encoder's input size.
        embedding_cache_size: pictures whose embeddings are kept.
        frame_reuse_threshold: mean absolute difference (0 to 255) of pixels below which a picture
            counts as the one before it; 0: only if they are identical.

    Raises:
        ModelFileError: the models do not fit each other or the model type.
    """

    def __init__(
        self,
        decoder: Decoder,
        encoder: VisionEncoder | None = None,
        model_type: int = 0,
        resize_mode: ResizeMode = 'letterbox',
        embedding_cache_size: int = 4,
        frame_reuse_threshold: float = 0.0,
    ) -> None:
        self.decoder, self.encoder = decoder, encoder
        self._resize_mode: ResizeMode = resize_mode
        self._embeddings: EmbeddingCache | None = None
        self._frame_reuse_threshold = frame_reuse_threshold
        self._last_picture: Picture | None = None
        self._picture_lock = threading.Lock()
        self._cached: list[Element] = []
        self._drafter = Drafter()
        self._running: Stats | None = None  # of the request that the KV cache is for
        self._closed = False
        self._sampler: Sampler | None = None
        self._thought_utf8 = codecs.getincrementaldecoder('utf-8')('replace')
        self._format: PromptFormat
        if encoder is None:
            self._format = ChatTemplateFormat(
                decoder, decoder.chat_template, decoder.bos, decoder.eos
            )
            self._format.check()
            return
        self._format = vlm_format(model_type, decoder)
        if encoder.n_embd != decoder.n_embd:
            raise ModelFileError(
                f'the encoder gives image tokens of width {encoder.n_embd}, but'
                f' {decoder.path.name} takes {decoder.n_embd}: they belong to different models'
            )
        self._embeddings = EmbeddingCache(encoder, embedding_cache_size)

    @classmethod
    def open(
        cls,
        llm: str | Path,
        encoder: str | Path | None = None,
        *,
        model_type: int = 0,
        config: DecoderConfig = DecoderConfig(),
        encoder_config: EncoderConfig = EncoderConfig(),
        resize_mode: ResizeMode = 'letterbox',
        embedding_cache_size: int = 4,
        frame_reuse_threshold: float = 0.0,
    ) -> Engine:
        """Load the models and make an engine; on failure nothing stays loaded.

        Args:
            llm: the decoder's GGUF file.
            encoder: the vision encoder's file, or None for text chat.
        """
        decoder, vision = Decoder(llm, config), None
        try:
            if encoder is not None:
                # The wrong vocabulary is found before an encoder is loaded, which may take long.
                vlm_format(model_type, decoder)
                n_threads = encoder_config.n_threads or decoder.n_threads
                encoder_config = replace(encoder_config, n_threads=n_threads)
                vision = open_encoder(encoder, model_type, encoder_config)
            return cls(
                decoder,
                vision,
                model_type,
                resize_mode,
                embedding_cache_size,
                frame_reuse_threshold,
            )
        except BaseException:
            decoder.close()
            if vision is not None:
                vision.close()
            raise

    def picture(self, bgr: npt.NDArray[np.uint8]) -> Picture:
        """Fit a BGR picture [h, w, 3] to the encoder and give it an identity.

        With a `frame_reuse_threshold` that is the last picture's, if the two hardly differ.
        """
        if self.encoder is None:
            raise PromptError('a text chat takes no pictures')
        if not isinstance(bgr, np.ndarray) or bgr.ndim != 3 or bgr.shape[2] != 3:
            raise ImageError(
                'that is no BGR picture [h, w, 3]; cv2.imread gives None for what it cannot read'
            )
        pixels = fit(bgr, self.encoder.input_size, self._resize_mode)
        if pixels is bgr:
            pixels = bgr.copy()  # the caller may draw the next frame into the same array
        with self._picture_lock:
            last = self._last_picture
            if last is None or not last.resembles(pixels, self._frame_reuse_threshold):
                last = self._last_picture = Picture.of(pixels)
            return last

    def encode_ahead(self, picture: Picture) -> Future[Embeddings]:
        """Begin to encode a picture that a later request will be about, whatever runs now."""
        if self._embeddings is None:
            raise PromptError('a text chat takes no pictures')
        return self._embeddings.start(picture)

    def generate(self, request: Request, cancel: CancelToken | None = None) -> Answer:
        """Answer the last turn of a request.

        Work begins with the iteration over the answer. A cancelled answer ends early and keeps
        what was said; whatever happens, the next request finds a consistent engine.

        Raises:
            PromptError: the request does not fit the context, even without earlier turns.
            InferenceError: while iterating, the encoder or the decoder failed.
        """
        self._check_open()
        turns, elements = self._fit_context(request)
        answer = Answer(turns=turns)
        answer.pieces = self._run(request, elements, answer, cancel or CancelToken())
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
        *earlier, last = request.turns
        probe = replace(request, turns=(*earlier, replace(last, question='0')))
        (*earlier, last), elements = self._fit_context(probe)
        turns = (*earlier, replace(last, question='问'))
        other = self._elements(request.system, turns, request.thinking)
        shared = elements[: common_prefix(elements, other)]
        if self._cached[: len(shared)] != shared:
            self.decoder.cancel_on(cancel)
            self._prefill(shared, stats, cancel, logits=False)
        return stats

    def reset(self) -> None:
        """Empty the KV cache, which ends an answer that is being given; embeddings stay."""
        self._check_open()
        self._running = None
        self._trim(0)

    def close(self) -> None:
        """Free the models, which ends an answer that is being given; again does no harm."""
        self._closed, self._running = True, None
        if self._sampler is not None:
            self._sampler.close()
            self._sampler = None
        self.decoder.close()
        if self._embeddings is not None:
            self._embeddings.close()

    def _check_open(self) -> None:
        if self._closed:  # llama.cpp would end the process
            raise InferenceError('the engine is closed; iterate over an answer before that')

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- one request -----------------------------------------------------------------------------

    def _run(
        self, request: Request, elements: list[Element], answer: Answer, cancel: CancelToken
    ) -> Iterator[str]:
        self._check_open()
        started = time.perf_counter()
        decoder, stats = self.decoder, answer.stats
        splitter: ThoughtSplitter | None = None
        decoder.cancel_on(cancel)
        try:
            # 1. Keep what the KV cache holds already, decode the rest.
            self._prefill(elements, stats, cancel)
            self._thought_utf8.reset()
            # 2. Sample until the model, the limits or the user end the answer.
            is_constrained = bool(request.sampling.grammar)
            # A replacement character would not be what the grammar has allowed.
            on_error = 'strict' if is_constrained else 'replace'
            utf8 = codecs.getincrementaldecoder('utf-8')(on_error)
            guard = NoGuard() if is_constrained else RepetitionGuard()
            shown_tokens = 0
            splitter = self._splitter(request, answer.turns)
            decode_started = time.perf_counter()
            for n_tokens, token in enumerate(self._sample(request, stats, splitter), 1):
                if n_tokens == 1:
                    stats.first_token_s = time.perf_counter() - started
                if decoder.is_end(token):
                    answer.finish = 'stop'
                    break
                if splitter is None:
                    text = decoder.piece(token)
                    answer.tokens.append(token)
                else:
                    text = self._split(splitter, token, answer)
                    if splitter.is_over:
                        answer.tokens += splitter.tokens
                        stats.thinking -= len(splitter.tokens)
                        splitter = None
                piece = guard.feed(utf8.decode(text))
                if piece:
                    shown_tokens = len(answer.tokens)
                    answer.text += piece
                    yield piece
                if guard.repeated:
                    answer.finish = 'repetition'
                    break
                if n_tokens >= request.max_tokens:
                    answer.finish = 'length'
                    break
            else:
                answer.finish = 'context'
        except CancelledError:
            answer.finish = 'cancelled'
            answer.is_thinking = splitter is not None and splitter.in_thought
        except UnicodeDecodeError:
            raise InferenceError('the model gave bytes that are no UTF-8 text') from None
        else:
            stats.decode_s = time.perf_counter() - decode_started
            if splitter is not None:  # the answer ended in a thought, or in what may be a marker
                thought, text = splitter.finish()
                self._think(thought, answer)
                answer.is_thinking = splitter.in_thought
                answer.tokens += splitter.tokens if text else []
                piece = guard.feed(utf8.decode(text))
                if piece:
                    answer.text += piece
                    yield piece
            if piece := guard.finish():
                shown_tokens = len(answer.tokens)
                answer.text += piece
                yield piece
            if guard.repeated:
                answer.finish = 'repetition'
                # The model shall not read its own repetition in the next turn.
                del answer.tokens[shown_tokens:]

    def _splitter(self, request: Request, turns: tuple[Turn, ...]) -> ThoughtSplitter | None:
        """Return what parts thought and answer; None for a model that does not think."""
        markers = self._format.thoughts
        if markers is None:
            return None
        prompt = self._format.render(request.system, turns, request.thinking)
        in_thought = prompt[-1:] == [InThought()]
        return ThoughtSplitter(markers, self.decoder.piece, self.decoder.special_piece, in_thought)

    def _split(self, splitter: ThoughtSplitter, token: int, answer: Answer) -> bytes:
        """Tell a token's part of the thought; return its part of the answer."""
        answer.stats.thinking += 1
        thought, text = splitter.feed(token)
        self._think(thought, answer)
        return text

    def _think(self, thought: bytes, answer: Answer) -> None:
        piece = self._thought_utf8.decode(thought)
        if piece:
            answer.thoughts += piece
            if answer.on_thought is not None:
                answer.on_thought(piece)

    def _prefill(
        self, elements: list[Element], stats: Stats, cancel: CancelToken, *, logits: bool = True
    ) -> None:
        """Bring the KV cache to hold these elements; if this raises, it holds some of them."""
        self._running = stats
        keep = common_prefix(self._cached, elements)
        self._trim(keep)
        rest = elements[len(self._cached) :]
        stats.reused = count_positions(self._cached)
        self._drafter.begin(element_ids(self._cached[-CONTEXT:]), element_ids(rest))
        started = time.perf_counter()
        # The encoder works while what stands before its picture is decoded.
        images = {
            element.key: self.encode_ahead(element.picture)
            for element in rest
            if isinstance(element, ImageSpan)
        }
        groups = list(grouped(rest))
        for group in groups:
            self.decoder.prefill(
                self._wait_for(images[group.key], stats, cancel)
                if isinstance(group, ImageSpan)
                else group,
                logits=logits and group is groups[-1],
            )
            self._cached += [group] if isinstance(group, ImageSpan) else group
        stats.prefill_s = time.perf_counter() - started - stats.encode_s
        stats.prefilled = count_positions(rest)

    def _wait_for(
        self, image: Future[Embeddings], stats: Stats, cancel: CancelToken
    ) -> Embeddings:
        started = time.perf_counter()
        while not image.done():
            if cancel.is_set():  # the encoder goes on: what it gives is not lost
                raise CancelledError('the request was cancelled')
            wait((image,), _CANCEL_POLL)
        stats.encode_s += time.perf_counter() - started
        return image.result()

    def _sample(
        self, request: Request, stats: Stats, splitter: ThoughtSplitter | None
    ) -> Iterator[int]:
        """Sample token after token; each is decoded when the next is asked for.

        Drafted tokens are decoded in one batch with the token that they follow, and then sampled
        like all others: the draft only decides how many come from one batch. The iteration ends
        where the context is full.
        """
        decoder, drafter = self.decoder, self._drafter
        sampler = self._sampler_for(request.sampling)
        speculative = request.speculative and decoder.can_trim
        opening = None
        if splitter is not None and self._format.thoughts is not None:
            opening = decoder.special_id(self._format.thoughts.opens[0])
        draft: list[int] = []
        row = -1  # of the last decode's logits, which is how much of the draft was accepted
        while True:
            if splitter is None or splitter.is_over:
                token = sampler.sample(row)
            elif splitter.in_thought:
                token = sampler.sample_free(row)
            else:  # what the answer has to follow may come after a thought
                token = sampler.sample_unless(opening, row)
            yield token
            if self._running is not stats:
                self._check_open()
                raise InferenceError('another request has begun, or the engine was reset')
            drafter.append(token)
            if 0 <= row < len(draft) and draft[row] == token:
                row += 1
                drafter.accept()
                stats.accepted += 1
            else:
                if draft:
                    decoder.trim(decoder.n_past - (len(draft) - row))
                room = decoder.n_ctx - decoder.n_past
                if not room:
                    return
                if speculative:
                    draft = drafter.draft(min(room - 1, request.max_tokens - stats.decoded - 2))
                started = time.perf_counter()
                decoder.decode(token, draft)
                drafter.account(time.perf_counter() - started, len(draft))
                stats.drafted += len(draft)
                row = 0
            self._cached.append(token)
            stats.decoded += 1

    def _trim(self, n_elements: int) -> None:
        """Keep the first elements in the KV cache, or none where the model cannot drop a tail."""
        del self._cached[n_elements:]
        self.decoder.trim(count_positions(self._cached))
        if self.decoder.n_past == 0:
            self._cached.clear()

    def _sampler_for(self, config: SamplingConfig) -> Sampler:
        if self._sampler is None or self._sampler.config != config:
            if self._sampler is not None:
                self._sampler.close()
                self._sampler = None
            self._sampler = self.decoder.sampler(config)
        self._sampler.reset()
        return self._sampler

    # -- prompt ----------------------------------------------------------------------------------

    def _fit_context(self, request: Request) -> tuple[tuple[Turn, ...], list[Element]]:
        """Render a request, without its oldest turns where the answer would have no room.

        Then so many go that half of the context is free: with one at a time the prompt would
        begin otherwise at every turn, and nothing in the KV cache could be reused.
        """
        turns, n_ctx = request.turns, self.decoder.n_ctx
        limit = n_ctx - min(request.max_tokens, n_ctx // 4)
        while True:
            elements = self._elements(request.system, turns, request.thinking)
            n = count_positions(elements)
            if n <= limit or len(turns) == 1:
                break
            turns, limit = without_oldest(turns), n_ctx // 2
        if n >= n_ctx:
            raise PromptError(
                f'the prompt takes {n} positions, the context has {n_ctx}:'
                ' shorten it or raise n_ctx'
            )
        return turns, elements

    def _elements(
        self, system: str, turns: Sequence[Turn], thinking: Thinking = 'auto'
    ) -> list[Element]:
        elements: list[Element] = []
        for part in self._format.render(system, turns, thinking):
            if isinstance(part, Special):
                token = self.decoder.special_id(part.text)
                elements += self.decoder.tokenize(part.text) if token is None else [token]
            elif isinstance(part, Text):
                elements += self.decoder.tokenize(part.text)
            elif isinstance(part, Image):
                assert self.encoder is not None
                span = ImageSpan(part.picture.key, self.encoder.n_tokens, part.picture)
                elements.append(span)
            elif not isinstance(part, InThought):
                elements += part.ids
        bos = self.decoder.bos_id
        if bos is not None and elements[:1] != [bos]:
            elements.insert(0, bos)
        return elements


def without_oldest(turns: tuple[Turn, ...]) -> tuple[Turn, ...]:
    """Drop the oldest of several turns; the newest picture stays: it moves to the next turn."""
    oldest, following, *rest = turns
    if oldest.image is not None and all(turn.image is None for turn in turns[1:]):
        following = replace(following, image=oldest.image)
    return (following, *rest)
