"""Vision encoder on the BPU of an RDK X5, through the binding `pyeasy_dnn`.

The binding checks next to nothing: a float32 array is read as if each number were a byte, a wrong
size or type gives numbers from elsewhere. So everything is checked here, once, at the start: what
the model says of its tensors, that an input arrives as it was sent, and that a picture comes out
as finite numbers.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hobot_llamacpp_py.config import EncoderConfig
from hobot_llamacpp_py.errors import InferenceError, ModelFileError
from hobot_llamacpp_py.families import ModelFamily
from hobot_llamacpp_py.health.boards import X5
from hobot_llamacpp_py.vision.bpu import cause, inference_error, load_binding, load_error
from hobot_llamacpp_py.vision.preprocess import InputSpec, normalise
from hobot_llamacpp_py.vision.tensors import (
    Quantisation,
    as_embeddings,
    input_spec,
    nv12,
    rgb_pixels,
    text_of,
)

__all__ = ['BpuX5Encoder', 'import_binding']

Tensor = npt.NDArray[Any]

# How each kind of input is made from a fitted picture. (NV12 in two planes and float16 never
# arrive through the binding.)
_INPUTS: dict[str, Callable[[npt.NDArray[np.uint8], InputSpec], Tensor]] = {
    'float32': normalise,
    'uint8': rgb_pixels,
    'RGB': rgb_pixels,
    'BGR': lambda fitted, spec: rgb_pixels(fitted, spec, 'BGR'),
    'NV12': nv12,
}
# The only types that the binding hands out as what they are; the second column needs a scale.
_OUTPUTS = {'float32': False, 'int8': True, 'int16': True, 'int32': True}
# How an array is handed over: as bytes, for builds that take the number of elements for the number
# of bytes, or as it is.
_CONVENTIONS: tuple[Callable[[Tensor], Tensor], ...] = (
    lambda array: array.view(np.uint8),
    lambda array: array,
)


class BpuX5Encoder:
    """A `VisionEncoder` from a `.bin` model with one picture as input, its tokens as output.

    Args:
        path: the model file.
        family: decides the normalisation of a float32 input.
        config: its `bpu_core` is 0: any; 1, 2: that BPU core.

    Raises:
        ModelFileError: binding, file or model cannot be used: which, why, and what to do.
        InferenceError: the first inference failed.
    """

    def __init__(
        self, path: Path, family: ModelFamily, config: EncoderConfig = EncoderConfig()
    ) -> None:
        self._path = path
        self._arguments = {'core_id': config.bpu_core, 'priority': config.bpu_priority}
        self._model = self._load(load_binding(X5, self._path, import_binding))
        self._spec, self._make_input = self._check_input(family)
        self._dequantise = self._check_output()
        self._hand_over = self._find_convention()
        self.input_size = (self._spec.width, self._spec.height)
        self.n_tokens, self.n_embd = self.encode(np.zeros((1, 1, 3), np.uint8)).shape

    def encode(self, fitted: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Return the embeddings of a fitted picture; the GIL is held meanwhile."""
        pixels = self._make_input(fitted, self._spec)
        try:
            (output,) = self._forward(self._hand_over(pixels))
            values = output.buffer
        except Exception as error:
            raise self._inference_error(error) from None
        if values.size != np.prod(self._output_shape) or values.dtype != self._output_type:
            raise InferenceError(
                f'{self._path}: the output has {values.size} numbers of type {values.dtype};'
                f' expected {_shown(self._output_shape)} of type {self._output_type}'
            )
        return as_embeddings(self._dequantise(values.reshape(self._output_shape)), self._path)

    def close(self) -> None:
        """Let go of the model. The binding never frees one: only the process's end does."""
        self._model = None

    # -- what is checked at the start ------------------------------------------------------------

    def _load(self, binding: Any) -> Any:
        try:
            models = binding.load(str(self._path))
        except Exception as error:
            raise load_error(X5, self._path, error) from None
        if len(models) != 1:
            names = ', '.join(repr(model.name) for model in models)
            raise ModelFileError(
                f'{self._path}: expected one model in the file, found {names or 0}'
            )
        return models[0]

    def _check_input(self, family: ModelFamily) -> tuple[InputSpec, Callable[..., Tensor]]:
        inputs = self._model.inputs
        kinds = [_type(tensor) for tensor in inputs]
        if len(kinds) != 1 or kinds[0] not in _INPUTS:
            raise ModelFileError(
                f'{self._path}: expected one input, a picture of type {", ".join(_INPUTS)};'
                f' found {", ".join(kinds)}'
            )
        shape = [int(length) for length in inputs[0].properties.shape]
        spec = input_spec(shape, family, self._path)
        if kinds[0] == 'NV12' and (spec.width % 2 or spec.height % 2):
            raise ModelFileError(
                f'{self._path}: the NV12 input is {spec.width} x {spec.height};'
                ' width and height must be even'
            )
        return spec, _INPUTS[kinds[0]]

    def _check_output(self) -> Callable[[Tensor], Tensor]:
        """Check what the model says of its output; return how to make floats of it."""
        outputs = self._model.outputs
        if len(outputs) != 1:
            names = ', '.join(tensor.name for tensor in outputs)
            raise ModelFileError(f'{self._path}: expected one output, the tokens; found {names}')
        properties = outputs[0].properties
        shape = tuple(int(length) for length in properties.shape)
        self._output_shape, self._output_type = shape, _type(outputs[0])
        found = f'{self._path}: the output is {self._output_type} {_shown(shape)}'
        if self._output_type not in _OUTPUTS:
            raise ModelFileError(
                f'{found}, which the binding garbles; expected {", ".join(_OUTPUTS)}:'
                ' convert the model with a float32 output'
            )
        if len(shape) != 4:
            raise ModelFileError(
                f'{found}, which the binding garbles; expected four axes, 1 x tokens x width x 1:'
                ' convert the model with such an output'
            )
        aligned = _aligned_shape(properties)
        if aligned not in (None, shape):
            raise ModelFileError(
                f'{found}, but padded to {_shown(aligned or ())} in memory, which the binding'
                ' garbles: convert the model with a float32 output, or another width'
            )
        if not _OUTPUTS[self._output_type]:
            return lambda values: values
        scale = np.asarray(properties.scale_data, np.float32).ravel()
        axes = [axis for axis in range(4) if shape[axis] == scale.size]
        if scale.size == 1:
            axes = [0]
        elif len(axes) != 1:
            raise ModelFileError(
                f'{found} with {scale.size} scales; expected one, or one for each step of an axis'
            )
        return Quantisation(scale, axis=axes[0]).dequantise

    def _find_convention(self) -> Callable[[Tensor], Tensor]:
        """Find out how this build of the binding wants its input, by reading back what arrived."""
        failure: Exception | None = None
        rng = np.random.default_rng()  # other data each time: what arrived before must not count
        for convention in _CONVENTIONS:
            noise = rng.integers(0, 256, (self._spec.height, self._spec.width, 3), dtype=np.uint8)
            sent = self._make_input(noise, self._spec)
            if sent.ndim == 2:
                # NV12: bytes are bytes in either convention, and reading back would read as many
                # as RGB has, beyond the buffer's end.
                return convention
            error: Exception | None = None
            try:
                self._forward(convention(sent.copy()))  # a copy: the binding may change it
            except Exception as caught:
                error = failure = caught
            arrived = self._model.inputs[0].buffer
            if np.array_equal(arrived.view(np.uint8).ravel(), sent.view(np.uint8).ravel()):
                if error is not None:
                    raise self._inference_error(error)
                return convention
        if failure is not None:
            raise self._inference_error(failure)
        raise ModelFileError(
            f'{self._path}: the {_type(self._model.inputs[0])} input does not arrive on the BPU as'
            ' it was sent, however it is handed over: this build of hobot_dnn changes it (an RGB'
            ' input is clipped, for example); use a model with a float32 or NV12 input'
        )

    # -- inference -------------------------------------------------------------------------------

    def _forward(self, array: Tensor) -> Any:
        # The binding ignores strides.
        return self._model.forward(np.ascontiguousarray(array), **self._arguments)

    def _inference_error(self, error: Exception) -> InferenceError:
        given = ', '.join(f'{name} {value}' for name, value in self._arguments.items())
        return inference_error(self._path, error, given)


def import_binding() -> Any:
    """Return the binding: that of the system's image, else that of PyPI.

    Raises:
        ImportError: neither can be imported, and why.
    """
    try:
        from hobot_dnn import pyeasy_dnn

        return pyeasy_dnn
    except Exception as error:  # also a missing library, and what another numpy provokes
        problem = text_of(error)
    try:
        from hobot_dnn_rdkx5 import pyeasy_dnn
    except Exception as error:
        raise ImportError(f'{problem}; {text_of(error)}') from None
    return pyeasy_dnn


def _type(tensor: Any) -> str:
    """Return a tensor's type as the binding calls it: float32, NV12 ..."""
    try:
        return str(tensor.properties.tensor_type)
    except Exception as error:  # a type that the binding does not know
        return f'of unknown type ({cause(error)})'


def _aligned_shape(properties: Any) -> tuple[int, ...] | None:
    """Return the shape in memory, None where the build of the binding does not tell.

    Each reading leaks a few bytes in the binding: do it once.
    """
    aligned = getattr(properties, 'alignedShape', None)
    if isinstance(aligned, (tuple, list)):
        return tuple(int(length) for length in aligned)
    if not isinstance(aligned, int):
        return None
    # The address of eight lengths and their count.
    numbers = (ctypes.c_int32 * 9).from_address(aligned)
    return tuple(numbers[: numbers[8]])


def _shown(shape: tuple[int, ...]) -> str:
    return ' x '.join(str(length) for length in shape)
