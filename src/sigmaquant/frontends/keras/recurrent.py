"""LSTM, GRU and plain recurrent layers of Keras."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, nn

from sigmaquant.errors import ModelFileError
from sigmaquant.frontends.keras.reader import KerasReader, Value, reads
from sigmaquant.frontends.spatial import filled

_KINDS = {"LSTM": nn.LSTM, "GRU": nn.GRU, "SimpleRNN": nn.RNN}


def _tensors(reader: KerasReader, layer: Any, end: str) -> dict[str, Tensor]:
    """One direction's weights as PyTorch keeps them."""
    cell, units = layer.cell, layer.units
    parts = {"weight_ih": reader.tensor(cell.kernel).T, "weight_hh": reader.tensor(cell.recurrent_kernel).T}
    if layer.use_bias:
        bias = reader.tensor(cell.bias)
        parts["bias_ih"] = bias[0] if bias.dim() == 2 else bias
        parts["bias_hh"] = bias[1] if bias.dim() == 2 else torch.zeros_like(bias)
    if type(layer).__name__ == "GRU":  # z, r, n here; r, z, n in PyTorch
        parts = {name: torch.cat([t[units : 2 * units], t[:units], t[2 * units :]]) for name, t in parts.items()}
    return {name + end: values for name, values in parts.items()}


def _check(layer: Any, states: Any) -> None:
    kind = type(layer).__name__
    if kind not in _KINDS:
        raise ModelFileError(f"a {kind} is not read here.")
    names = [layer.activation.__name__] + ([] if kind == "SimpleRNN" else [layer.recurrent_activation.__name__])
    if names != ["tanh", "sigmoid"][: len(names)]:
        raise ModelFileError(f"its activations {names} are not those of PyTorch's layer, tanh and sigmoid.")
    if kind == "GRU" and not layer.reset_after:
        raise ModelFileError("a GRU with reset_after=False has no form in PyTorch.")
    if layer.stateful:
        raise ModelFileError("a layer that keeps its state between batches is not read.")
    if states:
        raise ModelFileError("initial states are not read.")


@reads("LSTM", "GRU", "SimpleRNN")
def _recurrent(reader: KerasReader, layer: Any, value: Value, **options: Any) -> Any:
    _check(layer, options.get("initial_state"))
    builder, x = reader.builder, reader.plain(value)
    if layer.go_backwards:
        x = builder.function(torch.flip, x, (1,))
    width = builder.shapes(x)[0][2]

    def make() -> nn.Module:
        module = _KINDS[type(layer).__name__](width, layer.units, bias=layer.use_bias, batch_first=True)
        return filled(module, **_tensors(reader, layer, "_l0"))

    found = builder.call(reader.kept(layer, make), x)
    outputs = builder.function(operator.getitem, found, 0)
    result = Value(outputs if layer.return_sequences else builder.function(torch.select, outputs, 1, -1))
    if not layer.return_state:
        return result
    last = builder.function(operator.getitem, found, 1)
    pair = isinstance(layer.cell.state_size, list | tuple) and len(layer.cell.state_size) == 2
    states = [builder.function(operator.getitem, last, index) for index in range(2)] if pair else [last]
    return [result, *(Value(builder.function(torch.select, state, 0, 0)) for state in states)]


@reads("Bidirectional")
def _bidirectional(reader: KerasReader, layer: Any, value: Value, **options: Any) -> Value:
    forward, backward = layer.forward_layer, layer.backward_layer
    _check(forward, options.get("initial_state"))
    if layer.merge_mode not in ("concat", "sum") or forward.return_state or forward.units != backward.units:
        raise ModelFileError("only directions of equal size that are joined or added are read, without states.")
    builder, x = reader.builder, reader.plain(value)
    width, units = builder.shapes(x)[0][2], forward.units

    def make() -> nn.Module:
        module = _KINDS[type(forward).__name__](
            width, units, bias=forward.use_bias, batch_first=True, bidirectional=True
        )
        tensors = {**_tensors(reader, forward, "_l0"), **_tensors(reader, backward, "_l0_reverse")}
        return filled(module, **tensors)

    outputs = builder.function(operator.getitem, builder.call(reader.kept(layer, make), x), 0)
    if not forward.return_sequences:
        ends = [
            builder.method("narrow", builder.function(torch.select, outputs, 1, time), 1, start, units)
            for time, start in ((-1, 0), (0, units))
        ]
    else:
        ends = [builder.method("narrow", outputs, 2, start, units) for start in (0, units)]
    if layer.merge_mode == "sum":
        return Value(builder.function(torch.add, *ends))
    return Value(outputs if forward.return_sequences else builder.function(torch.cat, ends, 1))
