"""Activations and normalisations that older files spell out, found again: GELU, SiLU, LayerNorm."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np

from sigmaquant.frontends.onnx.file import Array, OnnxFile, Operation


class _Graph:
    """Who makes and who reads each value."""

    def __init__(self, file: OnnxFile) -> None:
        self.constants: dict[str, Array] = dict(file.stored)
        self.makers: dict[str, Operation] = {}
        self.readers: dict[str, list[Operation]] = defaultdict(list)
        self.outputs = set(file.outputs)
        for operation in file.operations:
            for name in operation.outputs:
                self.makers[name] = operation
            for name in operation.inputs:
                self.readers[name].append(operation)
        self._add_constants(file.operations)

    def _add_constants(self, operations: Iterable[Operation]) -> None:
        import onnx.numpy_helper

        for operation in operations:
            if operation.kind == "Identity" and operation.inputs[0] in self.constants:
                self.constants[operation.outputs[0]] = self.constants[operation.inputs[0]]
            if operation.kind == "Constant" and "value" in operation.attributes:
                self.constants[operation.outputs[0]] = onnx.numpy_helper.to_array(operation.attributes["value"])

    def number(self, name: str) -> float | None:
        """A single constant number."""
        found = self.constants.get(name)
        return float(found.reshape(())) if found is not None and found.size == 1 and found.dtype.kind == "f" else None

    def reader(self, operation: Operation, kind: str) -> Operation | None:
        """The only reader of an operation's result, if it is of that kind."""
        name = operation.outputs[0]
        found = self.readers[name]
        good = len(found) == 1 and found[0].kind == kind and name not in self.outputs
        return found[0] if good else None

    def maker(self, name: str, kind: str) -> Operation | None:
        """What makes a value, if it is of that kind."""
        found = self.makers.get(name)
        return found if found is not None and found.kind == kind else None

    def with_number(self, operation: Operation | None, number: float) -> str | None:
        """The other operand of an operation on that number."""
        if operation is None:
            return None
        for index, name in enumerate(operation.inputs):
            value = self.number(name)
            if value is not None and abs(value - number) <= 1e-4 * abs(number):
                return operation.inputs[1 - index]
        return None


def with_patterns(file: OnnxFile) -> OnnxFile:
    """The file with what was spelt out as single operations, whose kinds begin with ``sigmaquant.``."""
    graph = _Graph(file)
    replaced: dict[int, Operation] = {}
    dropped: set[int] = set()
    for operation in file.operations:
        found = _gelu(graph, operation) or _silu(graph, operation) or _layer_norm(graph, operation)
        if found is not None:
            last, new, inner = found
            replaced[id(last)] = new
            dropped.update(id(one) for one in inner if one is not last)
    kept = [replaced.get(id(one), one) for one in file.operations if id(one) not in dropped]
    return replace(file, operations=tuple(kept))


_Found = tuple[Operation, Operation, list[Operation]] | None


def _operation(kind: str, last: Operation, inputs: tuple[str, ...], attributes: Mapping[str, object]) -> Operation:
    return Operation(f"sigmaquant.{kind}", last.name, inputs, last.outputs, attributes, None)


def _gelu(graph: _Graph, erf: Operation) -> _Found:
    """``0.5 * x * (1 + erf(x / sqrt(2)))``, whichever product comes first."""
    if erf.kind != "Erf":
        return None
    scaled = graph.makers.get(erf.inputs[0])
    if scaled is None or scaled.kind not in ("Div", "Mul"):
        return None
    x = graph.with_number(scaled, 2**0.5 if scaled.kind == "Div" else 0.5**0.5)
    plus = graph.reader(erf, "Add")
    if x is None or graph.with_number(plus, 1.0) is None or plus is None:
        return None
    first = graph.reader(plus, "Mul")
    if first is None:
        return None
    other = next((name for name in first.inputs if name != plus.outputs[0]), None)
    if other == x:  # (x * (1 + erf)) * 0.5
        last = graph.reader(first, "Mul")
        if last is None or graph.with_number(last, 0.5) is None:
            return None
        return last, _operation("Gelu", last, (x,), {}), [scaled, erf, plus, first, last]
    half = graph.maker(other or "", "Mul")
    if half is not None and graph.with_number(half, 0.5) == x and graph.reader(half, "Mul") is first:
        return first, _operation("Gelu", first, (x,), {}), [scaled, erf, plus, half, first]
    if graph.number(other or "") == 0.5:  # x * (0.5 * (1 + erf))
        last = graph.reader(first, "Mul")
        if last is not None and x in last.inputs:
            return last, _operation("Gelu", last, (x,), {}), [scaled, erf, plus, first, last]
    return None


def _silu(graph: _Graph, sigmoid: Operation) -> _Found:
    """``x * sigmoid(x)``."""
    if sigmoid.kind != "Sigmoid":
        return None
    product = graph.reader(sigmoid, "Mul")
    if product is None or set(product.inputs) != {sigmoid.inputs[0], sigmoid.outputs[0]}:
        return None
    return product, _operation("Silu", product, (sigmoid.inputs[0],), {}), [sigmoid, product]


def _layer_norm(graph: _Graph, mean: Operation) -> _Found:
    """``(x - mean) / sqrt(mean((x - mean)^2) + eps) * weight + bias`` over the last dimension."""
    if mean.kind != "ReduceMean" or _axes(graph, mean) != [-1]:
        return None
    x = mean.inputs[0]
    centred = graph.reader(mean, "Sub")
    if centred is None or centred.inputs != (x, mean.outputs[0]):
        return None
    square = next((one for one in graph.readers[centred.outputs[0]] if one.kind in ("Pow", "Mul")), None)
    if square is None or (square.kind == "Pow" and graph.number(square.inputs[1]) != 2.0):
        return None
    if square.kind == "Mul" and square.inputs != (centred.outputs[0], centred.outputs[0]):
        return None
    variance = graph.reader(square, "ReduceMean")
    if variance is None or _axes(graph, variance) != [-1]:
        return None
    plus = graph.reader(variance, "Add")
    root = None if plus is None else graph.reader(plus, "Sqrt")
    quotient = None if root is None else graph.reader(root, "Div")
    if plus is None or root is None or quotient is None or quotient.inputs != (centred.outputs[0], root.outputs[0]):
        return None
    eps = next((value for name in plus.inputs if (value := graph.number(name)) is not None), None)
    if eps is None or set(map(id, graph.readers[centred.outputs[0]])) != {id(square), id(quotient)}:
        return None
    scaled = graph.reader(quotient, "Mul")
    weight = _vector(graph, scaled, quotient)
    if scaled is None or weight is None:
        return None
    shifted = graph.reader(scaled, "Add")
    bias = _vector(graph, shifted, scaled)
    inner = [mean, centred, square, variance, plus, root, quotient, scaled]
    if shifted is None or bias is None or graph.constants[bias].shape != graph.constants[weight].shape:
        return scaled, _operation("LayerNorm", scaled, (x, weight), {"epsilon": eps}), inner
    return shifted, _operation("LayerNorm", shifted, (x, weight, bias), {"epsilon": eps}), [*inner, shifted]


def _vector(graph: _Graph, operation: Operation | None, before: Operation) -> str | None:
    """The stored vector that is joined with a result."""
    if operation is None:
        return None
    other = next((name for name in operation.inputs if name != before.outputs[0]), "")
    found = graph.constants.get(other)
    return other if found is not None and found.ndim == 1 and found.dtype.kind == "f" else None


def _axes(graph: _Graph, operation: Operation) -> list[int] | None:
    given = operation.attributes.get("axes")
    if given is None and len(operation.inputs) > 1:
        found = graph.constants.get(operation.inputs[1])
        given = None if found is None else np.atleast_1d(found).tolist()
    return None if given is None or not operation.attributes.get("keepdims", 1) else list(given)
