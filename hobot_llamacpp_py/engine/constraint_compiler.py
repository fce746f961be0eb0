"""Compiles constraints for one vocabulary, in the background, and keeps them.

llguidance is neither loaded nor given the vocabulary before the first constraint is asked for.
"""

from __future__ import annotations

import ctypes
import threading
from collections import OrderedDict
from concurrent.futures import Future
from typing import Any

from hobot_llamacpp_py.config import Constraint
from hobot_llamacpp_py.engine.constraints import check, llguidance_form
from hobot_llamacpp_py.engine.vocabulary import end_tokens
from hobot_llamacpp_py.errors import ConstraintError
from hobot_llamacpp_py.llama_api import llama_cpp

__all__ = ['ConstraintCompiler']

_KEPT = 8  # compiled constraints
_STACK = 16 << 20  # of the thread that compiles; a trial has less
_SPECIAL = (
    llama_cpp.LLAMA_TOKEN_ATTR_CONTROL
    | llama_cpp.LLAMA_TOKEN_ATTR_UNKNOWN
    | llama_cpp.LLAMA_TOKEN_ATTR_UNUSED
)
_START_STACK = threading.Lock()


class ConstraintCompiler:
    """Compiles constraints for one vocabulary in the background, and keeps them.

    Args:
        vocab: llama.cpp's vocabulary. It must outlive the compiler, which `close` ends.
    """

    def __init__(self, vocab: Any) -> None:
        self._vocab = vocab
        self._lock = threading.Lock()
        self._tokenizer_lock = threading.Lock()
        self._tokenizer: Any = None
        self._compiled: OrderedDict[Constraint, Future[Any]] = OrderedDict()
        self._threads: list[threading.Thread] = []
        self.n_vocab: int = llama_cpp.llama_vocab_n_tokens(vocab)
        self.ends: list[int] = []
        """The tokens that end an answer; known when the first constraint is compiled."""
        self.is_closed = False

    def start(self, constraint: Constraint) -> Future[Any]:
        """Begin to compile a constraint, if that has not begun yet; from any thread.

        The future's result is what a `Matcher` takes, its error the ConstraintError of `check`.
        """
        with self._lock:
            if self.is_closed:
                raise ConstraintError('the model is closed')
            future = self._compiled.get(constraint)
            if future is None or (future.done() and future.exception() is not None):
                future = self._compiled[constraint] = Future()
                while len(self._compiled) > _KEPT:
                    self._compiled.popitem(last=False)
                self._threads = [thread for thread in self._threads if thread.is_alive()]
                arguments = (constraint, future)
                thread = threading.Thread(target=self._work, args=arguments, name='constraint')
                with _START_STACK:  # threads that others start just now get the larger stack too
                    size = threading.stack_size(_STACK)
                    try:
                        thread.start()
                    finally:
                        threading.stack_size(size)
                self._threads.append(thread)
            self._compiled.move_to_end(constraint)
            return future

    def forget(self, compiled: Any) -> None:
        """Compile a constraint anew when it is asked for next: its matcher has failed."""
        with self._lock:
            for constraint, future in list(self._compiled.items()):
                if future.done() and not future.exception() and future.result() is compiled:
                    del self._compiled[constraint]

    def close(self) -> None:
        """End what runs in the background; the vocabulary may be freed then. Again is no harm."""
        with self._lock:
            self.is_closed = True
            self._compiled.clear()
        for thread in self._threads:
            thread.join()

    def _work(self, constraint: Constraint, future: Future[Any]) -> None:
        try:
            check(constraint)
            future.set_result(self._compile(constraint))
        except ConstraintError as error:
            future.set_exception(error)
        except BaseException as error:  # a panic in Rust is one
            line = str(error).partition('\n')[0]
            future.set_exception(ConstraintError(f'{constraint.kind}: llguidance fails: {line}'))

    def _compile(self, constraint: Constraint) -> Any:
        import llguidance

        from hobot_llamacpp_py.engine.constraint_trial import limits, without_noise

        with self._tokenizer_lock:
            if self._tokenizer is None:
                self._tokenizer = self._make_tokenizer()
        matcher = llguidance.LLMatcher(
            self._tokenizer, llguidance_form(constraint), log_level=0, limits=limits()
        )
        matcher.compute_bitmask()  # also makes the first states of the lexer, which copies share
        if matcher.is_error():
            reason = without_noise(matcher.get_error())
            raise ConstraintError(f'{constraint.kind}: {reason}')
        return matcher

    def _make_tokenizer(self) -> Any:
        """Make llguidance's view of the vocabulary, which takes 1 s for 150,000 tokens.

        One more token stands for all that end an answer. Special tokens have no text, so that
        no answer can hold them; those that users have defined are text as any other.
        """
        import llguidance

        texts: list[bytes] = []
        buffer = ctypes.create_string_buffer(1 << 14)
        self.ends = end_tokens(self._vocab)
        for token in range(self.n_vocab):
            if self.is_closed:
                raise ConstraintError('the model is closed')
            attributes = llama_cpp.llama_vocab_get_attr(self._vocab, token)
            if token in self.ends or attributes & _SPECIAL:
                texts.append(b'\xff<%d>' % token)
                continue
            n = llama_cpp.llama_token_to_piece(self._vocab, token, buffer, len(buffer), 0, True)
            texts.append(ctypes.string_at(buffer, max(n, 0)))
        texts.append(b'\xff<end>')
        tokenize = llama_cpp._lib.llama_tokenize
        return llguidance.LLTokenizer.from_llamacpp(  # type: ignore[attr-defined]
            tokens=texts,
            vocab_ptr=ctypes.cast(self._vocab, ctypes.c_void_p).value,
            tokenize_fptr=ctypes.cast(tokenize, ctypes.c_void_p).value,
            eos_token=self.n_vocab,
            slices=None,
        )
