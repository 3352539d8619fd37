"""Windows: which of LiteRT's two paddings gives the same places, and what to pad by hand where neither does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Window:
    """A kernel that slides along one dimension.

    Attributes:
        size: of the input.
        output: number of places.
        kernel: taps.
        stride: from place to place.
        dilation: from tap to tap.
        before: padding before the input; what is needed after it follows from the number of places.
    """

    size: int
    output: int
    kernel: int
    stride: int
    dilation: int
    before: int

    @property
    def reach(self) -> int:
        """From the first tap to the last one, both included."""
        return (self.kernel - 1) * self.dilation + 1

    @property
    def after(self) -> int:
        """Padding that the last place needs after the input."""
        return max(0, (self.output - 1) * self.stride + self.reach - self.size - self.before)

    @property
    def is_same(self) -> bool:
        """Whether ``SAME`` has the same places: as many as the stride divides into, its padding split in the middle."""
        places = -(-self.size // self.stride)
        total = max(0, (places - 1) * self.stride + self.reach - self.size)
        return self.output == places and self.before == total // 2

    @property
    def is_valid(self) -> bool:
        """Whether ``VALID`` has the same places: no padding, and as many as fit."""
        return self.before == 0 and self.output == (self.size - self.reach) // self.stride + 1


def lifted(numbers: Sequence[int], missing: int) -> tuple[int, int]:
    """Numbers of one or two dimensions as of two; `missing` stands for the height of what has none."""
    first, second = (missing, *numbers)[-2:]
    return first, second


def windows_of(*numbers: Sequence[int]) -> tuple[Window, ...]:
    """One window for each dimension, from `Window`'s attributes in order, each by dimension."""
    return tuple(Window(*values) for values in zip(*numbers, strict=True))


def padding_of(windows: tuple[Window, ...]) -> tuple[str, tuple[tuple[int, int], ...]]:
    """The padding's name, and the padding before and after that has to be done by hand before it.

    Example:
        >>> padding_of((Window(32, 16, 3, 2, 1, 1),) * 2)
        ('VALID', ((1, 0), (1, 0)))
        >>> padding_of((Window(32, 32, 3, 1, 1, 1),) * 2)
        ('SAME', ((0, 0), (0, 0)))
    """
    nothing = ((0, 0),) * len(windows)
    if all(window.is_valid for window in windows):
        return "VALID", nothing
    if all(window.is_same for window in windows):
        return "SAME", nothing
    return "VALID", tuple((window.before, window.after) for window in windows)
