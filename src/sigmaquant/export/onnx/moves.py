"""Codes that only change their place."""

from __future__ import annotations

from math import prod

import numpy as np
import torch
from torch import Tensor

from sigmaquant.errors import ExportError
from sigmaquant.export.onnx.translation import UNSIGNED, Translation
from sigmaquant.lowering.model import Move


def translate_move(operator: Move, to: Translation) -> None:
    """Add a move to the graph.

    Raises:
        ExportError: its codes depend on more than their place (a maximum, a sorting).
    """
    builder, parameters = to.builder, operator.parameters
    codes, output = to.codes[operator.inputs[0]], to.codes[operator.output]
    before, after = to.edge(operator).shape, to.model.edges[operator.output].shape
    if operator.kind == "reshape":
        to.reshaped(codes, parameters["shape"], output)
    elif operator.kind == "slice":
        window = (parameters["start"], parameters["stop"], parameters["axis"] + 1, parameters["step"])
        builder.node("Slice", [codes, *(builder.integers(v) for v in window)], output, name=operator.name)
    elif operator.kind == "permute":
        axes = [0, *(axis + 1 for axis in parameters["axes"])]
        builder.node("Transpose", [codes], output, name=operator.name, perm=axes)
    elif operator.kind == "pad":
        sides = builder.integers(0, *parameters["before"], 0, *parameters["after"])
        zero = to.zero_point(to.edge(operator).zero_point + UNSIGNED)
        builder.node("Pad", [codes, sides, zero], output, name=operator.name)
    elif "upsample_nearest" in operator.kind and all(b % a == 0 for a, b in zip(before, after, strict=True)):
        factors = np.array([1, *(b // a for a, b in zip(before, after, strict=True))], np.float32)
        inputs = [codes, "", builder.constant(factors, "factors")]
        places = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        builder.node("Resize", inputs, output, name=operator.name, mode="nearest", **places)
    else:
        _by_index(operator, to)


def _by_index(operator: Move, to: Translation) -> None:
    """Any other move, as one Gather of the example's codes."""
    builder, edge = to.builder, to.edge(operator)
    codes, elements = to.codes[edge.name], prod(edge.shape)
    flat = to.reshaped(codes, (elements,))
    places = _places(operator, edge.shape, edge.zero_point)
    if (places == elements).any():  # filled with zeros: one more code at the end
        sides, zero = builder.integers(0, 0, 0, 1), to.zero_point(edge.zero_point + UNSIGNED)
        flat = builder.node("Pad", [flat, sides, zero], hint=f"{codes}.padded")
    index = builder.constant(places.reshape(-1).numpy().astype(np.int32), f"{operator.name}.index")
    moved = builder.node("Gather", [flat, index], name=operator.name, hint=f"{operator.name}.moved", axis=1)
    to.reshaped(moved, to.model.edges[operator.output].shape, to.codes[operator.output])


def _places(operator: Move, shape: tuple[int, ...], zero: int) -> Tensor:
    """For each output code the place of the input code that it copies; the number of input codes where it is zero.

    The operator itself is asked: it moves numbers that name their places.

    Raises:
        ExportError: it does other things than moving.
    """
    elements = prod(shape)
    numbers = torch.arange(elements, dtype=torch.float64) + 1000  # no zero-point among them
    found = operator.apply(numbers.reshape(1, *shape))[0]
    filled = found == zero
    places = torch.where(filled, elements, found - 1000).round().long()
    shuffled = numbers[torch.randperm(elements, generator=torch.Generator().manual_seed(0))]
    expected = torch.cat([shuffled, torch.tensor([float(zero)], dtype=torch.float64)])[places]
    if not torch.equal(operator.apply(shuffled.reshape(1, *shape))[0], expected):
        raise ExportError(
            f"{operator.name!r}: the operator {operator.kind!r} has no ONNX form here, since which codes it selects "
            "depends on their values. Replace it, for instance a maximum over a dimension by a max-pool."
        )
    return places
