"""Where an activation's codes lie: strides. Reshapes, permutations and slices are views wherever strides allow it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

Ints = tuple[int, ...]

RANK = 4
"""Loops of the kernels that walk along strides."""


@dataclass(frozen=True)
class View:
    """A part of a buffer, or all of it.

    Attributes:
        buffer: its index.
        offset: of the first code, in codes.
        shape: of one example, in the order of the model's dimensions.
        strides: codes from one index to the next, by dimension.
    """

    buffer: int
    offset: int
    shape: Ints
    strides: Ints

    @property
    def count(self) -> int:
        """Number of codes."""
        return math.prod(self.shape)

    def has(self, strides: Ints) -> bool:
        """Whether the codes lie as `strides` say; a dimension of one index has no stride."""
        return all(n == 1 or a == b for n, a, b in zip(self.shape, self.strides, strides, strict=True))

    @property
    def is_dense(self) -> bool:
        """Whether the codes fill a contiguous piece of memory."""
        return self.has(dense(self.shape, self.strides))

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
        return View(self.buffer, self.offset + start * self.strides[axis], tuple(shape), tuple(strides))


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
    result, step = [0] * len(shape), 1
    for axis in sorted(range(len(shape)), key=lambda a: (like[a], -a)):
        result[axis] = step
        step *= shape[axis]
    return tuple(result)


def _reshaped(shape: Ints, strides: Ints, new: Ints) -> Ints | None:
    old = [(n, s) for n, s in zip(shape, strides, strict=True) if n != 1]
    result, j = [1] * len(new), len(new) - 1
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
    return tuple(result)


def collapsed(shape: Ints, *strides: Ints) -> tuple[Ints, ...] | None:
    """The fewest loops over `shape` that walk along all `strides`, filled up to `RANK`; None if that is too few.

    Loops are in the order of the last strides, the fastest inside.

    Returns:
        sizes, then the steps of each of `strides`.

    Example:
        >>> collapsed((3, 32, 32), (1024, 32, 1), (1, 96, 3))
        ((1, 1, 1024, 3), (0, 0, 1, 1024), (0, 0, 3, 1))
    """
    order = sorted((a for a, n in enumerate(shape) if n != 1), key=lambda a: -strides[-1][a])
    loops: list[tuple[int, Ints]] = []
    for axis in order:
        steps = tuple(s[axis] for s in strides)
        if loops and all(outer == inner * shape[axis] for outer, inner in zip(loops[-1][1], steps, strict=True)):
            loops[-1] = (loops[-1][0] * shape[axis], steps)
        else:
            loops.append((shape[axis], steps))
    if len(loops) > RANK:
        return None
    loops = [(1, (0,) * len(strides))] * (RANK - len(loops)) + loops
    return (tuple(n for n, _ in loops), *(tuple(steps[i] for _, steps in loops) for i in range(len(strides))))
