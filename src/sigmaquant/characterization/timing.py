"""Static timing analysis: loads, slews, delays, and the shortest clock period."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sigmaquant.characterization.cells import Cell, TimingArc
from sigmaquant.characterization.liberty import Library
from sigmaquant.characterization.netlist import ONE, ZERO, Netlist

RISE, FALL = 0, 1
_DELAY = ("cell_rise", "cell_fall")
_SLEW = ("rise_transition", "fall_transition")
_CONSTRAINT = ("rise_constraint", "fall_constraint")
_IGNORED = ("setup", "hold", "recovery", "removal", "clear", "preset", "min_pulse", "three_state", "skew", "non_seq")

Edges = tuple[float, float]
"""A value for a rising and one for a falling edge."""


@dataclass(frozen=True)
class Timing:
    """What is known of a netlist without simulation.

    Attributes:
        min_period_ps: shortest clock period that all setup times allow, with an ideal clock network (no skew).
        load_ff: of every net: pins and the library's expected wire.
        slew_ps: of every net, the slowest edge.
        delay_ps: (instance, output pin) -> the slowest path through the cell.
    """

    min_period_ps: float
    load_ff: Mapping[int, float]
    slew_ps: Mapping[int, Edges]
    delay_ps: Mapping[tuple[int, str], Edges]


def analyze_timing(netlist: Netlist, library: Library) -> Timing:
    """Propagate arrival times and slews through the netlist.

    Inputs arrive with the clock edge, driven by the library's buffer.
    """
    return _Analysis(netlist, library).run()


class _Analysis:
    def __init__(self, netlist: Netlist, library: Library) -> None:
        self.netlist = netlist
        nets = {*netlist.drivers, *(net for port in netlist.inputs.values() for net in port)} - {ZERO, ONE}
        self.load = {net: self._load(net, library) for net in nets}
        buffer = library.buffer()
        pin = buffer.pins[buffer.inputs[0]]
        typical = self._worst(buffer, buffer.outputs[0], {pin.name: (0.0, 0.0)}, {}, 4 * pin.capacitance_ff)[1]
        self.arrival: dict[int, Edges] = {}
        self.slew: dict[int, Edges] = {ZERO: typical, ONE: typical}
        self.delay: dict[tuple[int, str], Edges] = {}
        for port in netlist.inputs.values():
            for net in port:
                self.arrival[net], self.slew[net] = (0.0, 0.0), typical

    def _load(self, net: int, library: Library) -> float:
        pins = self.netlist.sinks.get(net, ())
        return sum(self.netlist.instances[i].cell.pins[p].capacitance_ff for i, p in pins) + library.wire_ff(len(pins))

    def run(self) -> Timing:
        for index in (*self._clock_order(), *self.netlist.flip_flops, *self.netlist.order):
            self._visit(index)
        period = max((self._required(index) for index in range(len(self.netlist.instances))), default=0.0)
        return Timing(period, self.load, self.slew, self.delay)

    def _clock_order(self) -> list[int]:
        """Buffers and gates of the clock network, from the clock's input on."""
        found: list[int] = []
        left = list(self.netlist.inputs["clk"])
        while left:
            for index, _ in self.netlist.sinks.get(left.pop(), ()):
                if not self.netlist.instances[index].cell.flip_flop:
                    found.append(index)
                    left.extend(
                        self.netlist.instances[index].nets[p] for p in self.netlist.instances[index].cell.outputs
                    )
        return found

    def _visit(self, index: int) -> None:
        instance = self.netlist.instances[index]
        for pin in instance.cell.outputs:
            net = instance.nets.get(pin)
            if net is None:
                continue
            slews = {name: self.slew[other] for name, other in instance.nets.items() if other in self.slew}
            arrivals = {name: self.arrival[other] for name, other in instance.nets.items() if other in self.arrival}
            arrival, slew, delay = self._worst(instance.cell, pin, slews, arrivals, self.load[net])
            ideal = net in self.netlist.clocks  # all clocks tick at once
            self.arrival[net] = (0.0, 0.0) if ideal else arrival
            self.slew[net], self.delay[index, pin] = slew, delay

    @staticmethod
    def _worst(
        cell: Cell, pin: str, slews: Mapping[str, Edges], arrivals: Mapping[str, Edges], load_ff: float
    ) -> tuple[Edges, Edges, Edges]:
        """Arrival, slew and delay of an output, each the largest over all inputs."""
        arrival, slew, delay = [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]
        for arc in cell.pins[pin].arcs:
            if arc.related not in slews or arc.kind.startswith(_IGNORED):
                continue
            came = arrivals.get(arc.related, (0.0, 0.0))
            for edge in (RISE, FALL):
                if _DELAY[edge] not in arc.tables or _SLEW[edge] not in arc.tables:
                    continue
                for cause in _causes(arc, edge):
                    through = max(0.0, arc.tables[_DELAY[edge]](slews[arc.related][cause], load_ff))
                    delay[edge] = max(delay[edge], through)
                    arrival[edge] = max(arrival[edge], came[cause] + through)
                    slew[edge] = max(slew[edge], arc.tables[_SLEW[edge]](slews[arc.related][cause], load_ff))
        return (arrival[0], arrival[1]), (slew[0], slew[1]), (delay[0], delay[1])

    def _required(self, index: int) -> float:
        """The period that an instance's setup times ask for."""
        cell, nets = self.netlist.instances[index].cell, self.netlist.instances[index].nets
        if cell.clock_pin is None:
            return 0.0
        clock = self.slew[nets[cell.clock_pin]][RISE]
        return max(
            (
                self.arrival[nets[pin]][edge] + arc.tables[name](self.slew[nets[pin]][edge], clock)
                for pin in cell.inputs
                if nets.get(pin) in self.arrival
                for arc in cell.pins[pin].arcs
                if arc.kind == "setup_rising" and arc.related == cell.clock_pin
                for edge, name in enumerate(_CONSTRAINT)
                if name in arc.tables
            ),
            default=0.0,
        )


def _causes(arc: TimingArc, edge: int) -> tuple[int, ...]:
    """Edges of the input that can cause an edge of the output."""
    if arc.kind == "rising_edge":
        return (RISE,)
    if arc.kind == "falling_edge":
        return (FALL,)
    if arc.sense == "positive_unate":
        return (edge,)
    if arc.sense == "negative_unate":
        return (1 - edge,)
    return (RISE, FALL)
