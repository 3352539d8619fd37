"""Energy of simulated activity: charging nets, the cells' internal energy, leakage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sigmaquant.characterization.activity import Activity, NetEdges
from sigmaquant.characterization.cells import Cell, InternalPower
from sigmaquant.characterization.liberty import Library
from sigmaquant.characterization.netlist import ONE, ZERO, Netlist
from sigmaquant.characterization.tables import Table
from sigmaquant.characterization.timing import Timing


@dataclass(frozen=True)
class Energy:
    """Mean energy of one clock cycle [fJ].

    Attributes:
        combinational: internal energy of the logic and charging of the nets that it and the inputs drive.
        sequential: internal energy of the flip-flops' outputs and data pins, and charging of the nets they drive.
        clock: charging of all clock nets, internal energy of the flip-flops' clock pins, of clock gates and buffers.
        leakage: leakage power times the clock period.
    """

    combinational: float
    sequential: float
    clock: float
    leakage: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.combinational + self.sequential + self.clock + self.leakage


class PowerModel:
    """Prices the activity of one netlist.

    A net costs C V^2 / 2 an edge, C its pins and expected wire. Internal energy is looked up at the timing analysis'
    slews and loads. Where a cell's tables depend on the state of its pins, constants are respected; flip-flops' clock
    pins are priced by the counted states, their data pins by the half of the clock period; else the mean counts.

    Args:
        netlist: with its buffers.
        library: of its cells.
        timing: of the netlist.
    """

    def __init__(self, netlist: Netlist, library: Library, timing: Timing) -> None:
        self._netlist, self._timing = netlist, timing
        self._half_v2 = 0.5 * library.voltage_v**2
        self._leakage_nw = netlist.leakage_nw
        self._states: dict[tuple[object, ...], tuple[list[Table], list[Table]]] = {}

    def energy(self, activity: Activity, period_ps: float) -> Energy:
        """Mean energy of one cycle of one stream.

        Args:
            activity: what happened.
            period_ps: of the clock, for leakage.
        """
        netlist = self._netlist
        totals = {"combinational": 0.0, "sequential": 0.0, "clock": 0.0}
        for net, load_ff in self._timing.load_ff.items():
            edges = self._edges(net, activity)
            driver = netlist.drivers.get(net)
            kind = "combinational"
            if net in netlist.clocks:
                kind = "clock"
            elif driver and netlist.instances[driver[0]].cell.flip_flop:
                kind = "sequential"
            totals[kind] += self._half_v2 * load_ff * (edges.rises + edges.falls)
        for index, instance in enumerate(netlist.instances):
            cell = instance.cell
            on_clock = any(net in netlist.clocks for net in instance.nets.values()) and not cell.flip_flop
            for pin in cell.pins:
                is_clock = on_clock or pin == cell.clock_pin
                kind = "clock" if is_clock else "sequential" if cell.flip_flop else "combinational"
                totals[kind] += self._internal(index, pin, activity)
        leakage = self._leakage_nw * period_ps * 1e-6
        return Energy(**{kind: value / activity.cycles for kind, value in totals.items()}, leakage=leakage)

    def _edges(self, net: int, activity: Activity) -> NetEdges:
        if net in self._netlist.clocks:
            gate = self._netlist.clocks[net]
            pulses = activity.cycles if gate is None else activity.pulses.get(gate, 0)
            return NetEdges(pulses, pulses)
        return activity.of(net)

    def _slew(self, net: int) -> float:
        return sum(self._timing.slew_ps[net]) / 2

    def _internal(self, index: int, pin: str, activity: Activity) -> float:
        """Internal energy of one pin [fJ], all cycles together."""
        instance = self._netlist.instances[index]
        cell, nets = instance.cell, instance.nets
        if not cell.pins[pin].powers:
            return 0.0
        known = {name: net for name, net in nets.items() if net in (ZERO, ONE)}
        if cell.pins[pin].is_output:
            return self._output(cell, pin, nets, known, activity)
        net = nets.get(pin, ZERO)
        if net in (ZERO, ONE):
            return 0.0
        slew = self._slew(net)
        if cell.flip_flop and pin == cell.flip_flop.clock:
            return self._clock_pin(index, known, slew, activity)
        edges = self._edges(net, activity)
        if cell.clock_pin is None or pin == cell.clock_pin:
            return self._cost(cell, pin, known, slew, edges.rises, edges.falls)
        # A data pin costs another energy while the clock is high, which is the first half of the period.
        late = NetEdges(edges.late_rises, edges.late_falls)
        early = NetEdges(edges.rises - late.rises, edges.falls - late.falls)
        high, low = {**known, cell.clock_pin: 1}, {**known, cell.clock_pin: 0}
        first = self._cost(cell, pin, high, slew, early.rises, early.falls)
        return first + self._cost(cell, pin, low, slew, late.rises, late.falls)

    def _output(
        self, cell: Cell, pin: str, nets: Mapping[str, int], known: Mapping[str, int], activity: Activity
    ) -> float:
        edges = self._output_edges(cell, pin, nets, activity)
        if not edges.rises and not edges.falls:
            return 0.0
        load_ff = self._timing.load_ff[nets[pin]] if pin in nets else 0.0
        related = {power.related for power in cell.pins[pin].powers} & nets.keys() - known.keys()
        weights = {name: sum(self._edges(nets[name], activity)[:2]) for name in related}
        total = sum(weights.values())
        energy = 0.0
        for name, weight in sorted(weights.items()):
            if weight:
                slew = self._slew(nets[name])
                energy += weight / total * self._cost(cell, pin, known, slew, edges.rises, edges.falls, name, load_ff)
        return energy

    def _output_edges(self, cell: Cell, pin: str, nets: Mapping[str, int], activity: Activity) -> NetEdges:
        """Edges of an output; a flip-flop's unconnected output toggles with its other one."""
        if pin in nets:
            return self._edges(nets[pin], activity)
        if cell.flip_flop:
            for other, inverted in cell.flip_flop.inverted.items():
                if other in nets:
                    rises, falls, *_ = self._edges(nets[other], activity)
                    same = inverted == cell.flip_flop.inverted[pin]
                    return NetEdges(rises, falls) if same else NetEdges(falls, rises)
        return NetEdges()

    def _clock_pin(self, index: int, known: Mapping[str, int], slew: float, activity: Activity) -> float:
        cell = self._netlist.instances[index].cell
        assert cell.flip_flop
        counts = activity.states.get(index)
        if counts is None:
            return 0.0
        energy = 0.0
        data = cell.flip_flop.next_state
        for next_state in (0, 1):
            for state in (0, 1):
                pins = {name: state ^ inverted for name, inverted in cell.flip_flop.inverted.items()}
                if data.node[0] == "name":
                    pins[data.node[1]] = next_state
                rises, falls = (int(counts[edge, next_state, state]) for edge in (0, 1))
                energy += self._cost(cell, cell.flip_flop.clock, {**known, **pins}, slew, rises, falls)
        return energy

    def _cost(
        self,
        cell: Cell,
        pin: str,
        known: Mapping[str, int],
        slew_ps: float,
        rises: int,
        falls: int,
        related: str = "",
        load_ff: float = 0.0,
    ) -> float:
        """Internal energy of so many edges of a pin [fJ], the mean over all states that are possible."""
        key = (cell.name, pin, related, *sorted(known.items()))
        if key not in self._states:
            self._states[key] = _possible(cell.pins[pin].powers, related, known)
        energy = 0.0
        for count, tables in zip((rises, falls), self._states[key], strict=True):
            if count and tables:
                energy += count * sum(table(slew_ps, load_ff) for table in tables) / len(tables)
        return energy


def _possible(
    powers: tuple[InternalPower, ...], related: str, known: Mapping[str, int]
) -> tuple[list[Table], list[Table]]:
    """Tables of rises and of falls that hold in some state; those for any state only where no other does."""
    mine = [power for power in powers if power.related == related]
    named = [power for power in mine if power.when is not None and power.when.possible(known)]
    chosen = named or [power for power in mine if power.when is None]
    return [power.rise for power in chosen if power.rise], [power.fall for power in chosen if power.fall]
