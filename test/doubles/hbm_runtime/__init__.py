"""A double of `hbm_runtime` 0.1.0: its documented interface, without an S100.

A "model" is a JSON file with the suffix .hbm: {"name": ..., "inputs": {NAME: TENSOR}, "outputs":
{NAME: TENSOR}}. A TENSOR has `shape`, `dtype` and, where it is quantised, `scale`, `zero_point`
and `axis`. What a model gives: number k (counted over the output's axes) is k + the mean of all
inputs' numbers; with `onnx`, the output of that ONNX file. And what goes wrong: `seconds` (a run
takes that long and holds the GIL), `crash`, `fail` (an error of this text), `nan`; with `while`, a
path, only while such a file exists. With `log`, a file, each run writes a line when it begins and
one when it ends.

The memory that an output's array shows is used again by the next run: the documentation promises
only that it lives as long as the array, so that a copy that was left out shows.
"""

from __future__ import annotations

import ctypes
import enum
import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ['HB_HBMRuntime', 'QuantParams', 'SchedParam', 'hbDNNDataType', 'hbDNNQuantiType']

hbDNNDataType = enum.Enum(  # noqa: N816
    'hbDNNDataType', 'S4 U4 S8 U8 F16 S16 U16 F32 S32 U32 F64 S64 U64 BOOL8 MAX'
)
hbDNNQuantiType = enum.Enum('hbDNNQuantiType', 'NONE SCALE')  # noqa: N816
_NUMPY = dict(S8='i1', U8='u1', F16='f2', S16='i2', U16='u2', F32='f4', S32='i4', U32='u4')
_NUMPY |= dict(F64='f8', S64='i8', U64='u8', BOOL8='?')


class QuantParams:
    """How a tensor is quantised."""

    def __init__(self, tensor: dict[str, Any]) -> None:
        is_scaled = 'scale' in tensor
        self.quant_type = hbDNNQuantiType.SCALE if is_scaled else hbDNNQuantiType.NONE
        self.axis: int = tensor.get('axis', 0)
        self.scale = np.array(tensor.get('scale', []), np.float32)
        self.zero_point = np.array(tensor.get('zero_point', []), np.int32)

    def along(self, numbers: np.ndarray, ndim: int) -> np.ndarray:
        numbers = numbers if numbers.size else np.zeros(1)
        return numbers.reshape([-1 if axis == self.axis else 1 for axis in range(ndim)])


class SchedParam:
    """When and where a model runs."""

    def __init__(self) -> None:
        self.priority, self.customId, self.bpu_cores, self.deviceId = 0, 0, [0], 0


class HB_HBMRuntime:  # noqa: N801
    """The runtime, with the models of one file or of several."""

    def __init__(self, model_files: str | list[str]) -> None:
        paths = model_files if isinstance(model_files, list) else [model_files]
        self._models: dict[str, dict[str, Any]] = {}
        for path in paths:
            if not isinstance(path, str):
                raise TypeError('__init__(): incompatible constructor arguments')
            if not path.endswith('.hbm'):
                raise ValueError('Invalid model file extension. Only .hbm supported.')
            try:
                model = json.loads(Path(path).read_text())
            except (OSError, ValueError):
                raise RuntimeError(f'hbDNNInitializeFromFiles {path} file failed.') from None
            self._models[model['name']] = model
            model['memory'] = {
                name: np.empty(tensor['shape'], _NUMPY[tensor['dtype']])
                for name, tensor in model['outputs'].items()
            }
        self._sched = {name: SchedParam() for name in self._models}
        for side in ('input', 'output'):
            for what, read in _METADATA.items():
                setattr(self, f'{side}_{what}', self._metadata(side, read))

    def _metadata(self, side: str, read: Any) -> dict[str, Any]:
        return {name: read(model[f'{side}s']) for name, model in self._models.items()}

    @staticmethod
    def version() -> str:
        return '0.1.0'

    @property
    def model_names(self) -> list[str]:
        return list(self._models)

    @property
    def model_count(self) -> int:
        return len(self._models)

    @property
    def model_descs(self) -> dict[str, str]:
        return {name: '' for name in self._models}

    hbm_descs = model_descs

    @property
    def sched_params(self) -> dict[str, SchedParam]:
        return self._sched

    def set_scheduling_params(
        self,
        priority: dict[str, int] | None = None,
        bpu_cores: dict[str, list[int]] | None = None,
        custom_id: dict[str, int] | None = None,
        device_id: dict[str, int] | None = None,
    ) -> None:
        given = dict(
            priority=priority, bpu_cores=bpu_cores, customId=custom_id, deviceId=device_id
        )
        for field, by_model in given.items():
            for name, value in (by_model or {}).items():
                if name not in self._models:
                    raise ValueError(f'Invalid model name in {field} setting: "{name}"')
                if field == 'bpu_cores' and not all(0 <= core <= 3 for core in value):
                    raise ValueError(f'Invalid BPU core id for "{name}". Expected 0~3.')
                if field == 'priority' and not 0 <= value <= 255:
                    raise ValueError(f'Priority {value} is invalid for model "{name}".')
                setattr(self._sched[name], field, value)

    def run(self, inputs: Any, **kwargs: Any) -> dict[str, dict[str, np.ndarray]]:
        """Take an array, {input: array} or {model: {input: array}}; return all outputs."""
        name = kwargs.pop('model_name', None)
        self.set_scheduling_params(**kwargs)
        if isinstance(inputs, np.ndarray):
            model = self._model(name)
            if len(model['inputs']) != 1:
                raise ValueError('a single array is for a model with a single input')
            inputs = {model['name']: {next(iter(model['inputs'])): inputs}}
        elif not isinstance(inputs, dict):
            raise TypeError('run(): incompatible function arguments')
        elif not all(isinstance(value, dict) for value in inputs.values()):
            inputs = {self._model(name)['name']: inputs}
        return {model: self._run(self._model(model), feed) for model, feed in inputs.items()}

    def _model(self, name: str | None) -> dict[str, Any]:
        if name is None and len(self._models) != 1:
            raise ValueError('"model_name" must be given where several models are loaded')
        try:
            return self._models[name or next(iter(self._models))]
        except KeyError:
            raise ValueError(f'Model "{name}" is not in the registered model_names.') from None

    def _run(self, model: dict[str, Any], feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        if set(feed) != set(model['inputs']):
            raise ValueError(f'expected inputs {list(model["inputs"])}, found {list(feed)}')
        numbers = []
        for name, tensor in model['inputs'].items():
            array = feed[name]
            if array.dtype != np.dtype(_NUMPY[tensor['dtype']]):
                raise ValueError(f"Data type mismatch for input tensor '{name}'")
            if list(array.shape) != tensor['shape']:
                raise ValueError(f'Mismatch in tensor dimensions for model: {model["name"]}')
            numbers.append(_dequantised(array, QuantParams(tensor)))
        _log(model, 'begin')
        faulty = os.path.exists(model.get('while', '/'))
        if faulty:
            _misbehave(model)
        mean = float(np.concatenate([array.ravel() for array in numbers]).mean())
        for name, tensor in model['outputs'].items():
            values = np.arange(np.prod(tensor['shape'])).reshape(tensor['shape']) + mean
            if 'onnx' in model:
                values = _run_onnx(model, numbers[0]).reshape(tensor['shape'])
            if faulty and model.get('nan'):
                values.flat[0] = np.nan
            quant, memory = QuantParams(tensor), model['memory'][name]
            if quant.scale.size:
                values = values / quant.along(quant.scale, values.ndim)
                values = values + quant.along(quant.zero_point, values.ndim)
                values = np.rint(values)
            memory[...] = values
        _log(model, 'end')
        return {name: memory.view() for name, memory in model['memory'].items()}


_METADATA = dict(
    counts=len,
    names=list,
    descs=lambda tensors: {name: '' for name in tensors},
    shapes=lambda tensors: {name: list(tensor['shape']) for name, tensor in tensors.items()},
    dtypes=lambda tensors: {
        name: hbDNNDataType[tensor['dtype']] for name, tensor in tensors.items()
    },
    quants=lambda tensors: {name: QuantParams(tensor) for name, tensor in tensors.items()},
    strides=lambda tensors: {
        name: list(np.empty(tensor['shape'], _NUMPY[tensor['dtype']]).strides)
        for name, tensor in tensors.items()
    },
)


def _dequantised(array: np.ndarray, quant: QuantParams) -> np.ndarray:
    if not quant.scale.size:
        return array.astype(np.float32)
    zero_point = quant.along(quant.zero_point, array.ndim)
    return (array - zero_point) * quant.along(quant.scale, array.ndim)


def _misbehave(model: dict[str, Any]) -> None:
    if model.get('crash'):
        print('the driver is about to fail', flush=True)
        os.kill(os.getpid(), signal.SIGSEGV)
    if 'fail' in model:
        raise RuntimeError(model['fail'])
    if 'seconds' in model:
        ctypes.PyDLL(None).usleep(int(model['seconds'] * 1e6))  # unlike CDLL it keeps the GIL


def _run_onnx(model: dict[str, Any], values: np.ndarray) -> np.ndarray:
    import onnxruntime

    if 'session' not in model:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        model['session'] = onnxruntime.InferenceSession(model['onnx'], options)
    session = model['session']
    return session.run(None, {session.get_inputs()[0].name: values})[0]


def _log(model: dict[str, Any], line: str) -> None:
    if 'log' in model:
        with open(model['log'], 'a') as file:
            file.write(line + '\n')
