"""LSTM, GRU and plain recurrent layers: PyTorch's own, with ONNX' order of the gates put right."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from sigmaquant.errors import ModelFileError
from sigmaquant.frontends.onnx.file import Array, Operation, tensor_of
from sigmaquant.frontends.onnx.reader import Reader, handles
from sigmaquant.frontends.onnx.values import Known
from sigmaquant.frontends.spatial import filled

_GATES = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2), "RNN": (0,)}
"""Which of ONNX' gates is each of PyTorch's: i, f, g, o of i, o, f, c; r, z, n of z, r, h."""
_ACTIVATIONS = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}


@handles("LSTM", "GRU", "RNN")
def _recurrent(reader: Reader, operation: Operation, inputs: list[Any]) -> tuple[Any, ...]:
    x, weight, recurrence, *rest = inputs
    bias, lengths, *states = [*rest, None, None, None, None][:4]
    given, builder = operation.attributes, reader.builder
    direction = given.get("direction", "forward")
    _check(operation, reader, x, lengths, [weight, recurrence, *([] if bias is None else [bias])])
    hidden, both, first = given["hidden_size"], direction == "bidirectional", bool(given.get("layout", 0))
    kinds = {"LSTM": nn.LSTM, "GRU": nn.GRU, "RNN": nn.RNN}
    module = kinds[operation.kind](
        weight.array.shape[2], hidden, bias=bias is not None, batch_first=first, bidirectional=both
    )
    filled(module, **_tensors(operation.kind, hidden, weight, recurrence, bias))
    target = reader.layer(operation, module, weight, recurrence, key=(direction, first))
    begin = [_state(reader, value, first) for value in states]
    if operation.kind != "LSTM":
        begin = begin[:1]
    arguments: list[Any] = [reader.node(x)]
    if any(value is not None for value in begin):
        if any(value is None for value in begin):
            raise ModelFileError("only one of its two initial states is given. Give both or none.")
        arguments.append(tuple(begin) if operation.kind == "LSTM" else begin[0])
    found = builder.call(target, *arguments)
    outputs, last = (builder.function(operator.getitem, found, index) for index in range(2))
    results = [_directions(reader, outputs, hidden, both, first)]
    pair = operation.kind == "LSTM"
    for state in [builder.function(operator.getitem, last, index) for index in range(2)] if pair else [last]:
        results.append(builder.function(torch.transpose, state, 0, 1) if first else state)
    return tuple(results)


def _check(operation: Operation, reader: Reader, x: Any, lengths: Any, stored: list[Any]) -> None:
    given, kind = operation.attributes, operation.kind
    if not all(isinstance(value, Known) for value in stored):
        raise ModelFileError("its weights are computed in the network, not stored. Only stored ones are read.")
    if given.get("direction", "forward") == "reverse":
        raise ModelFileError("a layer that only runs backwards is not read. Make it bidirectional, or flip its input.")
    directions = 2 if given.get("direction") == "bidirectional" else 1
    if given.get("activations", _ACTIVATIONS[kind] * directions) != _ACTIVATIONS[kind] * directions:
        raise ModelFileError(f"its activations {given['activations']} are not those of PyTorch's {kind}.")
    if given.get("clip") or given.get("input_forget") or (len(operation.inputs) > 7 and operation.inputs[7]):
        raise ModelFileError("clipped cells, coupled gates and peepholes have no form in PyTorch.")
    if kind == "GRU" and not given.get("linear_before_reset", 0):
        raise ModelFileError("a GRU that resets before its matrix has no form in PyTorch (reset_after=True in Keras).")
    if lengths is not None:
        time = reader.sizes(x)[0][1 if given.get("layout", 0) else 0]
        if not (isinstance(lengths, Known) and bool(np.all(lengths.small == time))):
            raise ModelFileError("sequences of several lengths are not read. Export the network without them.")


def _tensors(kind: str, hidden: int, weight: Known, recurrence: Known, bias: Known | None) -> dict[str, torch.Tensor]:
    found = {}
    for direction in range(weight.array.shape[0]):
        end = "_l0_reverse" if direction else "_l0"
        parts = {"weight_ih": weight.array[direction], "weight_hh": recurrence.array[direction]}
        if bias is not None:
            parts["bias_ih"], parts["bias_hh"] = np.split(bias.array[direction], 2)
        for name, values in parts.items():
            found[name + end] = tensor_of(_ordered(kind, hidden, values))
    return found


def _ordered(kind: str, hidden: int, values: Array) -> Array:
    return np.concatenate([values[gate * hidden : (gate + 1) * hidden] for gate in _GATES[kind]])


def _state(reader: Reader, value: Any, first: bool) -> Any:
    """An initial state as PyTorch takes it; None where it is zero."""
    if value is None or (isinstance(value, Known) and not np.any(value.small)):
        return None
    node = reader.node(value)
    return reader.builder.function(torch.transpose, node, 0, 1) if first else node


def _directions(reader: Reader, outputs: fx.Node, hidden: int, both: bool, first: bool) -> Any:
    """PyTorch joins the directions' outputs, ONNX keeps them in a dimension of their own."""
    builder = reader.builder
    axis = 2 if first else 1
    if not both:
        return builder.function(torch.unsqueeze, outputs, axis)
    parts = builder.function(torch.unflatten, outputs, 2, (2, hidden))
    return parts if first else builder.function(torch.permute, parts, (0, 2, 1, 3))
