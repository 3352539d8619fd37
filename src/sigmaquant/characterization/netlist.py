"""A flat netlist: instances of cells, nets as numbers, clocks told apart from data."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any

from sigmaquant.characterization.cells import Cell, ClockGate, FlipFlop, Pin
from sigmaquant.characterization.expressions import parse_expression
from sigmaquant.errors import CharacterizationError

ZERO, ONE = 0, 1
"""Nets of the constants; all other nets have higher numbers."""
CLOCK = "clk"
MAX_FANOUT = 16
"""Sinks of a net; more get buffers."""


@dataclass(frozen=True)
class Instance:
    """One placed cell: `nets` maps its connected pins to nets."""

    name: str
    cell: Cell
    nets: Mapping[str, int]


@dataclass(frozen=True)
class Netlist:
    """Instances and ports.

    Attributes:
        top: name of the module.
        instances: all cells.
        inputs, outputs: nets of the ports' bits, the lowest first.
    """

    top: str
    instances: tuple[Instance, ...]
    inputs: Mapping[str, tuple[int, ...]]
    outputs: Mapping[str, tuple[int, ...]]

    @cached_property
    def drivers(self) -> Mapping[int, tuple[int, str]]:
        """Net -> index of the instance and name of the pin that drive it."""
        return {
            net: (index, pin)
            for index, instance in enumerate(self.instances)
            for pin, net in instance.nets.items()
            if instance.cell.pins[pin].is_output
        }

    @cached_property
    def sinks(self) -> Mapping[int, tuple[tuple[int, str], ...]]:
        """Net -> instances and pins that it drives; output ports do not count."""
        found: dict[int, list[tuple[int, str]]] = defaultdict(list)
        for index, instance in enumerate(self.instances):
            for pin, net in instance.nets.items():
                if not instance.cell.pins[pin].is_output:
                    found[net].append((index, pin))
        return {net: tuple(pins) for net, pins in found.items()}

    @cached_property
    def clocks(self) -> Mapping[int, int | None]:
        """Clock net -> index of the clock gate that it comes from, None where the clock is not gated.

        Raises:
            CharacterizationError: a clock is used as data, or gated twice.
        """
        found: dict[int, int | None] = {}
        left: list[tuple[int, int | None]] = [(self.inputs[CLOCK][0], None)]
        while left:
            net, gate = left.pop()
            found[net] = gate
            for index, pin in self.sinks.get(net, ()):
                cell, nets = self.instances[index].cell, self.instances[index].nets
                if cell.clock_gate and pin == cell.clock_gate.clock and gate is None:
                    left.append((nets[cell.clock_gate.output], index))
                elif cell.identity():
                    left.append((nets[cell.outputs[0]], gate))
                elif not cell.flip_flop or pin != cell.flip_flop.clock:
                    raise CharacterizationError(
                        f"the clock of {self.top} goes to pin {pin} of {cell.name}; it may only go to flip-flops, "
                        "buffers and one level of clock gates."
                    )
        return found

    @cached_property
    def flip_flops(self) -> tuple[int, ...]:
        """Indices of the flip-flops."""
        return tuple(index for index, instance in enumerate(self.instances) if instance.cell.flip_flop)

    @cached_property
    def clock_gates(self) -> tuple[int, ...]:
        """Indices of the clock gates."""
        return tuple(index for index, instance in enumerate(self.instances) if instance.cell.clock_gate)

    @cached_property
    def order(self) -> tuple[int, ...]:
        """Indices of the combinational cells on data nets, each after all that it depends on.

        Raises:
            CharacterizationError: they form a loop.
        """
        logic = {
            index
            for index, instance in enumerate(self.instances)
            if not instance.cell.clock_pin and not any(net in self.clocks for net in instance.nets.values())
        }
        waiting = {
            index: sum(
                net in self.drivers and self.drivers[net][0] in logic
                for pin, net in self.instances[index].nets.items()
                if not self.instances[index].cell.pins[pin].is_output
            )
            for index in logic
        }
        ready = sorted((index for index, count in waiting.items() if not count), reverse=True)
        done: list[int] = []
        while ready:
            index = ready.pop()
            done.append(index)
            instance = self.instances[index]
            for pin in instance.cell.outputs:
                for other, _ in self.sinks.get(instance.nets.get(pin, ZERO), ()):
                    if other in waiting:
                        waiting[other] -= 1
                        if not waiting[other]:
                            ready.append(other)
        if len(done) != len(logic):
            raise CharacterizationError(f"{self.top} has a combinational loop.")
        return tuple(done)

    @property
    def area_um2(self) -> float:
        """Area of all cells."""
        return sum(instance.cell.area_um2 for instance in self.instances)

    @property
    def sequential_area_um2(self) -> float:
        """Area of flip-flops and clock gates."""
        return sum(instance.cell.area_um2 for instance in self.instances if instance.cell.clock_pin)

    @property
    def leakage_nw(self) -> float:
        """Leakage power of all cells."""
        return sum(instance.cell.leakage_nw for instance in self.instances)


def read_netlist(document: Mapping[str, Any], top: str, cells: Mapping[str, Cell]) -> Netlist:
    """The netlist of yosys' JSON document.

    Args:
        document: of `synthesize`.
        top: name of the module.
        cells: of the library, or `GENERIC_CELLS`.

    Raises:
        CharacterizationError: an instance is of a cell that is unknown or of which the library gives no function; a
            clock is used as data or gated twice; cells form a loop.
    """
    module = document["modules"][top]

    def net(bit: int | str) -> int:
        return bit if isinstance(bit, int) else (ONE if bit == "1" else ZERO)  # an unknown constant may be either

    instances = []
    for name, entry in module["cells"].items():
        cell = cells.get(entry["type"])
        if cell is None or not cell.usable:
            what = "is not in the library" if cell is None else "has no function in the library"
            raise CharacterizationError(f"{top} contains the cell {entry['type']!r}, which {what}.")
        nets = {pin: net(bits[0]) for pin, bits in entry["connections"].items() if bits}
        instances.append(Instance(name, cell, MappingProxyType(nets)))
    ports: dict[str, dict[str, tuple[int, ...]]] = {"input": {}, "output": {}}
    for name, entry in module["ports"].items():
        ports[entry["direction"]][name] = tuple(net(bit) for bit in entry["bits"])
    netlist = Netlist(top, tuple(instances), ports["input"], ports["output"])
    _ = netlist.clocks, netlist.order  # what cannot be simulated is refused here
    return netlist


def insert_buffers(netlist: Netlist, buffer: Cell) -> Netlist:
    """The netlist with balanced trees of buffers on all nets of more than `MAX_FANOUT` sinks, clocks included.

    They stand for what placement and routing would insert.
    """
    wiring = [dict(instance.nets) for instance in netlist.instances]
    names = [instance.name for instance in netlist.instances]
    cells = [instance.cell for instance in netlist.instances]
    fresh = max((net for nets in wiring for net in nets.values()), default=ONE) + 1
    (input_pin,), (output_pin,) = buffer.inputs, buffer.outputs
    for net, pins in netlist.sinks.items():
        if net in (ZERO, ONE):
            continue
        left: Sequence[tuple[int, str]] = pins
        while len(left) > MAX_FANOUT:
            count = math.ceil(len(left) / MAX_FANOUT)
            parts = [left[len(left) * k // count : len(left) * (k + 1) // count] for k in range(count)]
            left = []
            for part in parts:
                names.append(f"buffer_{len(names)}")
                cells.append(buffer)
                wiring.append({input_pin: net, output_pin: fresh})
                for index, pin in part:
                    wiring[index][pin] = fresh
                left.append((len(names) - 1, input_pin))
                fresh += 1
    instances = [
        Instance(name, cell, MappingProxyType(nets)) for name, cell, nets in zip(names, cells, wiring, strict=True)
    ]
    return Netlist(netlist.top, tuple(instances), netlist.inputs, netlist.outputs)


def _generic(name: str, function: str) -> Cell:
    expression = parse_expression(function)
    pins = {pin: Pin(pin, False, 0.0, None, (), ()) for pin in expression.names}
    pins["Y"] = Pin("Y", True, 0.0, expression, (), ())
    return Cell(name, 0.0, 0.0, pins)


def _generic_sequential(name: str, clock: str, data: str, output: str) -> Cell:
    pins = {pin: Pin(pin, pin == output, 0.0, None, (), ()) for pin in (clock, data, output)}
    if name == "clock_gate":
        return Cell(name, 0.0, 0.0, pins, clock_gate=ClockGate(clock, data, output))
    return Cell(name, 0.0, 0.0, pins, flip_flop=FlipFlop(clock, parse_expression(data), {output: False}))


GENERIC_CELLS: Mapping[str, Cell] = MappingProxyType(
    {
        cell.name: cell
        for cell in (
            _generic("$_NOT_", "!A"),
            _generic("$_BUF_", "A"),
            _generic("$_AND_", "A*B"),
            _generic("$_OR_", "A+B"),
            _generic("$_XOR_", "A^B"),
            _generic("$_MUX_", "(A*!S)+(B*S)"),
            _generic_sequential("$_DFF_P_", "C", "D", "Q"),
            _generic_sequential("clock_gate", "clk", "en", "gclk"),
        )
    }
)
"""yosys' gates, and the units' own clock gate: cells without area, delay or energy."""
