"""llama.cpp's model and context: made as the settings say, or a reason why not."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Any

from hobot_llamacpp_py.config import DecoderConfig
from hobot_llamacpp_py.errors import ModelFileError
from hobot_llamacpp_py.llama_api import llama_cpp
from hobot_llamacpp_py.llama_end import end_with_a_line
from hobot_llamacpp_py.llama_log import Reason

__all__ = ['load_model', 'make_context', 'metadata', 'padded']

_FLASH_ATTN_TYPES = {
    'auto': llama_cpp.LLAMA_FLASH_ATTN_TYPE_AUTO,
    'on': llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED,
    'off': llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED,
}
_EPSILONS = ('layer_norm_epsilon', 'layer_norm_rms_epsilon')


def load_model(path: Path) -> Any:
    """Load a GGUF file.

    Raises:
        ModelFileError: llama.cpp cannot, with its reason.
    """
    end_with_a_line()
    params = llama_cpp.llama_model_default_params()
    with Reason() as reason:
        model = llama_cpp.llama_model_load_from_file(os.fsencode(path), params)
    if not model:
        raise ModelFileError(f'llama.cpp cannot load {path}: {reason}')
    architecture = metadata(model, 'general.architecture')
    for key in _EPSILONS:
        value = metadata(model, f'{architecture}.attention.{key}')
        # llama.cpp finds this out at the first token, and ends the process then.
        if value is not None and not 0 <= float(value) < 1:
            llama_cpp.llama_model_free(model)
            raise ModelFileError(f'{path} is damaged: {key} is {value}; download it again')
    return model


def make_context(
    model: Any, config: DecoderConfig, n_threads: int, n_sequences: int, n_extra: int
) -> Any:
    """Make a context, empty; None where llama.cpp cannot.

    Args:
        n_sequences: how many there may be.
        n_extra: positions that the others than the first one may take together.
    """
    params = llama_cpp.llama_context_default_params()
    # llama.cpp rounds n_ctx up like this, but not n_batch, and aborts when a batch is larger.
    n_ctx = padded(config.n_ctx)
    params.n_ctx = params.n_batch = n_ctx + n_extra
    params.n_ubatch = min(config.n_ubatch, n_ctx)
    params.n_seq_max = n_sequences
    params.kv_unified = True  # all in one buffer: what sequences have in common is there once
    params.n_threads = params.n_threads_batch = n_threads
    params.flash_attn_type = _FLASH_ATTN_TYPES[config.flash_attn]
    cache_type = getattr(llama_cpp, f'GGML_TYPE_{config.kv_cache_type.upper()}')
    params.type_k = params.type_v = cache_type
    params.no_perf = True
    params.swa_full = True  # else a tail could be dropped, but what it had pushed out is gone
    return llama_cpp.llama_init_from_model(model, params)


def metadata(model: Any, key: str) -> str | None:
    """Return a value of the model's metadata, None for an array, or where there is none."""
    buffer = ctypes.create_string_buffer(64)
    n = llama_cpp.llama_model_meta_val_str(model, key.encode(), buffer, len(buffer))
    return buffer.value.decode('utf-8', 'replace') if n >= 0 else None


def padded(n_ctx: int) -> int:
    """Round positions up as llama.cpp does."""
    return -(-n_ctx // 256) * 256
