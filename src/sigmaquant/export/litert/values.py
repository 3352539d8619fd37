"""Edges as tensors of the file: their grids, and their two layouts.

The network's own layout is *plain*: channels before space. LiteRT's image operators want an *image*, [N, H, W, C]; one
dimension of space is an image of height one, a vector an image of one place. An edge is brought into the layout that
an operator reads when it first does so, and stays where it is as long as operators do not care.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from sigmaquant.errors import ExportError
from sigmaquant.export.litert.flatbuffer import FlatGraph, Grid
from sigmaquant.lowering.model import IntegerModel
from sigmaquant.operators import Edge

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
        graph.reserve(model.edges)
        self._tensors: dict[tuple[str, Layout], int] = {}

    # -- grids -------------------------------------------------------------------------------------------------------

    def shift(self, name: str) -> int:
        """What is added to an edge's codes: narrow ones lie at the top of int8, where saturation clamps them."""
        return HIGHEST - self.model.edges[name].range[1]

    def grid(self, name: str) -> Grid:
        """Scale and zero-point of an edge's integers in the file."""
        edge = self.model.edges[name]
        return Grid((edge.scale,), edge.zero_point + self.shift(name))

    def zero(self, name: str) -> int:
        """The integer in the file that stands for 0.0."""
        return self.model.edges[name].zero_point + self.shift(name)

    # -- tensors -----------------------------------------------------------------------------------------------------

    def put(self, name: str, layout: Layout, tensor: int) -> None:
        """Say which tensor holds an edge."""
        self._tensors[name, layout] = tensor

    def new(self, name: str, layout: Layout) -> int:
        """A tensor for an edge, which the caller's operator writes."""
        tensor = self.like(name, self.shape(name, layout))
        self._tensors.setdefault((name, layout), tensor)
        return tensor

    def like(self, name: str, shape: Sequence[int], label: str = "") -> int:
        """A tensor with an edge's type and grid, of any shape."""
        if not self.model.edges[name].has_grid:
            kind = "INT32" if self.model.edges[name].integers else "FLOAT32"
            return self.graph.tensor(label or name, shape, kind)
        return self.graph.tensor(label or name, shape, "INT8", self.grid(name))

    def shape(self, name: str, layout: Layout) -> tuple[int, ...]:
        """An edge's shape in a layout, with the batch dimension."""
        edge = self.model.edges[name]
        return (edge.rows, *(edge.shape if layout == "plain" else image_shape(edge)))

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
                source = self.reshaped(source, self.like(name, (edge.rows, *space, channels)))
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

    def transposed(self, source: int, axes: tuple[int, ...], name: str) -> int:
        """A new tensor of an edge's grid with the source's dimensions in another order; itself where none moves."""
        if axes == tuple(range(len(axes))):
            return source
        shape = self.graph.shape(source)
        target = self.like(name, [shape[axis] for axis in axes])
        inputs = (source, self.graph.integers("axes", axes))
        version = 6 if len(axes) > 5 else 4 if len(axes) > 4 else self.version(name)
        self.graph.operator("TRANSPOSE", inputs, target, version, "TransposeOptions")
        return target

    def version(self, name: str) -> int:
        """Of an operator that knew float first and 8 bits from its second version on."""
        return 2 if self.model.edges[name].has_grid else 1

    # -- other grids -------------------------------------------------------------------------------------------------

    def number(self, real: float, code: int = 1) -> int:
        """A real number as a constant that broadcasts; `code` is its magnitude, the scale does the rest."""
        data = np.array([-code if real < 0 else code], dtype=np.int8).tobytes()
        return self.graph.tensor("number", (1,), "INT8", Grid((abs(real) / code,)), data)

    def multiplied(self, source: int, real: float, grid: Grid) -> int:
        """A tensor times a number, on a grid."""
        target = self.graph.tensor(self.graph.name(source), self.graph.shape(source), "INT8", grid)
        self.graph.operator("MUL", (source, self.number(real)), target, 2, "MulOptions")
        return target

    # -- clamping ----------------------------------------------------------------------------------------------------

    def clamped(
        self,
        name: str,
        ends: tuple[int, int],
        layout: Layout,
        write: Callable[[int, int], None],
        *,
        fuse: bool = True,
        shape: tuple[int, ...] = (),
    ) -> None:
        """Write an operator whose output is clamped to its codes ``low..high``.

        Args:
            name: of the output edge.
            ends: `low` and `high`.
            layout: of the output.
            write: writes the operator, given the output tensor and the activation that is fused into it.
            fuse: whether an activation can be.
            shape: in which the operator writes; empty: that of the layout.
        """
        own = not shape or shape == self.shape(name, layout)
        target = self.new(name, layout) if own else self.like(name, shape, f"{name}.folded")
        self.write_clamped(name, ends, target, write, fuse=fuse)
        if not own:
            self.reshaped(target, self.new(name, layout))

    def write_clamped(
        self,
        name: str,
        ends: tuple[int, int],
        target: int,
        write: Callable[[int, int], None],
        *,
        fuse: bool = True,
    ) -> None:
        """Write an operator into a tensor that has an edge's grid, clamped to ``low..high``; see `clamped`."""
        low, high = max(LOWEST, ends[0] + self.shift(name)), ends[1] + self.shift(name)
        fused = next((a for a, clamps in self._activations(name).items() if clamps == (low, high)), None)
        if fused is not None and (fuse or fused == "NONE"):
            write(target, self.graph.activation(fused))
            return
        value = self.like(name, self.graph.shape(target), f"{name}.unclamped")
        write(value, self.graph.activation("NONE"))
        self.clamp(value, target, low, high)

    def clamp(self, value: int, target: int, low: int, high: int) -> None:
        """Write the clamping of a tensor's integers to ``low..high``, which is narrower than int8."""
        graph, grid, shape = self.graph, self.graph.grid(target), self.graph.shape(target)
        bounds = [("MAXIMUM", low)] if low > LOWEST else []
        bounds += [("MINIMUM", high)] if high < HIGHEST else []
        for code, bound in bounds:
            last = (code, bound) == bounds[-1]
            result = target if last else graph.tensor(graph.name(value), shape, "INT8", grid)
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
        ExportError: three dimensions of space.
    """
    if len(edge.shape) > 3:
        raise ExportError(
            f"activation {edge.name!r} has shape {edge.shape}; LiteRT's image operators take channels and at most two "
            "dimensions of space. Export this network to another format."
        )
    channels, *space = edge.shape or (1,)
    height, width = (1, 1, *space)[-2:]
    return height, width, channels


def _same_order(edge: Edge) -> bool:
    """Whether both layouts have their elements in the same order."""
    return len(edge.shape) < 2 or edge.shape[0] == 1 or math.prod(edge.shape[1:]) == 1
