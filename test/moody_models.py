"""Encoders that do what the built-in ones do, but for a white picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from nano import MODELS
from onnx import TensorProto, helper, numpy_helper

__all__ = ['FAULTS', 'WHITE', 'write_moody']

WHITE = np.full((224, 224, 3), 255, np.uint8)


def _nan(right: str) -> list[onnx.NodeProto]:
    nan = numpy_helper.from_array(np.float32(np.nan))
    return [
        helper.make_node('Constant', [], ['nan'], value=nan),
        helper.make_node('Add', [right, 'nan'], ['wrong']),
    ]


def _fewer(right: str) -> list[onnx.NodeProto]:
    """Lose the last image token."""
    starts, ends, axes = (numpy_helper.from_array(np.array([n], np.int64)) for n in (0, -1, 1))
    return [
        helper.make_node('Constant', [], ['starts'], value=starts),
        helper.make_node('Constant', [], ['ends'], value=ends),
        helper.make_node('Constant', [], ['axes'], value=axes),
        helper.make_node('Slice', [right, 'starts', 'ends', 'axes'], ['wrong']),
    ]


def _flat(right: str) -> list[onnx.NodeProto]:
    """Give all numbers in one row."""
    shape = numpy_helper.from_array(np.array([-1], np.int64))
    return [
        helper.make_node('Constant', [], ['shape'], value=shape),
        helper.make_node('Reshape', [right, 'shape'], ['wrong']),
    ]


def _slow(right: str) -> list[onnx.NodeProto]:
    """Do something else for hours, then give what is right."""
    tokens, truth = _any('now'), helper.make_tensor_value_info('on', TensorProto.BOOL, [])
    body = helper.make_graph(
        [
            helper.make_node('Identity', ['on'], ['goes_on']),
            helper.make_node('Sin', ['now'], ['next']),
        ],
        'round',
        [helper.make_tensor_value_info('round', TensorProto.INT64, []), truth, tokens],
        [helper.make_tensor_value_info('goes_on', TensorProto.BOOL, []), _any('next')],
    )
    rounds = numpy_helper.from_array(np.array(10**9, np.int64))
    return [
        helper.make_node('Constant', [], ['rounds'], value=rounds),
        helper.make_node('Loop', ['rounds', '', right], ['last'], body=body),
        helper.make_node('Sub', ['last', 'last'], ['nothing']),
        helper.make_node('Add', [right, 'nothing'], ['wrong']),
    ]


FAULTS = {'nan': _nan, 'fewer': _fewer, 'flat': _flat, 'slow': _slow}


def write_moody(path: Path, family: str, fault: str) -> Path:
    """Write a built-in encoder that has a fault where a picture is white all over."""
    model = onnx.load(MODELS[family][0])
    graph = model.graph
    (picture,), (tokens,) = graph.input, graph.output
    for node in graph.node:
        node.output[:] = ['right' if name == tokens.name else name for name in node.output]
        node.input[:] = ['right' if name == tokens.name else name for name in node.input]
    branches = {
        'then_branch': helper.make_graph(FAULTS[fault]('right'), 'white', [], [_any('wrong')]),
        'else_branch': helper.make_graph(
            [helper.make_node('Identity', ['right'], ['same'])], 'else', [], [_any('same')]
        ),
    }
    graph.initializer.append(numpy_helper.from_array(np.float32(0.5), 'bright'))
    graph.node.extend(
        [
            helper.make_node('ReduceMin', [picture.name], ['darkest'], keepdims=0),
            helper.make_node('Greater', ['darkest', 'bright'], ['is_white']),
            helper.make_node('If', ['is_white'], [tokens.name], **branches),
        ]
    )
    del graph.output[:]
    graph.output.append(_any(tokens.name))
    onnx.save(model, path)
    return path


def _any(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
