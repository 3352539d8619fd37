"""Operators that move values: reshaping, slicing, joining, padding; and pools and resizing."""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np
import torch
from torch import fx
from torch.nn import functional as F

from sigmaquant.errors import ModelFileError
from sigmaquant.frontends.building import BATCHES
from sigmaquant.frontends.onnx.elementwise import axes_of
from sigmaquant.frontends.onnx.file import Operation
from sigmaquant.frontends.onnx.layers import spatial_pads
from sigmaquant.frontends.onnx.reader import Reader, handles
from sigmaquant.frontends.onnx.values import Known
from sigmaquant.frontends.spatial import GLOBAL_POOLS, pool

_Shape = tuple[int, ...]


def _known(value: Any, what: str) -> Known:
    if not isinstance(value, Known):
        raise ModelFileError(f"its {what} depends on the values of the input. Only fixed ones are read.")
    return value


def _given(inputs: list[Any], position: int) -> Any:
    return inputs[position] if len(inputs) > position else None


@handles("Reshape")
def _reshape(reader: Reader, operation: Operation, inputs: list[Any]) -> fx.Node:
    x, wanted = reader.node(inputs[0]), _known(inputs[1], "shape")
    zeros = bool(operation.attributes.get("allowzero", 0))
    small, large = reader.builder.shapes(x)
    if wanted.fixed and (own := reader.file_shape(x)) is not None:
        target = resolved(own, wanted.numbers, zeros)
        return reshaped(reader, x, *_with_batch(own, (small, large), target, reader.file.batch or 1))
    targets = [
        resolved(shape, [int(v) for v in values.reshape(-1)], zeros)
        for shape, values in ((small, wanted.small), (large, wanted.large))
    ]
    return reshaped(reader, x, targets[0], targets[1])


def resolved(shape: _Shape, wanted: list[int], zeros: bool) -> _Shape:
    """The shape that a Reshape asks for, with its 0 and -1 put in."""
    found = [shape[i] if size == 0 and not zeros else size for i, size in enumerate(wanted)]
    if -1 in found:
        rest = math.prod(size for size in found if size != -1)
        found[found.index(-1)] = math.prod(shape) // rest if rest else 0
    return tuple(found)


def _with_batch(own: _Shape, shapes: tuple[_Shape, _Shape], target: _Shape, batch: int) -> tuple[_Shape, _Shape]:
    """A target shape, written for one batch size, at the two that are read with.

    The order of values does not change. So the batch, which lies behind the dimensions before it, lies behind as many
    values in the target. For a batch size of one that may still be one of two dimensions; what is chosen wrongly shows
    when the network is held against the file's own runtime.
    """
    grown = next((axis for axis, (a, b) in enumerate(zip(*shapes, strict=True)) if a != b), None)
    if grown is None:
        return target, target
    before = math.prod(own[:grown])
    behind = [math.prod(target[:axis]) for axis in range(len(target))]
    exact = [i for i, size in enumerate(target) if size == batch and before <= behind[i] <= before * own[grown]]
    starts = [i for i, size in enumerate(target) if behind[i] == before and size % batch == 0]
    axis = next(iter([i for i in exact if i in starts] or exact or starts), None)
    if axis is not None and axis > 0 and axis == len(target) - 1 and target[axis] != batch:
        axis -= 1  # features stay apart from examples: time and batch become one, batch and features do not
    if axis is not None:
        small, large = (
            tuple(s if i != axis else s * count // batch for i, s in enumerate(target)) for count in BATCHES
        )
        if math.prod(small) == math.prod(shapes[0]):
            return small, large
    raise ModelFileError(
        f"a reshape of {list(own)} to {list(target)} mixes the {batch} examples of a batch. Export the file with a "
        "batch of any size (dynamic_axes or dynamic_shapes of torch.onnx.export)."
    )


def reshaped(reader: Reader, x: fx.Node, small: _Shape, large: _Shape) -> fx.Node:
    """The node's tensor in another shape; the first size that depends on the batch is left to PyTorch."""
    if (small, large) == reader.builder.shapes(x):
        return x
    if math.prod(small) != math.prod(reader.builder.shapes(x)[0]):
        raise ModelFileError(f"{list(reader.builder.shapes(x)[0])} cannot become {list(small)}.")
    sizes: list[Any] = []
    for first, second in zip(small, large, strict=True):
        if first == second:
            sizes.append(first)
        else:
            sizes.append(-1 if -1 not in sizes else reader.size_node(first, second))
    return reader.builder.function(torch.reshape, x, tuple(sizes))


@handles("Flatten")
def _flatten(reader: Reader, operation: Operation, inputs: list[Any]) -> fx.Node:
    x = reader.node(inputs[0])
    axis = operation.attributes.get("axis", 1)
    axis = axis % reader.builder.rank(x) if axis < 0 else axis
    if axis == 1:
        return x if reader.builder.rank(x) == 2 else reader.builder.function(torch.flatten, x, 1)
    small, large = ((math.prod(s[:axis]), math.prod(s[axis:])) for s in reader.builder.shapes(x))
    return reshaped(reader, x, small, large)


@handles("Transpose")
def _transpose(reader: Reader, operation: Operation, inputs: list[Any]) -> Any:
    order = operation.attributes.get("perm") or list(reversed(range(reader.rank(inputs[0]))))
    if list(order) == sorted(order):
        return inputs[0]
    return reader.builder.function(torch.permute, reader.node(inputs[0]), tuple(order))


@handles("Squeeze")
def _squeeze(reader: Reader, operation: Operation, inputs: list[Any]) -> Any:
    x = reader.node(inputs[0])
    axes = axes_of(reader, operation, inputs)
    if axes is None:
        axes = [axis for axis, size in enumerate(reader.builder.shapes(x)[1]) if size == 1]
    return reader.builder.function(torch.squeeze, x, tuple(axis % reader.builder.rank(x) for axis in axes))


@handles("Unsqueeze")
def _unsqueeze(reader: Reader, operation: Operation, inputs: list[Any]) -> Any:
    x = reader.node(inputs[0])
    axes = axes_of(reader, operation, inputs) or []
    rank = reader.builder.rank(x) + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = reader.builder.function(torch.unsqueeze, x, axis)
    return x


@handles("Slice")
def _slice(reader: Reader, operation: Operation, inputs: list[Any]) -> Any:
    x = reader.node(inputs[0])
    rank = reader.builder.rank(x)
    starts, ends = _known(inputs[1], "start"), _known(inputs[2], "end")
    axes = axes_of(reader, operation, inputs, 3)
    axes = list(range(len(np.atleast_1d(starts.small)))) if axes is None else [axis % rank for axis in axes]
    given = _given(inputs, 4)
    steps = [1] * len(axes) if given is None else given.numbers
    parts: list[Any] = [slice(None)] * rank
    flipped = []
    for position, (axis, step) in enumerate(zip(axes, steps, strict=True)):
        ranges = []
        bounds = ((starts.small, ends.small), (starts.large, ends.large))
        for sizes, (start, end) in zip(reader.builder.shapes(x), bounds, strict=True):
            chosen = range(sizes[axis])[slice(int(start.reshape(-1)[position]), int(end.reshape(-1)[position]), step)]
            ranges.append((chosen, sizes[axis]))
        if all(len(chosen) == size and step == 1 for chosen, size in ranges):
            continue
        (chosen, size), (other, _) = ranges
        if chosen != other:
            raise ModelFileError("it cuts the batch. Only cuts of single examples are read.")
        if step < 0:
            flipped.append(axis)
            chosen = chosen[::-1]
            if chosen.step != 1 and len(chosen) > 1:
                raise ModelFileError("steps below -1 are not read.")
        stop = chosen.stop
        every = None if chosen.step == 1 else chosen.step
        parts[axis] = slice(chosen.start or None, None if stop >= size else stop, every)
    while parts and parts[-1] == slice(None):
        parts.pop()
    if parts:
        x = reader.builder.function(operator.getitem, x, tuple(parts))
    return reader.builder.function(torch.flip, x, tuple(flipped)) if flipped else x


@handles("Split")
def _split(reader: Reader, operation: Operation, inputs: list[Any]) -> tuple[Any, ...]:
    x = reader.node(inputs[0])
    axis = operation.attributes.get("axis", 0) % reader.builder.rank(x)
    size, count = reader.builder.shapes(x)[0][axis], len(operation.outputs)
    sizes = operation.attributes.get("split")
    if sizes is None:
        given = _given(inputs, 1)
        step = -(-size // count)
        sizes = [step] * (count - 1) + [size - step * (count - 1)] if given is None else given.numbers
    found = reader.builder.function(torch.split, x, list(sizes), axis)
    return tuple(reader.builder.function(operator.getitem, found, index) for index in range(count))


@handles("Concat")
def _concat(reader: Reader, operation: Operation, inputs: list[Any]) -> Any:
    axis = operation.attributes["axis"] % reader.rank(inputs[0])
    shapes = [reader.sizes(value) for value in inputs]
    nodes = []
    for value, (small, _) in zip(inputs, shapes, strict=True):
        node = reader.node(value)
        sizes: list[Any] = []
        for dim, size in enumerate(small):  # a token that the file repeats for its own batch size
            wanted = {other[dim] for pair in shapes for other in pair[:1] if dim != axis}
            grown = next(
                (reader.size_node(a[dim], b[dim]) for a, b in shapes if dim != axis and a[dim] != b[dim]), None
            )
            sizes.append(grown if grown is not None and size != max(wanted) and _is_batch(reader, size) else -1)
        nodes.append(node if set(map(str, sizes)) == {"-1"} else reader.builder.method("expand", node, *sizes))
    return reader.builder.function(torch.cat, nodes, axis)


def _is_batch(reader: Reader, size: int) -> bool:
    return size == 1 == reader.file.batch


@handles("Expand")
def _expand(reader: Reader, operation: Operation, inputs: list[Any]) -> Any:
    x, wanted = reader.node(inputs[0]), _known(inputs[1], "shape")
    small, large = reader.builder.shapes(x)
    targets = [
        np.broadcast_shapes(shape, tuple(int(v) for v in values.reshape(-1)))
        for shape, values in ((small, wanted.small), (large, wanted.large))
    ]
    if tuple(targets) == (small, large):
        return x
    offset = len(targets[0]) - len(small)
    sizes = [
        -1 if axis >= offset and small[axis - offset] == a and large[axis - offset] == b else reader.size_node(a, b)
        for axis, (a, b) in enumerate(zip(*targets, strict=True))
    ]
    return reader.builder.method("expand", x, *sizes)


@handles("Tile")
def _tile(reader: Reader, operation: Operation, inputs: list[Any]) -> Any:
    repeats = _known(inputs[1], "number of repetitions").numbers
    return inputs[0] if set(repeats) == {1} else reader.builder.method("repeat", reader.node(inputs[0]), *repeats)


_PAD_MODES = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}


@handles("Pad")
def _pad(reader: Reader, operation: Operation, inputs: list[Any]) -> Any:
    x = reader.node(inputs[0])
    rank = reader.builder.rank(x)
    numbers = _known(inputs[1], "padding").numbers
    axes = axes_of(reader, operation, inputs, 3)
    axes = list(range(rank)) if axes is None else [axis % rank for axis in axes]
    pairs = {axis: (numbers[i], numbers[len(axes) + i]) for i, axis in enumerate(axes)}
    padded = [axis for axis, pair in pairs.items() if any(pair)]
    if not padded:
        return x
    flat = [n for axis in range(rank - 1, min(padded) - 1, -1) for n in pairs.get(axis, (0, 0))]
    mode = _PAD_MODES[operation.attributes.get("mode", "constant")]
    given = _given(inputs, 2)
    if mode != "constant":
        spatial = {4: 4, 3: 2, 5: 6}.get(rank, len(flat))
        return reader.builder.function(F.pad, x, (flat + [0] * spatial)[: max(spatial, len(flat))], mode)
    value = 0.0 if given is None else reader.operand(given)
    return reader.builder.function(F.pad, x, flat, mode, value)


@handles("MaxPool", "AveragePool")
def _pool(reader: Reader, operation: Operation, inputs: list[Any]) -> fx.Node:
    if len(operation.outputs) > 1 and operation.outputs[1]:
        raise ModelFileError("the positions of its maxima are not read.")
    x = reader.node(inputs[0])
    given = operation.attributes
    kernel = list(given["kernel_shape"])
    ones = [1] * len(kernel)
    stride, dilation = list(given.get("strides", ones)), list(given.get("dilations", ones))
    pads = spatial_pads(operation, list(reader.builder.shapes(x)[0][2:]), kernel, stride, dilation)
    return pool(
        reader.builder,
        x,
        "max" if operation.kind == "MaxPool" else "average",
        kernel,
        stride,
        pads,
        dilation,
        ceil=bool(given.get("ceil_mode", 0)),
        count_pads=bool(given.get("count_include_pad", 0)),
    )


@handles("GlobalAveragePool", "GlobalMaxPool")
def _global_pool(reader: Reader, operation: Operation, inputs: list[Any]) -> Any:
    x = reader.node(inputs[0])
    kind = "average" if operation.kind == "GlobalAveragePool" else "max"
    return reader.builder.function(GLOBAL_POOLS[kind][reader.builder.rank(x) - 3], x, 1)


@handles("Resize")
def _resize(reader: Reader, operation: Operation, inputs: list[Any]) -> Any:
    x, _, scales, sizes = [*inputs, None, None, None][:4]
    given, node = operation.attributes, reader.node(x)
    old = reader.builder.shapes(node)[0]
    if sizes is not None and np.size(_known(sizes, "size").small):
        wanted = [int(v) for v in sizes.small.reshape(-1)]
        factors = [new / size for new, size in zip(wanted, old, strict=True)] if len(wanted) == len(old) else []
        new = wanted[2:]
        if len(wanted) == 2:
            new, factors = wanted, [1.0, 1.0, *(a / b for a, b in zip(wanted, old[2:], strict=True))]
    else:
        factors = [float(v) for v in _known(scales, "scale").array.reshape(-1)]
        factors = factors if len(factors) == len(old) else [1.0, 1.0, *factors]
        new = [math.floor(size * factor) for size, factor in zip(old[2:], factors[2:], strict=True)]
    kind, place = given.get("mode", "nearest"), given.get("coordinate_transformation_mode", "half_pixel")
    if given.get("exclude_outside", 0) or given.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise ModelFileError("exclude_outside and keep_aspect_ratio_policy are not read.")
    if list(old[2:]) == new:
        return node
    if kind == "nearest":
        whole = all(float(factor).is_integer() for factor in factors[2:])
        floor = place == "asymmetric" and given.get("nearest_mode", "round_prefer_floor") == "floor"
        mode = "nearest" if whole or floor else "nearest-exact"
        return reader.builder.function(F.interpolate, node, tuple(new), mode=mode)
    mode = {"linear": ("linear", "bilinear", "trilinear")[len(new) - 1], "cubic": "bicubic"}[kind]
    if place not in ("half_pixel", "pytorch_half_pixel", "align_corners"):
        raise ModelFileError(f"the coordinates {place!r} of a {kind} resizing have no form in PyTorch.")
    if mode == "bicubic" and abs(given.get("cubic_coeff_a", -0.75) + 0.75) > 1e-6:
        raise ModelFileError("PyTorch's bicubic resizing has the coefficient -0.75 only.")
    options: dict[str, Any] = {"mode": mode, "align_corners": place == "align_corners"}
    if given.get("antialias", 0):
        options["antialias"] = True
    return reader.builder.function(F.interpolate, node, tuple(new), **options)


@handles("DepthToSpace")
def _depth_to_space(reader: Reader, operation: Operation, inputs: list[Any]) -> Any:
    x, block = reader.node(inputs[0]), operation.attributes["blocksize"]
    if operation.attributes.get("mode", "DCR") == "CRD":
        return reader.builder.function(F.pixel_shuffle, x, block)
    _, channels, height, width = reader.builder.shapes(x)[0]
    parts = reader.builder.function(torch.reshape, x, (-1, block, block, channels // block**2, height, width))
    ordered = reader.builder.function(torch.permute, parts, (0, 3, 4, 1, 5, 2))
    return reader.builder.function(torch.reshape, ordered, (-1, channels // block**2, height * block, width * block))


@handles("SpaceToDepth")
def _space_to_depth(reader: Reader, operation: Operation, inputs: list[Any]) -> Any:
    x, block = reader.node(inputs[0]), operation.attributes["blocksize"]
    _, channels, height, width = reader.builder.shapes(x)[0]
    parts = reader.builder.function(torch.reshape, x, (-1, channels, height // block, block, width // block, block))
    ordered = reader.builder.function(torch.permute, parts, (0, 3, 5, 1, 2, 4))
    return reader.builder.function(torch.reshape, ordered, (-1, channels * block**2, height // block, width // block))


@handles("GatherElements")
def _gather_elements(reader: Reader, operation: Operation, inputs: list[Any]) -> Any:
    axis = operation.attributes.get("axis", 0) % reader.rank(inputs[0])
    return reader.builder.function(torch.gather, reader.node(inputs[0]), axis, reader.node(inputs[1]))


@handles("Trilu")
def _triangle(reader: Reader, operation: Operation, inputs: list[Any]) -> Any:
    given = _given(inputs, 1)
    offset = 0 if given is None else given.numbers[0]
    function = torch.triu if operation.attributes.get("upper", 1) else torch.tril
    return reader.builder.function(function, reader.node(inputs[0]), offset)
