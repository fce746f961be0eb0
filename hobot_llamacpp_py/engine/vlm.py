"""What answers: an engine on this machine, or a server somewhere else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from hobot_llamacpp_py.config import ChatConfig
from hobot_llamacpp_py.engine.cancel import CancelToken
from hobot_llamacpp_py.engine.request import Answer, Inquiry, Request, Stats, Verdict
from hobot_llamacpp_py.vision.picture import Picture

__all__ = ['Vlm']


class Vlm(Protocol):
    """Answers conversations about pictures; used by one thread, but where it says otherwise."""

    def picture(self, bgr: npt.NDArray[np.uint8]) -> Picture:
        """Fit a BGR picture [h, w, 3] and give it an identity. From any thread."""

    def encode_ahead(self, picture: Picture) -> Future[Any]:
        """Begin with a picture that a later request will be about. From any thread."""

    def generate(self, request: Request, cancel: CancelToken | None = None) -> Answer:
        """Answer the last turn of a request; work begins with the iteration over the answer."""

    def prepare(self, request: Request, cancel: CancelToken | None = None) -> Stats:
        """Do the work of a request that does not hang on its last question."""

    def judge(
        self,
        picture: Picture,
        inquiries: Sequence[Inquiry],
        config: ChatConfig = ChatConfig(),
        cancel: CancelToken | None = None,
    ) -> Iterator[Verdict]:
        """Ask many questions about one picture, each by itself; yield the verdicts."""

    def tokenize(self, text: str) -> list[int]:
        """Return a text as the tokens of a turn's answer."""

    def figures(self) -> Mapping[str, object]:
        """Return what there is to tell of this moment, by name. From any thread."""

    def close(self) -> None:
        """Free what it has; again does no harm."""

    def __enter__(self) -> Vlm:
        """Begin a block at whose end it is closed."""

    def __exit__(self, *_: object) -> None:
        """Close it."""
