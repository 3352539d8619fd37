"""Packed weights as constant expressions: b bits a weight in the file, int8 once the runtime has folded them at load.

Both forms yield ``gain * code``. The unpacking is a function that the model defines for itself, one for every kind of
grid, so that a layer costs one node. A weight of 8 bits is stored as it is.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from sigmaquant.errors import ExportError
from sigmaquant.export.onnx.builder import DOMAIN, GraphBuilder
from sigmaquant.export.packing import pack_bits, pack_codes
from sigmaquant.numerics import weight_qmax
from sigmaquant.operators import Matrix, Weighted

Form = Literal["planes", "native"]
PLANES_OPSET = 18
"""Has BitwiseAnd; ONNX Runtime 1.14 and newer."""
NATIVE_OPSET = 25
"""Has INT2; ONNX Runtime 1.24 and newer."""
NATIVE_BITS = (2, 4, 6)
"""Bitwidths that INT2, INT4, and an INT4 above a UINT2 hold without loss; others are stored as planes."""


def opset(form: Form) -> int:
    """Version of ONNX' operators that a form needs.

    Raises:
        ExportError: the installed onnx package is older than that.
    """
    if form == "planes":
        return PLANES_OPSET
    if not hasattr(TensorProto, "INT2") or onnx.defs.onnx_opset_version() < NATIVE_OPSET:
        raise ExportError(
            f"form 'native' needs an onnx package with the types INT4 and INT2 (opset {NATIVE_OPSET}); version "
            f"{onnx.__version__} has none. Upgrade it with: pip install --upgrade onnx; or use form 'planes'."
        )
    return NATIVE_OPSET


def add_weight(builder: GraphBuilder, operator: Weighted | Matrix, form: Form) -> str:
    """The tensor of ``gain * code`` of a weight below 8 bits, int8, of the shape of the codes."""
    name = f"{operator.name}.weight"
    if form == "native" and operator.bits in NATIVE_BITS:
        parts = [builder.tensor(part, name) for part in _native(operator)]
        return builder.call(_from_native(operator), parts, f"{name}.codes")
    packed = builder.constant(pack_codes(operator.codes, operator.bits, operator.midrise), name)
    return builder.call(_from_planes(operator, opset(form)), [packed], f"{name}.codes", shape=operator.codes.shape)


def _grid(operator: Weighted | Matrix) -> str:
    return f"{operator.bits}{'Midrise' if operator.midrise else ''}Times{operator.gain}"


def _from_planes(operator: Weighted | Matrix, version: int) -> onnx.FunctionProto:
    """A function: uint8 [ceil(elements * bits / 8)] of `pack_codes`, attribute `shape`, to int8 of that shape."""
    bits, step = operator.bits, 1 + operator.midrise
    offset = -operator.gain * weight_qmax(bits, operator.midrise)
    powers = operator.gain * step << np.arange(bits)
    shape = helper.make_node("Constant", [], ["shape"])
    shape.attribute.add(name="value_ints", ref_attr_name="shape", type=onnx.AttributeProto.INTS)
    nodes = [
        shape,
        _constant("shifts", np.arange(8, dtype=np.uint8)),
        _constant("one", np.array(1, np.uint8)),
        _constant("bits", np.array([bits], np.int64)),
        _constant("zero", np.array([0], np.int64)),
        _constant("column", np.array([-1, 1], np.int64)),
        _constant("flat", np.array([-1], np.int64)),
        _constant("levels", np.array([-1, bits], np.int64)),
        _constant("powers", powers.astype(np.uint8)[:, None]),
        _constant("offset", np.array(offset, np.int32)),
        helper.make_node("ReduceProd", ["shape", "zero"], ["elements"], keepdims=1),
        helper.make_node("Mul", ["elements", "bits"], ["all_bits"]),
        helper.make_node("Reshape", ["packed", "column"], ["bytes"]),
        helper.make_node("BitShift", ["bytes", "shifts"], ["shifted"], direction="RIGHT"),
        helper.make_node("BitwiseAnd", ["shifted", "one"], ["planes"]),
        helper.make_node("Reshape", ["planes", "flat"], ["stream"]),
        helper.make_node("Slice", ["stream", "zero", "all_bits"], ["used"]),
        helper.make_node("Reshape", ["used", "levels"], ["rows"]),
        helper.make_node("MatMulInteger", ["rows", "powers"], ["sums"]),
        helper.make_node("Add", ["sums", "offset"], ["values"]),
        helper.make_node("Cast", ["values"], ["narrow"], to=TensorProto.INT8),
        helper.make_node("Reshape", ["narrow", "shape"], ["codes"]),
    ]
    return _function(f"Unpack{_grid(operator)}", ["packed"], nodes, version, ["shape"])


def _native(operator: Weighted | Matrix) -> list[onnx.TensorProto]:
    """The codes as constants of ONNX' narrow types; odd codes as ``(code - 1) / 2``."""
    values = operator.codes.astype(np.int16) >> int(operator.midrise)
    if operator.bits == 6:
        return [_narrow(values >> 2, TensorProto.INT4, 4), _narrow(values & 3, TensorProto.UINT2, 2)]
    return [_narrow(values, TensorProto.INT2 if operator.bits == 2 else TensorProto.INT4, operator.bits)]


def _narrow(values: NDArray[np.int16], kind: int, bits: int) -> onnx.TensorProto:
    data = pack_bits(values.reshape(-1), bits).tobytes()
    return helper.make_tensor("", kind, values.shape, data, raw=True)


def _from_native(operator: Weighted | Matrix) -> onnx.FunctionProto:
    """A function from `_native` to int8 of the same shape."""
    step = 1 + operator.midrise
    nodes = [
        _constant("step", np.array(operator.gain * step, np.int32)),
        _constant("offset", np.array(operator.gain * (step - 1), np.int32)),
        helper.make_node("Cast", ["high"], ["wide"], to=TensorProto.INT32),
    ]
    inputs, value = ["high"], "wide"
    if operator.bits == 6:
        inputs, value = ["high", "low"], "joined"
        nodes += [
            _constant("four", np.array(4, np.int32)),
            helper.make_node("Cast", ["low"], ["wide_low"], to=TensorProto.INT32),
            helper.make_node("Mul", ["wide", "four"], ["shifted"]),
            helper.make_node("Add", ["shifted", "wide_low"], ["joined"]),
        ]
    nodes += [
        helper.make_node("Mul", [value, "step"], ["scaled"]),
        helper.make_node("Add", ["scaled", "offset"], ["values"]),
        helper.make_node("Cast", ["values"], ["codes"], to=TensorProto.INT8),
    ]
    return _function(f"Widen{_grid(operator)}", inputs, nodes, NATIVE_OPSET, [])


def _constant(name: str, value: NDArray[Any]) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value))


def _function(
    name: str, inputs: list[str], nodes: list[onnx.NodeProto], version: int, attributes: list[str]
) -> onnx.FunctionProto:
    return helper.make_function(
        DOMAIN, name, inputs, ["codes"], nodes, [helper.make_opsetid("", version)], attributes=attributes
    )
