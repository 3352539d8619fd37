"""Where an activation's codes lie: strides. Reshapes, permutations and slices are views wherever strides allow it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

Ints = tuple[int, ...]

RANK = 4
"""Loops of the kernels that walk along strides; more stand around their calls."""


@dataclass(frozen=True)
class View:
    """A part of a buffer, or all of it.

    Attributes:
        buffer: its index.
        offset: of the first code, in codes.
        shape: of one row of an example, in the order of the model's dimensions.
        strides: codes from one index to the next, by dimension; 0 where they are repeated.
        rows: of one example.
        row_stride: codes from one row to the next.
    """

    buffer: int
    offset: int
    shape: Ints
    strides: Ints
    rows: int = 1
    row_stride: int = 0

    @property
    def count(self) -> int:
        """Number of codes of a row."""
        return math.prod(self.shape)

    @property
    def whole(self) -> View:
        """All rows as one: they become the first dimension where there are several."""
        if self.rows == 1:
            return self
        return View(self.buffer, self.offset, (self.rows, *self.shape), (self.row_stride, *self.strides))

    def folded(self, rows: int) -> View:
        """The first dimension as rows again."""
        if rows == 1:
            return self
        return View(self.buffer, self.offset, self.shape[1:], self.strides[1:], rows, self.strides[0])

    def has(self, strides: Ints) -> bool:
        """Whether the codes lie as `strides` say; a dimension of one index has no stride."""
        return all(n == 1 or a == b for n, a, b in zip(self.shape, self.strides, strides, strict=True))

    @property
    def is_dense(self) -> bool:
        """Whether the codes fill a contiguous piece of memory."""
        return self.has(self.dense)

    @property
    def dense(self) -> Ints:
        """Strides of the same order without gaps."""
        return dense(self.shape, self.strides)

    def dense_for(self, shape: Ints) -> Ints:
        """Strides of another shape without gaps, in the same order; what has one index here lies where it belongs."""
        order = sorted(range(len(shape)), key=lambda a: (self.strides[a], self.shape[a] != 1, -a))
        return _filled(shape, order)

    def reshaped(self, shape: Ints) -> View | None:
        """The same codes in another shape; None where no strides express it."""
        strides = _reshaped(self.shape, self.strides, shape)
        return None if strides is None else replace(self, shape=shape, strides=strides)

    def permuted(self, axes: Ints) -> View:
        """Dimensions in another order."""
        return replace(self, shape=tuple(self.shape[a] for a in axes), strides=tuple(self.strides[a] for a in axes))

    def sliced(self, axis: int, start: int, step: int, size: int) -> View:
        """Every `step`-th of `size` indices of an axis."""
        shape, strides = list(self.shape), list(self.strides)
        shape[axis], strides[axis] = size, strides[axis] * step
        offset = self.offset + start * self.strides[axis]
        return replace(self, offset=offset, shape=tuple(shape), strides=tuple(strides))

    def split(self, axis: int, sizes: Ints, steps: Ints, start: int) -> View:
        """An axis as several: index ``i, j`` of them is index ``start + i * steps[0] + j * steps[1]`` of it."""
        stride = self.strides[axis]
        shape = (*self.shape[:axis], *sizes, *self.shape[axis + 1 :])
        strides = (*self.strides[:axis], *(step * stride for step in steps), *self.strides[axis + 1 :])
        return replace(self, offset=self.offset + start * stride, shape=shape, strides=strides)

    def broadcast(self, shape: Ints) -> Ints:
        """Strides over a larger shape of the same rank: 0 along what is repeated."""
        return tuple(0 if n < m else s for n, m, s in zip(self.shape, shape, self.strides, strict=True))


def natural(shape: Ints) -> Ints:
    """Strides of the last dimension being the fastest: the layout of a model's inputs and outputs.

    Example:
        >>> natural((3, 32, 32))
        (1024, 32, 1)
    """
    return tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))


def channels_last(shape: Ints) -> Ints:
    """Strides of the first dimension being the fastest: the layout of windows.

    Example:
        >>> channels_last((3, 32, 32))
        (1, 96, 3)
    """
    return (1, *(n * shape[0] for n in natural(shape[1:]))) if shape else ()


def dense(shape: Ints, like: Ints) -> Ints:
    """Strides without gaps, the dimensions in the same order of speed as in `like`."""
    return _filled(shape, sorted(range(len(shape)), key=lambda a: (like[a], -a)))


def _filled(shape: Ints, order: list[int]) -> Ints:
    result, step = [0] * len(shape), 1
    for axis in order:
        result[axis] = step
        step *= shape[axis]
    return tuple(result)


def _reshaped(shape: Ints, strides: Ints, new: Ints) -> Ints | None:
    old = [(n, s) for n, s in zip(shape, strides, strict=True) if n != 1]
    result, j = [0] * len(new), len(new) - 1
    while old:
        size, step = old.pop()
        while old and old[-1][1] == size * step:  # one run of memory
            size *= old.pop()[0]
            # the run's step is that of its fastest dimension
        while size > 1:
            if j < 0 or size % new[j]:
                return None
            result[j] = step
            step, size, j = step * new[j], size // new[j], j - 1
    for axis, size in enumerate(new):  # a single index lies inside the dimension before it
        if size == 1:
            result[axis] = (
                result[axis - 1] if axis else max((n * s for n, s in zip(new, result, strict=True)), default=1)
            )
    return tuple(result)


@dataclass(frozen=True)
class Loop:
    """A loop along strides.

    Attributes:
        count: how often.
        steps: codes from one round to the next, for each of what it walks along.
    """

    count: int
    steps: Ints


def loops(shape: Ints, *strides: Ints) -> list[Loop]:
    """The fewest loops over `shape` that walk along all `strides`, in the order of the last, the fastest inside.

    Example:
        >>> loops((3, 32, 32), (1024, 32, 1), (1, 96, 3))
        [Loop(count=1024, steps=(1, 3)), Loop(count=3, steps=(1024, 1))]
    """
    order = sorted((a for a, n in enumerate(shape) if n != 1), key=lambda a: -strides[-1][a])
    found: list[Loop] = []
    for axis in order:
        steps = tuple(s[axis] for s in strides)
        if found and all(outer == inner * shape[axis] for outer, inner in zip(found[-1].steps, steps, strict=True)):
            found[-1] = Loop(found[-1].count * shape[axis], steps)
        else:
            found.append(Loop(shape[axis], steps))
    return found
