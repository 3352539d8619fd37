"""From an `IntegerModel` to a LiteRT file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sigmaquant._version import __version__
from sigmaquant.errors import ExportError
from sigmaquant.export.litert import (
    attention,
    elementwise,
    floats,
    layer_operators,
    matrices,
    means,
    movement,
    pools,
    recurrent,
    resizing,
    sums,
    taps,
)
from sigmaquant.export.litert.emission import write
from sigmaquant.export.litert.flatbuffer import FlatGraph
from sigmaquant.export.litert.form import container_bits, litert_form
from sigmaquant.export.litert.values import LOWEST, Values
from sigmaquant.lowering.model import FloatOperator, IntegerModel
from sigmaquant.operators import Weighted
from sigmaquant.operators.node import free_name
from sigmaquant.runs.atomic import write_bytes_atomic

FAMILIES = (
    attention,
    elementwise,
    floats,
    layer_operators,
    matrices,
    means,
    movement,
    pools,
    recurrent,
    resizing,
    sums,
    taps,
)
"""The modules that know the operators."""
PLAN_METADATA = "sigmaquant.plan"
"""Name of the metadata entry with the plan, as JSON."""


@dataclass(frozen=True)
class LitertLayer:
    """A layer's weights in the file.

    Attributes:
        name: of the layer.
        bits: in the plan.
        container_bits: of the type that they are stored in: 2, 4 or 8.
        weight_bytes: that they take.
        ideal_bytes: that they would take with `bits` bits each.
    """

    name: str
    bits: int
    container_bits: int
    weight_bytes: int
    ideal_bytes: int


@dataclass(frozen=True)
class LitertReport:
    """What was written.

    Attributes:
        path: of the file.
        file_bytes: its size.
        layers: in order, each once.
    """

    path: Path
    file_bytes: int
    layers: tuple[LitertLayer, ...]

    @property
    def weight_bytes(self) -> int:
        """All weights as they are stored."""
        return sum(layer.weight_bytes for layer in self.layers)

    @property
    def ideal_weight_bytes(self) -> int:
        """All weights with the bits of the plan."""
        return sum(layer.ideal_bytes for layer in self.layers)


def export_litert(
    model: IntegerModel,
    path: str | Path,
    *,
    pack: bool = True,
    inputs: Literal["float", "int8"] = "float",
    name: str = "sigmaquant",
) -> LitertReport:
    """Write a .tflite file that computes what ``litert_form(model, pack)`` computes.

    Inputs and outputs have the network's own layout, channels before space; the batch can be resized. Weights of 2, 3
    and 4 bits are packed where the runtime's kernels are: as 2 or 4 bits in linear layers and 1x1 convolutions, at no
    cost in speed, as 4 bits in other convolutions, which then take twice as long; grouped and depthwise ones stay at 8.

    Args:
        model: as `lower` gives it.
        path: the file, written atomically.
        pack: False stores every weight with 8 bits: larger, but nothing is slower than at 8 bits.
        inputs: what the file takes, and gives: floats, or the codes of the model's edges, as microcontrollers want.
        name: of the graph.

    Raises:
        ExportError: an operator has no exact form; nothing is written. The message names it.
        MissingExtraError: the extra ``litert`` is not installed.
        StorageError: the file could not be written; the old one, if there was one, is intact.
    """
    check_writable(model, inputs)
    formed = litert_form(model, pack)
    data = Drawing(formed, FlatGraph(), pack, inputs == "float").to_bytes(name)
    write_bytes_atomic(path, data)
    return LitertReport(Path(path), len(data), _layers(model, formed, pack))


def check_writable(model: IntegerModel, inputs: str) -> None:
    """Raise where no file can be written at all.

    Raises:
        ExportError: operators in float, or inputs that there are not.
    """
    if inputs not in ("float", "int8"):
        raise ExportError(f"inputs is {inputs!r}; it must be 'float' or 'int8'.")
    floats = [operator for operator in model.operators if isinstance(operator, FloatOperator)]
    if floats:
        shown = ", ".join(repr(op.operator) + (f" ({op.line})" if op.line else "") for op in floats[:3])
        raise ExportError(
            f"{len(floats)} operator(s) have no integer form: {shown}. A LiteRT file would compute them in float. "
            "Replace them, or leave them out of the network and compute them behind it."
        )


class Drawing:
    """A model in a runtime's form, drawn as a graph of the file.

    Args:
        model: in that form.
        graph: empty; filled here.
        pack: whether weights may be stored with fewer than 8 bits.
        floats: whether the file takes and gives floats; else codes.
    """

    def __init__(self, model: IntegerModel, graph: FlatGraph, pack: bool, floats: bool) -> None:
        self.model, self.graph = model, graph
        values = Values(model, graph, pack)
        self._inputs = {edge: _input(values, edge, floats) for edge in model.inputs}
        for operator in model.operators:
            graph.owner = operator
            write(operator, values)
        graph.owner = None
        self._outputs: dict[str, int] = {}
        for edge in model.outputs:
            taken = {*self._inputs.values(), *self._outputs.values()}
            self._outputs[free_name(edge, self._outputs)] = _output(values, edge, floats, taken)

    def to_bytes(self, name: str, bare: bool = False) -> bytes:
        """The file.

        Args:
            name: of the graph.
            bare: without the plan and the names of inputs and outputs, where every byte counts.
        """
        metadata = {} if bare else {PLAN_METADATA: self.model.plan.to_json().encode()}
        written_by = f"written by sigmaquant {__version__}"
        return self.graph.to_bytes(name, written_by, self._inputs, self._outputs, metadata, signature=not bare)


def _input(values: Values, name: str, floats: bool) -> int:
    """The tensor that the caller gives."""
    target = given = values.new(name, "plain")
    if not values.model.edges[name].has_grid:  # integers as they are, or nothing reads it
        return target
    graph, low = values.graph, values.model.edges[name].range[0] + values.shift(name)
    if low > LOWEST:  # saturation clamps narrow codes at their upper end only
        given = graph.tensor(f"{name}.unclamped", graph.shape(target), "INT8", values.grid(name))
    result = given
    if floats:
        result = graph.tensor(f"{name}.float", graph.shape(target), "FLOAT32")
        graph.operator("QUANTIZE", (result,), given, 1, "QuantizeOptions")
    if given != target:
        values.clamp(given, target, low, 127)
    return result


def _output(values: Values, name: str, floats: bool, taken: set[int]) -> int:
    """The tensor that the caller gets; `taken` are those that the caller gives or gets already."""
    given = values.plain(name)
    if not floats or not values.model.edges[name].has_grid:
        return values.reshaped(given, values.like(name, values.shape(name, "plain"))) if given in taken else given
    result = values.graph.tensor(f"{name}.float", values.graph.shape(given), "FLOAT32")
    values.graph.operator("DEQUANTIZE", (given,), result, 2, "DequantizeOptions")
    return result


def _layers(model: IntegerModel, formed: IntegerModel, pack: bool) -> tuple[LitertLayer, ...]:
    ideal = {operator.layer: (operator.codes.size * operator.bits + 7) // 8 for operator in model.weights}
    rows = {}
    for operator in formed.weights:
        container = container_bits(operator, pack) if isinstance(operator, Weighted) else 8
        stored = (operator.codes.size * container + 7) // 8
        rows[operator.layer] = LitertLayer(operator.layer, operator.bits, container, stored, ideal[operator.layer])
    return tuple(rows.values())
