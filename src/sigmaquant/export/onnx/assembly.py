"""The whole ONNX model: inputs, operators, outputs, functions and metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper

from sigmaquant._version import __version__
from sigmaquant.export.onnx.builder import DOMAIN, GraphBuilder
from sigmaquant.export.onnx.checks import told
from sigmaquant.export.onnx.moves import with_enlargements
from sigmaquant.export.onnx.naming import names
from sigmaquant.export.onnx.operators import translate
from sigmaquant.export.onnx.simplifying import with_fewer_moves
from sigmaquant.export.onnx.translation import UNSIGNED, Translation
from sigmaquant.export.onnx.unpacking import Form, opset
from sigmaquant.lowering.model import IntegerModel
from sigmaquant.operators import Edge

_BATCH = "N"
_IR_VERSIONS: Mapping[Form, int] = {"planes": 8, "native": 13}
"""Of the file format: the oldest that has all that a form uses, so that the oldest runtimes read it."""
_INPUT_TYPES = {"float": TensorProto.FLOAT, "int8": TensorProto.INT8, "uint8": TensorProto.UINT8}


def assemble(model: IntegerModel, form: Form, inputs: str, name: str, saturating: bool = True) -> onnx.ModelProto:
    """An ONNX model from a network without float operators; see `export_onnx`.

    Raises:
        ExportError: an operator that ONNX cannot express.
    """
    version, called = opset(form), names(model)
    builder = GraphBuilder(called.taken)
    translation = Translation(model, builder, form, called.values, saturating)
    given = [model.edges[edge] for edge in model.inputs]
    results = [model.edges[edge] for edge in model.outputs]
    for edge, tensor in zip(given, called.inputs, strict=True):
        _read(edge, tensor, inputs, translation)
    for operator in with_fewer_moves(with_enlargements(model)).operators:
        with told(operator):
            translate(operator, translation)
    for edge, tensor in zip(results, called.outputs, strict=True):
        _write(edge, tensor, translation)
    graph = helper.make_graph(
        builder.nodes,
        name,
        _described(given, called.inputs, _INPUT_TYPES[inputs]),
        _described(results, called.outputs, TensorProto.FLOAT),
        builder.initializers,
    )
    proto = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", version), helper.make_opsetid(DOMAIN, 1)],
        functions=list(builder.functions.values()),
        ir_version=_IR_VERSIONS[form],
        producer_name="sigmaquant",
        producer_version=__version__,
    )
    helper.set_model_props(proto, _metadata(model, form))
    return proto


def _described(edges: Sequence[Edge], tensors: Sequence[str], kind: int) -> list[onnx.ValueInfoProto]:
    """Inputs or outputs with their types and shapes; an edge that is float has no codes."""
    found = []
    for edge, tensor in zip(edges, tensors, strict=True):
        shape: list[str | int | None] = [*edge.shape]
        shape.insert(edge.batch_axis, _BATCH if edge.rows == 1 else f"{_BATCH}*{edge.rows}")
        own = kind if edge.has_grid else TensorProto.INT64 if edge.integers else TensorProto.FLOAT
        found.append(helper.make_tensor_value_info(tensor, own, shape))
    return found


def _read(edge: Edge, tensor: str, inputs: str, to: Translation) -> None:
    """From a model input to the edge's codes; one without a grid is the input itself."""
    builder, codes = to.builder, to.codes[edge.name]
    if not edge.has_grid:
        return
    if inputs == "float":
        to.quantize(tensor, edge, *edge.range, codes)
    elif inputs == "uint8":
        builder.node("Identity", [tensor], codes)
    else:
        wide = builder.node("Cast", [tensor], hint=f"{edge.name}.wide", to=TensorProto.INT32)
        offset = builder.constant(np.array(UNSIGNED, np.int32), "offset")
        sums = builder.node("Add", [wide, offset], hint=f"{edge.name}.sums")
        builder.node("Cast", [sums], codes, to=TensorProto.UINT8)


def _write(edge: Edge, tensor: str, to: Translation) -> None:
    """From an edge's codes to a model output, which has the batch where the network has it."""
    if edge.batch_axis:
        order = [*range(1, edge.batch_axis + 1), 0, *range(edge.batch_axis + 1, len(edge.shape) + 1)]
        real = to.real(edge) if edge.has_grid else to.codes[edge.name]
        to.builder.node("Transpose", [real], tensor, perm=order)
    elif edge.has_grid:
        to.real(edge, output=tensor)
    elif to.codes[edge.name] != tensor:  # an input as it is, or an output for the second time
        to.builder.node("Identity", [to.codes[edge.name]], tensor)


def _metadata(model: IntegerModel, form: Form) -> dict[str, str]:
    edges = [model.edges[name] for name in model.inputs]
    grids = {
        edge.name: {"scale": edge.scale, "zero_point": edge.zero_point, "bits": edge.bits}
        for edge in edges
        if edge.has_grid
    }
    found = {
        "sigmaquant.version": __version__,
        "sigmaquant.form": form,
        "sigmaquant.plan": model.plan.to_json(),
        "sigmaquant.inputs": json.dumps(grids),
    }
    if model.endings:
        found["sigmaquant.endings"] = json.dumps({ending.name: ending.function for ending in model.endings})
    return found
