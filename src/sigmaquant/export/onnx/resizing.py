"""Linear interpolation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from sigmaquant.export.onnx.builder import DOMAIN
from sigmaquant.export.onnx.pooling import along
from sigmaquant.export.onnx.translation import Translation, translate
from sigmaquant.export.onnx.unpacking import opset
from sigmaquant.operators import Resize
from sigmaquant.operators.resize import WEIGHT_BITS

_LONGEST = 64
"""Axes up to this length are interpolated by matrices where the runtime's Resize is not exact: 0.6 to 1.2 times its
time on 7 to 64 places, 2.2 times on 112 (measured)."""
_STEEPEST = 4.0
"""Output steps of an input step up to which Resize, if it is not exact, stays below one step of difference: for each
axis its weights are at most 2**-12 off, of 255 input steps. At 100 places of any ratio 0.5 % of codes are one off."""


@translate.register
def _(operator: Resize, to: Translation) -> None:
    edge, output = to.edge(operator), to.model.edges[operator.output]
    space = len(operator.lower)
    ratio = float(operator.factor.value[0]) * 2.0 ** (WEIGHT_BITS * space)
    value = to.real(edge, ratio * output.scale)
    sides = edge.shape[1:]
    if _is_exact(operator, sides) or (max(sides) > _LONGEST and ratio <= _STEEPEST):
        value = _by_resize(value, operator, to)
    else:
        value = _by_matrices(value, operator, to)
    to.write_rounded_up(value, operator)


def _is_exact(operator: Resize, sides: Sequence[int]) -> bool:
    """Whether the places that the runtime computes are the reference's, multiples of 2**-11: twice as many, 4 times."""
    for size, step, lower, weights in zip(sides, operator.scales, operator.lower, operator.weights, strict=True):
        outputs = np.arange(len(lower))
        places = outputs * step if operator.align_corners else np.maximum((outputs + 0.5) * step - 0.5, 0)
        if not np.array_equal(np.minimum(places, size - 1), np.add(lower, np.array(weights) * 2.0**-WEIGHT_BITS)):
            return False
    return True


def _by_matrices(value: str, operator: Resize, to: Translation) -> str:
    """One axis after the other, which is the reference's arithmetic: its weights are floats without a rounding."""
    builder, shape = to.builder, list(to.edge(operator).shape)
    function = _interpolation(opset(to.form))
    for axis, (lower, weights) in enumerate(zip(operator.lower, operator.weights, strict=True), 1):
        if list(lower) == list(range(shape[axis])) and not any(weights):
            continue
        places = builder.constant(np.array(lower, np.int32), f"{operator.name}.places")
        parts = builder.constant(np.array(weights, np.int16), f"{operator.name}.weights")
        matrix = builder.call(function, [places, parts], f"{operator.name}.matrix", size=shape[axis])
        value = along(value, shape, axis, matrix, len(lower), to)
    return value


def _interpolation(version: int) -> onnx.FunctionProto:
    """A function of the lower places and the weights of the ones after them: the matrix [places, size]."""
    size = helper.make_node("Constant", [], ["size"])
    size.attribute.add(name="value_int", ref_attr_name="size", type=onnx.AttributeProto.INT)

    def constant(name: str, value: np.generic | np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> onnx.NodeProto:
        return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.asarray(value)))

    nodes = [
        size,
        constant("values", np.array([0, 1], np.float32)),
        constant("one", np.array(1, np.int64)),
        constant("last", np.array([1], np.int64)),
        constant("step", np.array(2.0**-WEIGHT_BITS, np.float32)),
        helper.make_node("Cast", ["weights"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["wide", "step"], ["flat"]),
        helper.make_node("Unsqueeze", ["flat", "last"], ["part"]),
        helper.make_node("Cast", ["places"], ["first"], to=TensorProto.INT64),
        helper.make_node("Add", ["first", "one"], ["next"]),
        # a place beyond the end has no column: its weight is zero
        helper.make_node("OneHot", ["first", "size", "values"], ["lower"]),
        helper.make_node("OneHot", ["next", "size", "values"], ["upper"]),
        helper.make_node("Sub", ["upper", "lower"], ["difference"]),
        helper.make_node("Mul", ["difference", "part"], ["moved"]),
        helper.make_node("Add", ["lower", "moved"], ["matrix"]),
    ]
    opsets = [helper.make_opsetid("", version)]
    return helper.make_function(
        DOMAIN, "Interpolation", ["places", "weights"], ["matrix"], nodes, opsets, attributes=["size"]
    )


def _by_resize(value: str, operator: Resize, to: Translation) -> str:
    before, after = to.edge(operator).shape, to.model.edges[operator.output].shape
    scales = to.builder.constant(np.array([1, 1, *_scales(operator, before[1:], after[1:])], np.float32), "scales")
    places = "align_corners" if operator.align_corners else "half_pixel"
    return to.builder.node(
        "Resize",
        [value, "", scales],
        name=operator.name,
        hint=f"{operator.name}.real",
        mode="linear",
        coordinate_transformation_mode=places,
    )


def _scales(operator: Resize, before: Sequence[int], after: Sequence[int]) -> list[np.float32]:
    """Output places for each input place, so large that the output has as many as it should."""
    found = []
    for size, wanted, step in zip(before, after, operator.scales, strict=True):
        scale = np.float32(wanted / size if operator.align_corners else 1.0 / step)
        while int(size * float(scale)) < wanted:  # what float32 makes of it is not less
            scale = np.nextafter(scale, np.float32(np.inf))
        found.append(scale)
    return found
