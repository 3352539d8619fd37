"""A second opinion where Icarus Verilog is installed: the same vectors through an event-driven simulator."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sigmaquant.characterization.activity import Activity
from sigmaquant.characterization.mac_units import ACCUMULATOR_BITS, verilog
from sigmaquant.characterization.measurement import MappedUnit
from sigmaquant.characterization.netlist import CLOCK, ONE, ZERO
from sigmaquant.characterization.testbench import Stimulus, TestBench
from sigmaquant.characterization.waveforms import WaveformSimulator
from sigmaquant.errors import CharacterizationError
from sigmaquant.runs.scratch import ScratchFolder

_TIMEOUT_S = 600
_TESTBENCH = """
module testbench;
  reg [{width}-1:0] vectors [0:{cycles}-1], now = 0;
  reg clk = 0, counting = 0;
  integer i;
{wires}
  {top} {parameters} dut ({ports});
  initial begin
    $readmemh("vectors.hex", vectors);
    #{half};
    for (i = 0; i < {cycles}; i = i + 1) begin
      counting = (i >= {start});
      clk = 1; #1 now = vectors[i]; #({half}-1) clk = 0; #{half};
      $display("%b %b", ready, acc);
    end
    {report}
    $finish;
  end
endmodule
"""


@dataclass(frozen=True)
class CrossCheck:
    """What Icarus Verilog made of the vectors that our simulators ran.

    Attributes:
        cycles: clock cycles compared.
        edges: edges of all data nets of the mapped netlist in our simulation with delays.
        icarus_edges: the same in Icarus Verilog, with the delays rounded to whole picoseconds only.
    """

    cycles: int
    edges: int
    icarus_edges: int

    def sentence(self) -> str:
        """For a profile's notes."""
        return (
            f"Icarus Verilog: all outputs of the Verilog and of the mapped netlist equal in {self.cycles} cycles; our "
            f"simulation counts {100 * (self.edges / self.icarus_edges - 1):+.1f} % edges of nets."
        )


def icarus_is_installed() -> bool:
    """Whether the programs ``iverilog`` and ``vvp`` are on the path."""
    return shutil.which("iverilog") is not None and shutil.which("vvp") is not None


def cross_check(
    mapped: MappedUnit, stimulus: Stimulus, *, warm_up_steps: int, cycles: int, resolution_ps: float = 1.0
) -> CrossCheck:
    """Run the first stream through the unit's Verilog and through its mapped netlist, in Icarus Verilog.

    Args:
        mapped: the unit.
        stimulus: its first stream counts.
        warm_up_steps: steps before the cycles that are compared.
        cycles: how many to compare.
        resolution_ps: time step of Icarus Verilog; with that of our simulation both must count the same.

    Raises:
        CharacterizationError: an output differs, or Icarus Verilog fails.
    """
    streams = 64  # a whole word; all of them the same
    same = np.zeros(streams, int)
    stimulus = Stimulus(
        stimulus.weight_bits,
        stimulus.weights[same],
        stimulus.activations[same],
        stimulus.first[same],
        stimulus.delay[same],
    )
    search_state = TestBench(mapped.netlist, mapped.unit, stimulus)
    vectors: list[str] = []
    outputs: list[str] = []
    simulator = WaveformSimulator(mapped.netlist, mapped.timing, mapped.period_ps, streams)
    activity = Activity()
    counted = 0
    while counted < cycles:
        before, after = search_state.cycle()
        bits = [word & 1 for name in search_state.model.ports for word in search_state.inputs[name]]
        vectors.append(f"{sum(bit << place for place, bit in enumerate(bits)):x}")
        shown = [after[net] & 1 for name in ("acc", "ready") for net in mapped.netlist.outputs[name]]
        acc, ready = shown[:-1], shown[-1]
        outputs.append(f"{ready} {''.join(map(str, reversed(acc)))}")
        if search_state.steps >= warm_up_steps * streams:
            simulator.cycle(before, after, activity)
            counted += 1
    unit = mapped.unit
    sources = "".join(verilog(name) for name in ("clock_gate", *unit.shared, unit.name))
    widths = {name: len(nets) for name, nets in mapped.netlist.inputs.items() if name != CLOCK}
    activation_bits = widths["a"] // mapped.lanes
    parameters = f"#(.AB({activation_bits}), .ACC({ACCUMULATOR_BITS}), .LANES({mapped.lanes}))"
    half = round(mapped.period_ps / 2 / resolution_ps)
    start = len(vectors) - cycles
    acc_width = len(mapped.netlist.outputs["acc"])
    for text, values in ((sources, parameters), (_gates(mapped, resolution_ps), "")):
        bench_text = _testbench(unit.name, widths, acc_width, values, len(vectors), start, half, reports=not values)
        lines = _simulate(text + bench_text, vectors)
        # Registers hold unknown values until the first step in Icarus Verilog, zeros here.
        for cycle in range(start, len(outputs)):
            if lines[cycle] != outputs[cycle]:
                raise CharacterizationError(
                    f"{unit.name}: in cycle {cycle} Icarus Verilog has ready and acc {lines[cycle]}, "
                    f"our simulation {outputs[cycle]}."
                )
    ours = sum(edges.rises + edges.falls for edges in activity.edges.values())
    return CrossCheck(cycles, ours // streams, int(lines[-1].split()[-1]))


def _testbench(
    top: str,
    widths: dict[str, int],
    acc_width: int,
    parameters: str,
    cycles: int,
    start: int,
    half: int,
    reports: bool,
) -> str:
    place, ports = 0, [".clk(clk)", ".acc(acc)", ".ready(ready)"]
    for name, width in widths.items():
        ports.append(f".{name}(now[{place} +: {width}])")
        place += width
    return _TESTBENCH.format(
        width=place,
        cycles=cycles,
        start=start,
        half=half,
        top=top,
        parameters=parameters,
        ports=", ".join(ports),
        wires=f"  wire [{acc_width}-1:0] acc; wire ready;",
        report='$display("edges %0d", dut.edges);' if reports else "",
    )


def _gates(mapped: MappedUnit, resolution_ps: float) -> str:
    """The mapped netlist with its delays, and a counter of all edges of data nets."""
    netlist = mapped.netlist
    lines = [f"module {netlist.top} ({', '.join([*netlist.inputs, *netlist.outputs])});", "  integer edges = 0;"]
    for direction, ports in (("input", netlist.inputs), ("output", netlist.outputs)):
        lines += [f"  {direction} [{len(nets) - 1}:0] {name};" for name, nets in ports.items()]
    data = [net for net in netlist.drivers if net not in netlist.clocks]
    inputs = [net for name, nets in netlist.inputs.items() if name != CLOCK for net in nets]
    lines += [f"  wire n{net};" for net in {*data, *inputs, *netlist.clocks, ZERO, ONE}]
    lines += [f"  assign n{ZERO} = 1'b0, n{ONE} = 1'b1;"]
    for name, nets in netlist.inputs.items():
        lines += [f"  assign n{net} = {name}[{bit}];" for bit, net in enumerate(nets)]
    for name, nets in netlist.outputs.items():
        lines += [f"  assign {name}[{bit}] = n{net};" for bit, net in enumerate(nets)]
    lines += [f"  always @(n{net}) if (testbench.counting) edges = edges + 1;" for net in (*data, *inputs)]
    root = netlist.inputs[CLOCK][0]
    lines += [
        f"  assign n{net} = {f'n{root}' if gate is None else f'n{root} & e{gate}'};"
        for net, gate in netlist.clocks.items()
        if net != root
    ]
    for index in netlist.clock_gates:
        gate = netlist.instances[index].cell.clock_gate
        assert gate
        enable = netlist.instances[index].nets[gate.enable]
        lines.append(f"  reg e{index} = 0; always @(n{root} or n{enable}) if (!n{root}) e{index} = n{enable};")

    def delay(index: int, pin: str) -> str:
        return ", ".join(str(max(1, round(value / resolution_ps))) for value in mapped.timing.delay_ps[index, pin])

    for index in (*netlist.flip_flops, *netlist.order):
        instance = netlist.instances[index]
        names = {pin: f"n{net}" for pin, net in instance.nets.items()}
        flip_flop = instance.cell.flip_flop
        if flip_flop:
            value = _boolean(flip_flop.next_state.source(names))
            lines.append(f"  reg q{index} = 0; always @(posedge {names[flip_flop.clock]}) q{index} <= {value};")
        for pin in instance.cell.outputs:
            if pin not in names:
                continue
            function = instance.cell.pins[pin].function
            if flip_flop:
                value = f"{'~' if flip_flop.inverted[pin] else ''}q{index}"
            else:
                assert function
                value = _boolean(function.source(names))
            delays = delay(index, pin) if (index, pin) in mapped.timing.delay_ps else "1"
            lines.append(f"  assign #({delays}) {names[pin]} = {value};")
    return "\n".join([*lines, "endmodule", ""])


def _boolean(source: str) -> str:
    return source.replace("ones", "1'b1")


def _simulate(text: str, vectors: Sequence[str]) -> list[str]:
    with ScratchFolder() as folder:
        (folder / "all.v").write_text(text, encoding="utf-8")
        (folder / "vectors.hex").write_text("\n".join(vectors) + "\n", encoding="utf-8")
        output = ""
        for command in (["iverilog", "-g2005", "-s", "testbench", "-o", "simulation", "all.v"], ["vvp", "simulation"]):
            try:
                done = subprocess.run(
                    command, cwd=folder, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
                )
            except (OSError, subprocess.TimeoutExpired) as error:
                raise CharacterizationError(f"{command[0]} could not run: {error}.") from None
            if done.returncode:
                raise CharacterizationError(f"{command[0]} failed: {(done.stderr or done.stdout)[-600:].strip()}")
            output = done.stdout
        return output.splitlines()
