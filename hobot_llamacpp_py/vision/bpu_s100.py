"""Vision encoder on the BPU of an RDK S100, through the binding `hbm_runtime`.

The binding checks what it is fed. But a failing inference is no exception: it ends the process,
with the reason on stderr.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hobot_llamacpp_py.config import EncoderConfig
from hobot_llamacpp_py.errors import InferenceError, ModelFileError
from hobot_llamacpp_py.families import ModelFamily
from hobot_llamacpp_py.health.boards import S100
from hobot_llamacpp_py.vision.bpu import cause, inference_error, load_binding, load_error
from hobot_llamacpp_py.vision.preprocess import normalise
from hobot_llamacpp_py.vision.tensors import (
    Quantisation,
    as_embeddings,
    input_spec,
    rgb_pixels,
)

__all__ = ['BpuS100Encoder', 'import_binding']

_INPUTS = {'F32': np.float32, 'F16': np.float16, 'S8': np.int8, 'S16': np.int16, 'U8': np.uint8}
_FLOATS = ('F32', 'F16')
_OUTPUTS = (*_FLOATS, 'S8', 'U8', 'S16', 'U16', 'S32', 'U32')


class BpuS100Encoder:
    """A `VisionEncoder` from an `.hbm` model with one picture as input, its tokens as output.

    Args:
        path: the model file.
        family: decides the normalisation of the pixels.
        config: its `bpu_core` is 0: any; 1 to 4: that BPU core.

    Raises:
        ModelFileError: binding, file or model cannot be used: which, why, and what to do.
        InferenceError: the first inference failed.
    """

    def __init__(
        self, path: Path, family: ModelFamily, config: EncoderConfig = EncoderConfig()
    ) -> None:
        self._path = path
        binding = load_binding(S100, self._path, import_binding)
        if self._path.suffix != '.hbm':
            raise ModelFileError(
                f'{path}: the BPU library loads files with the suffix .hbm only: rename it'
            )
        try:
            self._runtime: Any = binding.HB_HBMRuntime(str(path))
        except Exception as error:
            raise load_error(S100, self._path, error) from None
        self._scaled = binding.hbDNNQuantiType.SCALE
        self._model = self._only(self._runtime.model_names, 'model')
        self._read_input(family)
        self._read_output()
        self._given = f'bpu_core {config.bpu_core}, bpu_priority {config.bpu_priority}'
        self._schedule(config.bpu_core, config.bpu_priority)
        self.input_size = (self._spec.width, self._spec.height)
        self.n_tokens, self.n_embd = self.encode(np.zeros((1, 1, 3), np.uint8)).shape

    def encode(self, fitted: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Return the embeddings of a fitted picture; the GIL may be held meanwhile."""
        feed = {self._model: {self._input: self._make_input(fitted)}}
        try:
            output = self._runtime.run(feed)[self._model][self._output]
        except Exception as error:
            raise inference_error(self._path, error, self._given) from None
        if output.shape != self._output_shape:
            raise InferenceError(
                f'{self._path}: the output has shape {list(output.shape)};'
                f' expected {list(self._output_shape)}'
            )
        if self._output_scale is not None:
            output = self._output_scale.dequantise(output)
        # Floats without padding are handed on as they lie there: the array owns that memory.
        return as_embeddings(output, self._path)

    def close(self) -> None:
        """Free the model; closing again does no harm."""
        self._runtime = None

    def _schedule(self, core: int, priority: int) -> None:
        # Theirs count from 0, and none given means any.
        cores = {'bpu_cores': {self._model: [core - 1]}} if core else {}
        try:
            self._runtime.set_scheduling_params(priority={self._model: priority}, **cores)
        except Exception as error:
            raise ModelFileError(
                f'{self._path}: the BPU library refuses {self._given}: {cause(error)} (an S100 has'
                ' the cores 1 to 4, which it counts from 0)'
            ) from None

    # -- what the runtime says of the model ------------------------------------------------------

    def _read_input(self, family: ModelFamily) -> None:
        self._input = self._only(self._runtime.input_names[self._model], 'input')
        shape, kind, self._input_scale = self._properties('input', self._input)
        self._spec = input_spec(shape, family, self._path)
        if kind not in _INPUTS or (kind in ('S8', 'S16') and self._input_scale is None):
            raise ModelFileError(
                f'{self._path}: the input {self._input} has type {kind}; expected F32, F16, U8'
                ' pixels, or S8 or S16 with a scale'
            )
        self._input_type = np.dtype(_INPUTS[kind])

    def _make_input(self, fitted: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
        if self._input_type == np.uint8 and self._input_scale is None:
            return rgb_pixels(fitted, self._spec)
        values = normalise(fitted, self._spec)
        if self._input_scale is not None:
            return self._input_scale.quantise(values, self._input_type)
        return values.astype(self._input_type, copy=False)

    def _read_output(self) -> None:
        self._output = self._only(self._runtime.output_names[self._model], 'output')
        shape, kind, self._output_scale = self._properties('output', self._output)
        self._output_shape = tuple(shape)
        if kind not in _OUTPUTS or (kind not in _FLOATS and self._output_scale is None):
            raise ModelFileError(
                f'{self._path}: the output {self._output} has type {kind} without a scale;'
                ' expected F32 or F16, or integers with a scale'
            )

    def _only(self, names: list[str], what: str) -> str:
        if len(names) != 1:
            raise ModelFileError(
                f'{self._path}: expected one {what}, found {", ".join(names) or "none"}'
            )
        return names[0]

    def _properties(self, side: str, name: str) -> tuple[list[int], str, Quantisation | None]:
        """Return a tensor's shape, its type, and the scale of its integers if they have one."""
        shape, dtype, quant = (
            getattr(self._runtime, f'{side}_{what}')[self._model][name]
            for what in ('shapes', 'dtypes', 'quants')
        )
        kind, scale = str(dtype.name), np.asarray(quant.scale).ravel()
        is_scaled = quant.quant_type == self._scaled and scale.size
        if kind in _FLOATS or not is_scaled:
            return shape, kind, None
        zero_point, axis = np.asarray(quant.zero_point).ravel(), int(quant.axis)
        if not zero_point.size:
            zero_point = np.zeros(1, np.float32)
        if axis >= len(shape) or not {scale.size, zero_point.size} <= {1, shape[axis]}:
            raise ModelFileError(
                f'{self._path}: the {side} {name} has shape {list(shape)}, but {scale.size} scales'
                f' and {zero_point.size} zero points along axis {axis}'
            )
        return shape, kind, Quantisation(scale, zero_point, axis)


def import_binding() -> Any:
    """Return the binding.

    Raises:
        Exception: of any kind: it cannot be imported, and why.
    """
    import hbm_runtime

    return hbm_runtime
