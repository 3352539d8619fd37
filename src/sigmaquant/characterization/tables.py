"""Look-up tables and wire loads of a cell library, in picoseconds, femtofarads and femtojoules."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """Values over one or two axes, interpolated linearly between its points and beyond them.

    Attributes:
        first, second: the axes' points, rising; one point: the value does not depend on that axis. Delays and energies:
            slew of the input [ps], load [fF]. Constraints: slew of the constrained pin, slew of the clock [ps].
        values: [len(first)][len(second)].
    """

    first: tuple[float, ...]
    second: tuple[float, ...]
    values: tuple[tuple[float, ...], ...]

    def __call__(self, first: float, second: float) -> float:
        """The value at a point."""
        row, row_part = _place(self.first, first)
        column, column_part = _place(self.second, second)
        low = _between(self.values[row], column, column_part)
        if not row_part:
            return low
        return low + row_part * (_between(self.values[row + 1], column, column_part) - low)


def _place(axis: tuple[float, ...], x: float) -> tuple[int, float]:
    if len(axis) == 1:
        return 0, 0.0
    index = min(max(bisect_right(axis, x) - 1, 0), len(axis) - 2)
    return index, (x - axis[index]) / (axis[index + 1] - axis[index])


def _between(values: tuple[float, ...], index: int, part: float) -> float:
    return values[index] + part * (values[index + 1] - values[index]) if part else values[index]


@dataclass(frozen=True)
class WireLoad:
    """What the library expects of the wire of a net that is not laid out yet.

    Attributes:
        name: of the model.
        capacitance_ff: of one unit of length.
        slope: length that each sink adds beyond the last point.
        fanouts, lengths: the points.
    """

    name: str
    capacitance_ff: float
    slope: float
    fanouts: tuple[float, ...]
    lengths: tuple[float, ...]

    def load_ff(self, fanout: int) -> float:
        """Capacitance of a net with so many sinks."""
        if not fanout or not self.fanouts:
            return 0.0
        if fanout >= self.fanouts[-1]:
            length = self.lengths[-1] + self.slope * (fanout - self.fanouts[-1])
        elif fanout <= self.fanouts[0]:
            length = self.lengths[0]
        else:
            length = Table(self.fanouts, (0.0,), tuple((value,) for value in self.lengths))(fanout, 0.0)
        return length * self.capacitance_ff
