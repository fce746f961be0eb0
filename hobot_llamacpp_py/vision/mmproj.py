"""Vision encoder from an mmproj GGUF file, through llama.cpp's libmtmd.

libmtmd makes an image chunk of a picture (it normalises the picture, and might tile it), then
encodes the chunk. No more than that is used of it: the embeddings go into the decoder as those of
any other encoder do.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hobot_llamacpp_py.config import EncoderConfig
from hobot_llamacpp_py.errors import InferenceError, ModelFileError
from hobot_llamacpp_py.families import ModelFamily
from hobot_llamacpp_py.health.packages import INSTALL_LIBMTMD
from hobot_llamacpp_py.llama_api import llama_cpp
from hobot_llamacpp_py.llama_end import end_with_a_line
from hobot_llamacpp_py.llama_log import Reason, on_llama_log
from hobot_llamacpp_py.vision.mmproj_header import mmproj_sizes
from hobot_llamacpp_py.vision.tensors import as_embeddings

__all__ = ['MmprojEncoder']

_STRING, _ARRAY = 8, 9  # types of GGUF values


class MmprojEncoder:
    """A `VisionEncoder` from an mmproj file as llama.cpp's converter writes it.

    Args:
        path: the mmproj GGUF file.
        family: to be what the file's projector is for.

    Raises:
        ModelFileError: the file cannot be used, and why.
    """

    def __init__(
        self, path: Path, family: ModelFamily, config: EncoderConfig = EncoderConfig()
    ) -> None:
        self._context = self._vocabulary = None
        self._path = path
        size, self.n_tokens, self.n_embd = mmproj_sizes(path, family)
        self.input_size = (size, size)
        try:
            from llama_cpp import mtmd_cpp  # loads the shared library
        except (ImportError, OSError, RuntimeError, AttributeError) as error:
            raise ModelFileError(
                f'{path} needs libmtmd, which is missing from the installed llama-cpp-python'
                f' ({error}): {INSTALL_LIBMTMD}'
            ) from None
        self._mtmd: Any = mtmd_cpp
        self._mtmd.mtmd_log_set(on_llama_log, None)
        end_with_a_line()
        try:
            self._vocabulary = _load_vocabulary()
            self._load(config.n_threads or 1)
        except BaseException:
            self.close()
            raise

    def use_threads(self, n: int) -> None:
        """Compute with n threads from now on; libmtmd has to load the file again for that."""
        if n != self._n_threads:
            self._mtmd.mtmd_free(self._context)
            self._context = None
            self._load(n)

    def _load(self, n_threads: int) -> None:
        self._n_threads = n_threads
        params = self._mtmd.mtmd_context_params_default()
        params.n_threads = n_threads
        params.print_timings = params.warmup = False
        # SmolVLM2's preprocessing enlarges every picture to 2048 pixels and shrinks it again for
        # the overview. Below any limit, it takes the least that it can: one tile, as it is.
        params.image_max_tokens = 1
        with Reason() as reason:
            self._context = self._mtmd.mtmd_init_from_file(
                os.fsencode(self._path), self._vocabulary, params
            )
        if not self._context:
            raise ModelFileError(f'libmtmd cannot load {self._path}: {reason}')

    def encode(self, fitted: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Return the embeddings of a fitted picture; the GIL is free meanwhile."""
        width, height = self.input_size
        rgb = np.zeros((height, width, 3), np.uint8)
        rgb[: fitted.shape[0], : fitted.shape[1]] = fitted[:, :, ::-1]
        with Reason() as reason, self._image_chunk(rgb, reason) as chunk:
            if self._mtmd.mtmd_encode_chunk(self._context, chunk):
                raise InferenceError(f'{self._path}: libmtmd failed: {reason}')
            output = self._mtmd.mtmd_get_output_embd(self._context)
            embeddings = np.ctypeslib.as_array(output, (self.n_tokens, self.n_embd)).copy()
        return as_embeddings(embeddings, self._path)

    @contextmanager
    def _image_chunk(self, rgb: npt.NDArray[np.uint8], reason: Reason) -> Iterator[Any]:
        """Give libmtmd's chunk of a picture of exactly the input size."""
        mtmd, marker = self._mtmd, self._mtmd.mtmd_default_marker()
        text = mtmd.mtmd_input_text(text=marker, text_len=len(marker))
        pixels = rgb.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
        bitmap = mtmd.mtmd_bitmap_init(*self.input_size, pixels)
        bitmaps = (mtmd.mtmd_bitmap_p_ctypes * 1)(bitmap)
        chunks = mtmd.mtmd_input_chunks_init()
        try:
            if mtmd.mtmd_tokenize(self._context, chunks, ctypes.byref(text), bitmaps, 1):
                raise InferenceError(f'{self._path}: libmtmd failed: {reason}')
            for i in range(mtmd.mtmd_input_chunks_size(chunks)):
                chunk = mtmd.mtmd_input_chunks_get(chunks, i)
                if mtmd.mtmd_input_chunk_get_type(chunk) == mtmd.MTMD_INPUT_CHUNK_TYPE_IMAGE:
                    break  # the overview; SmolVLM2's one tile, the same again, comes after it
            n_tokens = mtmd.mtmd_input_chunk_get_n_tokens(chunk)
            if n_tokens != self.n_tokens:
                raise InferenceError(
                    f'{self._path}: libmtmd makes {n_tokens} image tokens; {self.n_tokens}'
                    ' were expected'
                )
            yield chunk
        finally:
            mtmd.mtmd_input_chunks_free(chunks)
            mtmd.mtmd_bitmap_free(bitmap)

    def close(self) -> None:
        """Free the model; closing again does no harm."""
        if self._context:
            self._mtmd.mtmd_free(self._context)
            self._context = None
        if self._vocabulary:
            llama_cpp.llama_model_free(self._vocabulary)
            self._vocabulary = None


def _load_vocabulary() -> Any:
    """Load a text model that is nothing but a vocabulary of one token.

    libmtmd makes image chunks only together with the text around them, which is tokenised by a
    text model. That text is of no use here: without the decoder's vocabulary, the encoder can run
    in a process that knows nothing of the decoder.
    """
    values = (
        _entry('general.architecture', _STRING, _string('llama')),
        _entry('tokenizer.ggml.model', _STRING, _string('gpt2')),
        _entry('tokenizer.ggml.tokens', _ARRAY, struct.pack('<IQ', _STRING, 1) + _string('x')),
        _entry('tokenizer.ggml.merges', _ARRAY, struct.pack('<IQ', _STRING, 0)),
    )
    params = llama_cpp.llama_model_default_params()
    params.vocab_only = True
    llama_cpp.llama_log_set(on_llama_log, ctypes.c_void_p())
    descriptor = os.memfd_create('vocabulary')
    try:
        with open(descriptor, 'wb', closefd=False) as file:
            file.write(struct.pack('<4sIQQ', b'GGUF', 3, 0, len(values)) + b''.join(values))
        llama_cpp.llama_backend_init()
        with Reason() as reason:
            model = llama_cpp.llama_model_load_from_file(b'/proc/self/fd/%d' % descriptor, params)
    finally:
        os.close(descriptor)
    if not model:
        raise InferenceError(f'llama.cpp cannot make a vocabulary: {reason}')
    return model


def _entry(key: str, kind: int, value: bytes) -> bytes:
    return _string(key) + struct.pack('<I', kind) + value


def _string(text: str) -> bytes:
    return struct.pack('<Q', len(text)) + text.encode()
