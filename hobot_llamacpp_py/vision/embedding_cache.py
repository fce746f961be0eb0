"""Image embeddings: computed on a thread of their own, and kept for the last few pictures."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from hobot_llamacpp_py.errors import InferenceError
from hobot_llamacpp_py.vision.encoder import CpuEncoder, VisionEncoder
from hobot_llamacpp_py.vision.picture import Picture

__all__ = ['Embeddings', 'EmbeddingCache']

_ROOM = 16 << 20  # bytes: a thread's stack and more; no memory is touched
Embeddings = npt.NDArray[np.float32]


class EmbeddingCache:
    """Encodes pictures one after another while its callers do something else. Thread-safe.

    Args:
        encoder: the vision encoder; the cache closes it.
        size: pictures whose embeddings are kept.
        threads: tells how many threads the encoder may compute with at the moment; None: it keeps
            the number that it was opened with.
    """

    def __init__(
        self, encoder: VisionEncoder, size: int, threads: Callable[[], int] | None = None
    ) -> None:
        self._encoder, self._size, self._threads = encoder, size, threads
        self._lock = threading.Lock()
        self._futures: OrderedDict[str, Future[Embeddings]] = OrderedDict()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix='encoder')
        # Python waits for ever for a thread that has not the memory to begin: raise instead.
        np.empty(_ROOM, np.uint8)
        self._executor.submit(int)  # has the thread made now: later there may be no memory for it

    def start(self, picture: Picture) -> Future[Embeddings]:
        """Begin to encode a picture, unless its embeddings are there or under way.

        Returns:
            the embeddings to come, float32 [n_tokens, n_embd], or the encoder's error.
        """
        with self._lock:
            future = self._futures.get(picture.key)
            if future is None or (future.done() and future.exception()):
                future = self._executor.submit(self._encode, picture)
                self._futures[picture.key] = future
            self._futures.move_to_end(picture.key)
            while len(self._futures) > self._size:
                self._futures.popitem(last=False)
            return future

    def _encode(self, picture: Picture) -> Embeddings:
        if self._threads is not None and isinstance(self._encoder, CpuEncoder):
            self._encoder.use_threads(self._threads())
        embeddings = self._encoder.encode(picture.pixels)
        expected = (self._encoder.n_tokens, self._encoder.n_embd)
        if embeddings.shape != expected:
            raise InferenceError(
                f'the encoder gave embeddings of shape {embeddings.shape}; expected {expected}'
            )
        if not np.isfinite(embeddings).all():
            # In the KV cache they would spoil all that comes after, even when dropped again; and
            # here they would stay for as long as the picture is asked about.
            raise InferenceError('the encoder gave image embeddings that are no numbers')
        return embeddings

    def close(self) -> None:
        """Free the encoder, also while it is at a picture; closing again does no harm."""
        self._encoder.close()  # which ends what it is at
        self._executor.shutdown(wait=True, cancel_futures=True)
