"""What a cell of the library is: pins, function, delays, energies. Picoseconds, femtofarads, femtojoules, nanowatts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sigmaquant.characterization.expressions import Expression
from sigmaquant.characterization.tables import Table


@dataclass(frozen=True)
class TimingArc:
    """Delay from, or constraint towards, a related pin.

    Attributes:
        related: the other pin.
        kind: Liberty's ``timing_type``.
        sense: ``positive_unate``, ``negative_unate`` or ``non_unate``.
        tables: such as ``cell_rise``, ``rise_transition``, ``fall_constraint``.
    """

    related: str
    kind: str
    sense: str
    tables: Mapping[str, Table]


@dataclass(frozen=True)
class InternalPower:
    """Energy that a cell spends inside when the pin toggles, beside charging the pin's load.

    Attributes:
        related: the input that makes an output toggle; empty for an input's own energy.
        when: the state of the other pins in which it holds; None: any.
        rise, fall: [fJ] over input slew and output load.
    """

    related: str
    when: Expression | None
    rise: Table | None
    fall: Table | None


@dataclass(frozen=True)
class Pin:
    """One pin; `function` is None for inputs and for outputs whose function Liberty does not say."""

    name: str
    is_output: bool
    capacitance_ff: float
    function: Expression | None
    arcs: tuple[TimingArc, ...]
    powers: tuple[InternalPower, ...]


@dataclass(frozen=True)
class FlipFlop:
    """A rising-edge flip-flop.

    Attributes:
        clock: its clock pin.
        next_state: function of the other pins.
        inverted: for every output pin, whether it shows the state inverted.
    """

    clock: str
    next_state: Expression
    inverted: Mapping[str, bool]


@dataclass(frozen=True)
class ClockGate:
    """An integrated clock gate: `output` follows `clock` while the `enable` before the rising edge was 1."""

    clock: str
    enable: str
    output: str


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
        name, area_um2, leakage_nw: as the library says.
        pins: by name.
        flip_flop, clock_gate: what it is beside combinational, at most one of them.
        usable: combinational with a function for each output, a flip-flop, or a clock gate.
        dont_use: the library asks not to use it freely.
    """

    name: str
    area_um2: float
    leakage_nw: float
    pins: Mapping[str, Pin]
    flip_flop: FlipFlop | None = None
    clock_gate: ClockGate | None = None
    usable: bool = True
    dont_use: bool = False

    @property
    def clock_pin(self) -> str | None:
        """The pin that takes the clock, of a sequential cell."""
        sequential = self.flip_flop or self.clock_gate
        return sequential.clock if sequential else None

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the input pins."""
        return tuple(name for name, pin in self.pins.items() if not pin.is_output)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the output pins."""
        return tuple(name for name, pin in self.pins.items() if pin.is_output)

    def identity(self) -> bool:
        """Whether the cell is a buffer: one output that follows the only input."""
        if len(self.inputs) != 1 or len(self.outputs) != 1 or self.flip_flop or self.clock_gate:
            return False
        function = self.pins[self.outputs[0]].function
        return function is not None and function.names == self.inputs and function.truth() == 0b10
