"""The whole ONNX model: inputs, operators, outputs, functions and metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper

from sigmaquant._version import __version__
from sigmaquant.export.onnx.builder import DOMAIN, GraphBuilder
from sigmaquant.export.onnx.operators import translate
from sigmaquant.export.onnx.translation import UNSIGNED, Translation
from sigmaquant.export.onnx.unpacking import Form, opset
from sigmaquant.lowering.model import Edge, IntegerModel

_BATCH = "N"
_IR_VERSIONS: Mapping[Form, int] = {"planes": 8, "native": 13}
"""Of the file format: the oldest that has all that a form uses, so that the oldest runtimes read it."""
_INPUT_TYPES = {"float": TensorProto.FLOAT, "int8": TensorProto.INT8, "uint8": TensorProto.UINT8}


def assemble(model: IntegerModel, form: Form, inputs: str, name: str) -> onnx.ModelProto:
    """An ONNX model from a network without float operators; see `export_onnx`.

    Raises:
        ExportError: an operator that ONNX cannot express.
    """
    version = opset(form)
    builder = GraphBuilder()
    given = {edge: builder.unique(edge) for edge in model.inputs}
    results = {edge: builder.unique(edge) for edge in model.outputs}
    outer = {*given, *results}
    codes = {edge: builder.unique(f"{edge}.codes" if edge in outer else edge) for edge in model.edges}
    translation = Translation(model, builder, form, codes)
    for edge, tensor in given.items():
        _read(model.edges[edge], tensor, inputs, translation)
    for operator in model.operators:
        translate(operator, translation)
    for edge, tensor in results.items():
        translation.real(model.edges[edge], output=tensor)

    def described(tensors: Mapping[str, str], kind: int) -> list[onnx.ValueInfoProto]:
        found = []
        for edge, tensor in tensors.items():
            shape: list[str | int | None] = [_BATCH, *model.edges[edge].shape]
            found.append(helper.make_tensor_value_info(tensor, kind, shape))
        return found

    graph = helper.make_graph(
        builder.nodes,
        name,
        described(given, _INPUT_TYPES[inputs]),
        described(results, TensorProto.FLOAT),
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


def _read(edge: Edge, tensor: str, inputs: str, to: Translation) -> None:
    """From a model input to the edge's codes."""
    builder, codes = to.builder, to.codes[edge.name]
    if inputs == "float":
        to.quantize(tensor, edge, *edge.range, codes)
    elif inputs == "uint8":
        builder.node("Identity", [tensor], codes)
    else:
        wide = builder.node("Cast", [tensor], hint=f"{edge.name}.wide", to=TensorProto.INT32)
        offset = builder.constant(np.array(UNSIGNED, np.int32), "offset")
        sums = builder.node("Add", [wide, offset], hint=f"{edge.name}.sums")
        builder.node("Cast", [sums], codes, to=TensorProto.UINT8)


def _metadata(model: IntegerModel, form: Form) -> dict[str, str]:
    grids = {
        name: {"scale": edge.scale, "zero_point": edge.zero_point, "bits": edge.bits}
        for name, edge in ((name, model.edges[name]) for name in model.inputs)
    }
    return {
        "sigmaquant.version": __version__,
        "sigmaquant.form": form,
        "sigmaquant.plan": model.plan.to_json(),
        "sigmaquant.inputs": json.dumps(grids),
    }
