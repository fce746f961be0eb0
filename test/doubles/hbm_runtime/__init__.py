"""A double of `hbm_runtime`, for tests of what surrounds it where no emulated board is installed.

It has what our backend calls, and does what the real binding was seen to do on the emulated board
(test/board/test_s100.py). A "model" is a JSON file with the suffix .hbm: {"name": ..., "inputs":
{NAME: TENSOR}, "outputs": {NAME: TENSOR}}; a TENSOR has `shape` and `dtype`. What a model gives:
number k (counted over the output's axes) is k + the mean of the input's numbers; with `onnx`, the
output of that ONNX file. With `says`, each run writes that line. And what goes wrong: `seconds` (a
run takes that long and holds the GIL), `crash`, `abort` (the library refuses, with this text),
`fail` (an allocation does, with this text); with `while`, a path, only while such a file exists.
With `log`, a file, each run writes a line when it begins and one when it ends.
"""

from __future__ import annotations

import ctypes
import enum
import json
import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

__all__ = ['HB_HBMRuntime', 'hbDNNDataType', 'hbDNNQuantiType']

hbDNNDataType = enum.Enum('hbDNNDataType', 'F32', start=7)  # noqa: N816
hbDNNQuantiType = enum.Enum('hbDNNQuantiType', 'NONE SCALE')  # noqa: N816


class HB_HBMRuntime:  # noqa: N801
    """The runtime with the model of one file."""

    def __init__(self, model_file: str) -> None:
        self._model: dict[str, Any] = json.loads(Path(model_file).read_text())
        self._name: str = self._model['name']
        self._session: Any = None
        self.model_names = [self._name]
        none = SimpleNamespace(
            quant_type=hbDNNQuantiType.NONE, scale=np.array([]), zero_point=np.array([]), axis=0
        )
        for side in ('input', 'output'):
            tensors = self._model[f'{side}s']
            for what, values in (
                ('names', list(tensors)),
                ('shapes', {name: tensor['shape'] for name, tensor in tensors.items()}),
                ('dtypes', {name: hbDNNDataType[t['dtype']] for name, t in tensors.items()}),
                ('quants', dict.fromkeys(tensors, none)),
            ):
                setattr(self, f'{side}_{what}', {self._name: values})

    def set_scheduling_params(
        self, priority: dict[str, int], bpu_cores: dict[str, list[int]] | None = None
    ) -> None:
        """Do nothing with it."""

    def run(
        self, feed: dict[str, dict[str, np.ndarray]], **kwargs: Any
    ) -> dict[str, dict[str, np.ndarray]]:
        """Take {model: {input: array}}; return {model: {output: array}}."""
        for name in kwargs:
            raise RuntimeError(f'Unsupported type in kwargs: {name}')
        (name,) = self._model['inputs']
        array = feed[self._name][name]
        self._log('begin')
        if 'says' in self._model:
            print(self._model['says'], file=sys.stderr, flush=True)
        if os.path.exists(self._model.get('while', '/')):
            self._misbehave()
        ((name, tensor),) = self._model['outputs'].items()
        if 'onnx' in self._model:
            values = self._run_onnx(array).reshape(tensor['shape'])
        else:
            values = np.arange(np.prod(tensor['shape'])).reshape(tensor['shape']) + array.mean()
        self._log('end')
        return {self._name: {name: values.astype(np.float32)}}

    def _misbehave(self) -> None:
        model = self._model
        if model.get('crash'):
            print('the driver is about to fail', flush=True)
            os.kill(os.getpid(), signal.SIGSEGV)
        if 'abort' in model:
            print("terminate called after throwing an instance of 'std::runtime_error'\n"
                  f'  what():  {model["abort"]}', file=sys.stderr, flush=True)  # fmt: skip
            os.abort()
        if 'fail' in model:
            raise RuntimeError(model['fail'])
        if 'seconds' in model:
            ctypes.PyDLL(None).usleep(int(model['seconds'] * 1e6))  # unlike CDLL it keeps the GIL

    def _run_onnx(self, values: np.ndarray) -> np.ndarray:
        import onnxruntime

        if self._session is None:
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = 1
            self._session = onnxruntime.InferenceSession(self._model['onnx'], options)
        return self._session.run(None, {self._session.get_inputs()[0].name: values})[0]

    def _log(self, line: str) -> None:
        if 'log' in self._model:
            with open(self._model['log'], 'a') as file:
                file.write(line + '\n')
