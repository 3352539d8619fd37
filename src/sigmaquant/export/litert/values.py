"""Edges as tensors of the file: their grids, and their two layouts.

The network's own layout is *plain*: channels before space. LiteRT's image operators want an *image*, [N, H, W, C]; one
dimension of space is an image of height one, a vector an image of one place. An edge is brought into the layout that
an operator reads when it first does so, and stays where it is as long as operators do not care.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import numpy as np

from sigmaquant.errors import ExportError
from sigmaquant.export.litert.flatbuffer import FlatGraph, Grid
from sigmaquant.lowering.model import Edge, IntegerModel, Operator

Layout = Literal["plain", "image"]
LOWEST, HIGHEST = -128, 127


class Values:
    """The tensors of a model's edges in a graph that is being written.

    Args:
        model: in LiteRT's form.
        graph: where the tensors go.
        pack: whether weights may be stored with fewer than 8 bits.
    """

    def __init__(self, model: IntegerModel, graph: FlatGraph, pack: bool) -> None:
        self.model, self.graph, self.pack = model, graph, pack
        self._tensors: dict[tuple[str, Layout], int] = {}

    # -- grids -------------------------------------------------------------------------------------------------------

    def shift(self, name: str) -> int:
        """What is added to an edge's codes: narrow ones lie at the top of int8, where saturation clamps them."""
        return HIGHEST - self.model.edges[name].range[1]

    def grid(self, name: str) -> Grid:
        """Scale and zero-point of an edge's integers in the file."""
        edge = self.model.edges[name]
        return Grid((edge.scale,), edge.zero_point + self.shift(name))

    # -- tensors -----------------------------------------------------------------------------------------------------

    def put(self, name: str, layout: Layout, tensor: int) -> None:
        """Say which tensor holds an edge."""
        self._tensors[name, layout] = tensor

    def new(self, name: str, layout: Layout) -> int:
        """A tensor for an edge, which the caller's operator writes."""
        edge = self.model.edges[name]
        shape = edge.shape if layout == "plain" else image_shape(edge)
        tensor = self.graph.tensor(name, (1, *shape), "INT8", self.grid(name))
        self._tensors.setdefault((name, layout), tensor)
        return tensor

    def layout(self, *names: str) -> Layout:
        """The layout in which operators that do not care read these edges: as an image where one of them is one."""
        return "image" if any((name, "image") in self._tensors for name in names) else "plain"

    def plain(self, name: str) -> int:
        """The edge in the network's layout."""
        found = self._tensors.get((name, "plain"))
        return self._converted(name, "plain") if found is None else found

    def image(self, name: str) -> int:
        """The edge as [N, H, W, C]."""
        found = self._tensors.get((name, "image"))
        return self._converted(name, "image") if found is None else found

    def read(self, name: str, layout: Layout) -> int:
        """The edge in a layout."""
        return self.plain(name) if layout == "plain" else self.image(name)

    def flat(self, name: str) -> int:
        """The edge in any shape that has the order of the plain layout."""
        found = self._tensors.get((name, "image"))
        return found if found is not None and _same_order(self.model.edges[name]) else self.plain(name)

    def _converted(self, name: str, layout: Layout) -> int:
        edge = self.model.edges[name]
        source = self._tensors[name, "image" if layout == "plain" else "plain"]
        if _same_order(edge):
            return self.reshaped(source, self.new(name, layout))
        channels, *space = edge.shape
        if layout == "image":
            moved = self.transposed(source, (0, *range(2, len(edge.shape) + 1), 1), name)
            self.put(name, layout, moved if len(space) == 2 else self.reshaped(moved, self.new(name, layout)))
        else:
            if len(space) == 1:
                source = self._reshaped_to(source, (1, *space, channels), name)
            self.put(name, layout, self.transposed(source, (0, len(edge.shape), *range(1, len(edge.shape))), name))
        return self._tensors[name, layout]

    @staticmethod
    def axis(layout: Layout, rank: int, axis: int) -> int:
        """Where a dimension of an example with `rank` dimensions is in a tensor."""
        if layout == "plain":
            return axis + 1
        return 3 if axis == 0 else axis + 3 - rank

    # -- operators that only move ------------------------------------------------------------------------------------

    def reshaped(self, source: int, target: int) -> int:
        """The source in the target's shape; returns the target."""
        shape = (-1, *self.graph.shape(target)[1:])  # whatever the batch
        constant = self.graph.integers("shape", shape)
        options = {"newShape": np.array(shape, dtype=np.int32)}
        self.graph.operator("RESHAPE", (source, constant), target, 1, "ReshapeOptions", **options)
        return target

    def _reshaped_to(self, source: int, shape: tuple[int, ...], name: str) -> int:
        return self.reshaped(source, self.graph.tensor(name, shape, "INT8", self.grid(name)))

    def transposed(self, source: int, axes: tuple[int, ...], name: str) -> int:
        """A new tensor of an edge's grid with the source's dimensions in another order; itself where none moves."""
        if axes == tuple(range(len(axes))):
            return source
        shape = self.graph.shape(source)
        target = self.graph.tensor(name, [shape[axis] for axis in axes], "INT8", self.grid(name))
        inputs = (source, self.graph.integers("axes", axes))
        self.graph.operator("TRANSPOSE", inputs, target, 2 if len(axes) <= 4 else 4, "TransposeOptions")
        return target

    # -- clamping ----------------------------------------------------------------------------------------------------

    def clamped(self, operator: Operator, layout: Layout, write: Callable[[int, int], None], fuse: bool = True) -> None:
        """Write an operator whose output is clamped to its codes ``low..high``.

        Args:
            operator: has `low` and `high`.
            layout: of its output.
            write: writes the operator, given the output tensor and the activation that is fused into it.
            fuse: whether an activation can be.
        """
        name = operator.output
        low, high = (getattr(operator, end) + self.shift(name) for end in ("low", "high"))
        fused = next((a for a, ends in self._activations(name).items() if ends == (low, high)), None)
        if fused is not None and (fuse or fused == "NONE"):
            write(self.new(name, layout), self.graph.activation(fused))
            return
        target = self.new(name, layout)
        value = self.graph.tensor(f"{name}.unclamped", self.graph.shape(target), "INT8", self.grid(name))
        write(value, self.graph.activation("NONE"))
        self.clamp(value, target, low, high)

    def clamp(self, value: int, target: int, low: int, high: int) -> None:
        """Write the clamping of a tensor's integers to ``low..high``, which is narrower than int8."""
        graph, grid, shape = self.graph, self.graph.grid(target), self.graph.shape(target)
        bounds = [("MAXIMUM", low)] if low > LOWEST else []
        bounds += [("MINIMUM", high)] if high < HIGHEST else []
        for code, bound in bounds:
            last = (code, bound) == bounds[-1]
            result = target if last else graph.tensor(graph.tensors[value].name, shape, "INT8", grid)
            constant = graph.tensor("bound", (1,), "INT8", grid, np.array([bound], dtype=np.int8).tobytes())
            graph.operator(code, (value, constant), result, 2 if len(shape) <= 4 else 3, "MaximumMinimumOptions")
            value = result

    def _activations(self, name: str) -> dict[str, tuple[int, int]]:
        """What each activation clamps an edge's integers to; of two that do the same the first is taken."""
        grid = self.grid(name)
        six = grid.zero_point + 6.0 / float(np.float32(grid.scales[0]))
        found = {"NONE": (LOWEST, HIGHEST), "RELU": (grid.zero_point, HIGHEST)}
        if abs(six - math.floor(six) - 0.5) > 1e-3:  # at a tie, runtimes may round it to either side
            found["RELU6"] = (grid.zero_point, min(HIGHEST, round(six)))
        return found


def image_shape(edge: Edge) -> tuple[int, int, int]:
    """Height, width and channels.

    Raises:
        ExportError: three dimensions of space, or none and no channels.
    """
    if not 1 <= len(edge.shape) <= 3:
        raise ExportError(
            f"activation {edge.name!r} has shape {edge.shape}; LiteRT's image operators take channels and at most two "
            "dimensions of space. Export this network to another format."
        )
    channels, *space = edge.shape
    height, width = (1, 1, *space)[-2:]
    return height, width, channels


def _same_order(edge: Edge) -> bool:
    """Whether both layouts have their elements in the same order."""
    return edge.shape[0] == 1 or math.prod(edge.shape[1:]) == 1
