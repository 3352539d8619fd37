"""Zero-delay simulation of a netlist: every net is one Python integer, whose bit s belongs to stream s.

Python computes with integers of any length, so that a thousand independent streams cost little more than one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from sigmaquant.characterization.netlist import CLOCK, ONE, ZERO, Netlist

Words = list[int]
"""A value for each net, by the net's number."""


class FunctionalModel:
    """A netlist as a function from inputs and state to the settled values of all nets.

    Args:
        netlist: what to simulate.
        streams: how many run beside each other.
    """

    def __init__(self, netlist: Netlist, streams: int) -> None:
        self.netlist = netlist
        self.ones = (1 << streams) - 1
        self.ports = {name: nets for name, nets in netlist.inputs.items() if name != CLOCK}
        self._size = 1 + max(
            (net for instance in netlist.instances for net in instance.nets.values()),
            default=ONE,
        )
        self._size = max(self._size, 1 + max(net for nets in netlist.inputs.values() for net in nets))
        self._settle = self._compile()
        self._capture = [self._flip_flop(index) for index in netlist.flip_flops]

    def _compile(self) -> Callable[[Sequence[int], Sequence[int], Words, int], None]:
        lines = ["def settle(inputs, state, w, ones):", f"    w[{ZERO}] = 0", f"    w[{ONE}] = ones"]
        nets = [net for port in self.ports.values() for net in port]
        lines.append(f"    [{', '.join(f'w[{net}]' for net in nets)}] = inputs")
        for number, index in enumerate(self.netlist.flip_flops):
            instance = self.netlist.instances[index]
            assert instance.cell.flip_flop
            for pin, inverted in instance.cell.flip_flop.inverted.items():
                if pin in instance.nets:
                    value = f"state[{number}]"
                    lines.append(f"    w[{instance.nets[pin]}] = {f'ones ^ {value}' if inverted else value}")
        for index in self.netlist.order:
            instance = self.netlist.instances[index]
            names = {pin: f"w[{net}]" for pin, net in instance.nets.items()}
            for pin in instance.cell.outputs:
                function = instance.cell.pins[pin].function
                if pin in instance.nets and function:
                    lines.append(f"    {names[pin]} = {function.source(names)}")
        scope: dict[str, Callable[[Sequence[int], Sequence[int], Words, int], None]] = {}
        exec("\n".join(lines), scope)
        return scope["settle"]

    def _flip_flop(self, index: int) -> tuple[Callable[..., int], tuple[int, ...], int | None]:
        """The function of the next state, its nets, and the net that enables the clock."""
        instance = self.netlist.instances[index]
        flip_flop = instance.cell.flip_flop
        assert flip_flop
        gate = self.netlist.clocks[instance.nets[flip_flop.clock]]
        function = flip_flop.next_state
        return (
            function.compiled(),
            tuple(instance.nets[name] for name in function.names),
            None if gate is None else self.enable_net(gate),
        )

    def enable_net(self, gate: int) -> int:
        """The net that lets a clock gate's clock through."""
        instance = self.netlist.instances[gate]
        assert instance.cell.clock_gate
        return instance.nets[instance.cell.clock_gate.enable]

    def next_state(self, flip_flop: int, values: Words) -> int:
        """What a flip-flop (by its place among the flip-flops) would capture from the nets at `values`."""
        function, nets, _ = self._capture[flip_flop]
        return function(*(values[net] for net in nets), self.ones)

    def clocked(self, flip_flop: int, values: Words) -> int:
        """The streams in which a clock edge that finds the nets at `values` reaches the flip-flop."""
        enable = self._capture[flip_flop][2]
        return self.ones if enable is None else values[enable]

    def initial(self) -> Words:
        """The state in which every flip-flop holds 0: a word for each flip-flop."""
        return [0] * len(self.netlist.flip_flops)

    def settle(self, inputs: Mapping[str, Sequence[int]], state: Words) -> Words:
        """All nets after everything has settled.

        Args:
            inputs: for every port but the clock, a word for each bit.
            state: a word for each flip-flop.
        """
        values = [0] * self._size
        flat = [word for name in self.ports for word in inputs[name]]
        self._settle(flat, state, values, self.ones)
        return values

    def clock(self, values: Words, state: Words) -> Words:
        """The flip-flops after a rising clock edge that finds the nets at `values`."""
        return [
            held ^ (self.clocked(number, values) & (held ^ self.next_state(number, values)))
            for number, held in enumerate(state)
        ]
