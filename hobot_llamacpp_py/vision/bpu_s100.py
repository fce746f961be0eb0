"""Vision encoder on the BPU of an RDK S100, through the binding `hbm_runtime`.

Run it in a process of its own (`encoder_process`): nothing shows that the binding lets go of the
GIL during inference.
"""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hobot_llamacpp_py.errors import InferenceError, ModelFileError
from hobot_llamacpp_py.vision.preprocess import normalise
from hobot_llamacpp_py.vision.tensors import (
    Quantisation,
    as_embeddings,
    input_spec,
    rgb_pixels,
    text_of,
)

__all__ = ['BpuS100Encoder']

_INPUTS = {'F32': np.float32, 'F16': np.float16, 'S8': np.int8, 'S16': np.int16, 'U8': np.uint8}
_FLOATS = ('F32', 'F16')
_OUTPUTS = (*_FLOATS, 'S8', 'U8', 'S16', 'U16', 'S32', 'U32')


class BpuS100Encoder:
    """A `VisionEncoder` from an `.hbm` model with one picture as input, its tokens as output.

    Args:
        path: the model file.
        model_type: 0 InternVL or 1 SmolVLM2: the normalisation of the pixels.
        core: 0: any; 1 to 4: that BPU core.
        priority: 0 to 255, the most urgent.

    Raises:
        ModelFileError: binding, file or model cannot be used: which, why, and what to do.
        InferenceError: the first inference failed.
    """

    def __init__(
        self, path: str | Path, model_type: int, core: int = 0, priority: int = 0
    ) -> None:
        self._path = Path(path)
        if not self._path.is_file():
            raise ModelFileError(f'{path}: no such file')
        self._binding = _import_binding(self._path)
        try:
            self._runtime = self._binding.HB_HBMRuntime(str(path))
        except Exception as error:
            raise ModelFileError(
                f'{path}: the BPU library cannot load it: {text_of(error)}; expected a whole .hbm'
                ' model for the RDK S100. Likely causes: a model for another board (an X5 takes'
                ' .bin), an incomplete download, or too little ION memory'
            ) from None
        self._model = self._only(self._runtime.model_names, 'model')
        self._read_input(model_type)
        self._read_output()
        # Theirs count from 0, and none given means any.
        cores = {'bpu_cores': {self._model: [core - 1]}} if core else {}
        self._scheduling: dict[str, Any] = {'priority': {self._model: priority}, **cores}
        self.input_size = (self._spec.width, self._spec.height)
        self.n_tokens, self.n_embd = self.encode(np.zeros((1, 1, 3), np.uint8)).shape

    def encode(self, fitted: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Return the embeddings of a fitted picture; the GIL may be held meanwhile."""
        feed = {self._model: {self._input: self._make_input(fitted)}}
        try:
            output = self._runtime.run(feed, **self._scheduling)[self._model][self._output]
        except Exception as error:
            raise InferenceError(
                f'{self._path}: inference on the BPU failed: {text_of(error)}'
                f' ({self._scheduling}). Likely causes: a bpu_core that the board lacks, too'
                " little ION memory; the library's own messages stand in the log"
            ) from None
        if output.shape != self._output_shape:
            raise InferenceError(
                f'{self._path}: the output has shape {list(output.shape)};'
                f' expected {list(self._output_shape)}'
            )
        if self._output_scale is None:
            # A copy: the array is a view of the device's memory.
            return as_embeddings(output.astype(np.float32), self._path)
        return as_embeddings(self._output_scale.dequantise(output), self._path)

    def close(self) -> None:
        """Free the model; closing again does no harm."""
        self._runtime = None

    # -- what the runtime says of the model ------------------------------------------------------

    def _read_input(self, model_type: int) -> None:
        self._input = self._only(self._runtime.input_names[self._model], 'input')
        shape, kind, self._input_scale = self._properties('input', self._input)
        self._spec = input_spec(shape, model_type, self._path)
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

    def _type(self, value: Any) -> str:
        """Return the name of a data type, S8 or F32 for example."""
        types = self._binding.hbDNNDataType
        for name in dict.fromkeys((*_INPUTS, *_OUTPUTS)):
            if getattr(types, name) == value:
                return name
        return str(value)

    def _properties(self, side: str, name: str) -> tuple[list[int], str, Quantisation | None]:
        """Return a tensor's shape, its type, and the scale of its integers if they have one."""
        shape, dtype, quant = (
            getattr(self._runtime, f'{side}_{what}')[self._model][name]
            for what in ('shapes', 'dtypes', 'quants')
        )
        kind, scale = self._type(dtype), np.asarray(quant.scale).ravel()
        is_scaled = quant.quant_type == self._binding.hbDNNQuantiType.SCALE and scale.size
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


def _import_binding(path: Path) -> Any:
    try:
        import hbm_runtime
    except Exception as error:  # without the board's libraries it raises RuntimeError
        machine = platform.machine()
        if machine != 'aarch64':
            advice = f'this machine ({machine}) is no RDK S100: use an .onnx encoder here'
        elif isinstance(error, ModuleNotFoundError):
            advice = 'pip3 install hbm-runtime, on an RDK S100'
        else:
            advice = "the BPU's libraries are missing: sudo apt install hobot-dnn, on an RDK S100"
        raise ModelFileError(
            f"{path} needs the BPU's Python binding hbm_runtime, which cannot be imported"
            f' ({text_of(error)}): {advice}'
        ) from None
    return hbm_runtime
