"""From an `IntegerModel` to a file for TensorFlow Lite Micro."""

from __future__ import annotations

import math
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from sigmaquant.errors import ArtifactError, ExportError
from sigmaquant.export.litert.emission import refusal
from sigmaquant.export.litert.flatbuffer import FlatGraph
from sigmaquant.export.litert.writing import Drawing, check_writable
from sigmaquant.export.tflm import lookup, recurrent
from sigmaquant.export.tflm.decode import Packed, pack_weights
from sigmaquant.export.tflm.form import tflm_form
from sigmaquant.export.tflm.runner import TflmRunner
from sigmaquant.export.tflm.schema import micro_schema
from sigmaquant.lowering.model import IntegerModel
from sigmaquant.operators import Operator
from sigmaquant.runs.atomic import write_bytes_atomic

FAMILIES = (lookup, recurrent)
"""The modules that know operators which this runtime takes in another way than LiteRT."""
_NODE = re.compile(r"Node (\S+) \(number (\d+)f?\)")
_CODE = re.compile(r"builtin opcode '(\w+)'")
_UNREAD_GRIDS = ("CONV_2D", "DEPTHWISE_CONV_2D")
"""Operators whose bias's grid the runtime does not read; a linear layer's it does."""
_REMEDY = "Write it with other operators, or export this network to another format"


@dataclass(frozen=True)
class TflmLayer:
    """A layer's weights in the file.

    Attributes:
        name: of the layer.
        bits: in the plan.
        stored_bits: in the file: 8, or as many as tell the weights' values apart.
        stored_bytes: that they take, with their table.
    """

    name: str
    bits: int
    stored_bits: int
    stored_bytes: int


@dataclass(frozen=True)
class TflmReport:
    """What was written.

    Attributes:
        path: of the file.
        file_bytes: its size.
        arena_bytes: memory that the interpreter needs on this machine, inputs and outputs among it; on a
            microcontroller a little less, since its pointers are shorter.
        layers: in order, each once.
    """

    path: Path
    file_bytes: int
    arena_bytes: int
    layers: tuple[TflmLayer, ...]


def export_tflm(
    model: IntegerModel,
    path: str | Path,
    *,
    pack: bool = True,
    inputs: Literal["float", "int8"] = "float",
    name: str = "sigmaquant",
) -> TflmReport:
    """Write a .tflite file that computes what ``tflm_form(model)`` computes.

    Inputs and outputs have the network's own layout, channels before space; the batch is one example. Weights of 2 to 7
    bits are packed where that makes the file smaller, and unpacked by the runtime's operator TFLM_DECODE right before
    their layer. The file is run once, in a process of its own, before it is written.

    Args:
        model: as `lower` gives it.
        path: the file, written atomically.
        pack: False stores every weight with 8 bits: larger, but no unpacked weight takes memory.
        inputs: what the file takes, and gives: floats, or the codes of the model's edges.
        name: of the graph.

    Raises:
        ExportError: the runtime refuses an operator; nothing is written. The message names it.
        MissingExtraError: the extra ``tflm`` is not installed.
        StorageError: the file could not be written; the old one, if there was one, is intact.
    """
    check_writable(model, inputs)
    formed = tflm_form(model)
    drawing = Drawing(formed, FlatGraph(micro_schema()), False, inputs == "float")
    packed = pack_weights(drawing.graph) if pack else ()
    _strip(drawing.graph, formed)
    data = drawing.to_bytes(name, bare=True)
    arena = _tried(data, drawing.graph)
    write_bytes_atomic(path, data)
    return TflmReport(Path(path), len(data), arena, _layers(model, packed))


def _strip(graph: FlatGraph, model: IntegerModel) -> None:
    """Take out what the runtime does not read: names of all but activations, and grids of convolutions' biases."""
    for tensor in graph.tensors:
        if tensor.name not in model.edges:
            tensor.name = None
    for operator in graph.operators:
        if graph.code(operator) in _UNREAD_GRIDS:
            graph.tensors[int(operator.inputs[2])].quantization = None


def _tried(data: bytes, graph: FlatGraph) -> int:
    """Run a file once; the memory that its interpreter needs.

    Raises:
        ExportError: the runtime refuses it.
    """
    with tempfile.TemporaryDirectory(prefix="sigmaquant-") as folder:
        path = Path(folder) / "model.tflite"
        path.write_bytes(data)
        try:
            runner = TflmRunner(path)
            try:
                runner.raw(*(torch.zeros(port.shape) for port in runner.inputs))
                arena = runner.arena_bytes
            finally:
                runner.close()
        except ArtifactError as error:
            raise _refused(str(error).removeprefix(f"{path}: "), graph) from error
    if arena is None:
        raise ExportError("this version of TensorFlow Lite Micro does not tell the memory that it needs. Update it.")
    return arena


def _refused(said: str, graph: FlatGraph) -> ExportError:
    """The runtime's words with the operator that they are about."""
    owner: Any = None
    if found := _NODE.search(said):
        owner = graph.owners[int(found[2])] if int(found[2]) < len(graph.owners) else None
    elif found := _CODE.search(said):
        codes = [graph.code(operator) for operator in graph.operators]
        owner = graph.owners[codes.index(found[1])] if found[1] in codes else None
    if isinstance(owner, Operator):
        return refusal(owner, said, _REMEDY)
    return ExportError(f"{said}. {_REMEDY}.")


def _layers(model: IntegerModel, packed: tuple[Packed, ...]) -> tuple[TflmLayer, ...]:
    by_name = {item.name: item for item in packed}
    rows: dict[str, TflmLayer] = {}
    for operator in model.weights:
        found = by_name.get(f"{operator.layer}.weight")
        bits, stored = (8, math.prod(operator.codes.shape)) if found is None else (found.bits, found.stored_bytes)
        rows[operator.layer] = TflmLayer(operator.layer, operator.bits, bits, stored)
    return tuple(rows.values())
