"""What happened on the nets in simulated clock cycles: the numbers that energy follows from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sigmaquant.characterization.functional import FunctionalModel, Words


class NetEdges(NamedTuple):
    """Edges of a net; the late ones come in the second half of the clock period, and are among the others."""

    rises: int = 0
    falls: int = 0
    late_rises: int = 0
    late_falls: int = 0


@dataclass
class Activity:
    """Sums over streams and cycles.

    Attributes:
        cycles: streams times cycles.
        edges: of every data net that changed.
        pulses: clock gate -> pulses that it let through.
        states: flip-flop -> [2, 2, 2] clock edges that it saw: [rising or falling edge, its next state, its state].
    """

    cycles: int = 0
    edges: dict[int, NetEdges] = field(default_factory=dict)
    pulses: dict[int, int] = field(default_factory=dict)
    states: dict[int, NDArray[np.int64]] = field(default_factory=dict)

    def add_edges(self, net: int, edges: NetEdges) -> None:
        """Add what one data net did."""
        self.edges[net] = NetEdges(*(a + b for a, b in zip(self.of(net), edges, strict=True)))

    def of(self, net: int) -> NetEdges:
        """Edges of a data net."""
        return self.edges.get(net, NetEdges())

    def add_clocks(self, model: FunctionalModel, before: Words, after: Words, old: Words, new: Words) -> None:
        """Add the clocks of one cycle.

        Args:
            model: of the netlist.
            before, after: all nets before the clock edge, and at the end of the cycle.
            old, new: the flip-flops before and after the edge.
        """
        for gate in model.netlist.clock_gates:
            self.pulses[gate] = self.pulses.get(gate, 0) + before[model.enable_net(gate)].bit_count()
        for number, index in enumerate(model.netlist.flip_flops):
            clocked = model.clocked(number, before)
            seen = self.states.setdefault(index, np.zeros((2, 2, 2), np.int64))
            for edge, (values, state) in enumerate(((before, old[number]), (after, new[number]))):
                data = model.next_state(number, values)
                total, ones, held = clocked.bit_count(), (data & clocked).bit_count(), (state & clocked).bit_count()
                both = (data & state & clocked).bit_count()
                seen[edge] += ((total - ones - held + both, held - both), (ones - both, both))
