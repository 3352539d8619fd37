"""Energy of a mapped unit under one stimulus, checked against integer arithmetic on the way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sigmaquant.characterization.activity import Activity
from sigmaquant.characterization.liberty import Library
from sigmaquant.characterization.mac_units import LANES, MacUnit
from sigmaquant.characterization.netlist import Netlist, insert_buffers, read_netlist
from sigmaquant.characterization.power import Energy, PowerModel
from sigmaquant.characterization.synthesis import synthesize
from sigmaquant.characterization.testbench import Stimulus, TestBench
from sigmaquant.characterization.timing import Timing, analyze_timing
from sigmaquant.characterization.waveforms import STEP_PS, WaveformSimulator
from sigmaquant.errors import CharacterizationError


@dataclass(frozen=True)
class MappedUnit:
    """A unit as cells of a library.

    Attributes:
        unit: what it is.
        netlist: with its buffers.
        timing: of the netlist.
        period_ps: of the clock.
        lanes: MACs of a step.
        power: prices activity.
    """

    unit: MacUnit
    netlist: Netlist
    timing: Timing
    period_ps: float
    lanes: int
    power: PowerModel


@dataclass(frozen=True)
class Measurement:
    """What one stimulus cost.

    Attributes:
        digits_per_mac: mean non-zero digits of the weights; 0 where the unit counts none.
        cycles_per_mac: mean cycles of a step, in which the unit does all its MACs.
        energy_per_mac_fj: of one MAC.
        energy: of one clock cycle of the whole unit, by its parts.
        vectors: steps whose results were found right.
    """

    digits_per_mac: float
    cycles_per_mac: float
    energy_per_mac_fj: float
    energy: Energy
    vectors: int


def map_unit(
    unit: MacUnit, library: Library, *, period_ps: float, activation_bits: int = 8, lanes: int = LANES
) -> MappedUnit:
    """Synthesise a unit, buffer its nets, and analyse its timing.

    Raises:
        MissingExtraError: pyosys is not installed.
        CharacterizationError: synthesis failed, or the unit is too slow for the clock.
    """
    document = synthesize(unit, library, period_ps=period_ps, activation_bits=activation_bits, lanes=lanes)
    netlist = insert_buffers(read_netlist(document, unit.name, library.cells), library.buffer())
    timing = analyze_timing(netlist, library)
    if timing.min_period_ps > period_ps:
        raise CharacterizationError(
            f"{unit.name} needs {timing.min_period_ps:.0f} ps for a cycle, the clock gives {period_ps:.0f} ps. "
            f"Choose at most {int(1e6 / timing.min_period_ps)} MHz."
        )
    return MappedUnit(unit, netlist, timing, period_ps, lanes, PowerModel(netlist, library, timing))


def measure(
    mapped: MappedUnit,
    stimulus: Stimulus,
    *,
    warm_up_steps: int,
    cycles: int,
    step_ps: float = STEP_PS,
    tick: Callable[[], None] = lambda: None,
) -> Measurement:
    """Simulate a stimulus, every step checked, the last cycles with delays and counted.

    Args:
        mapped: the unit.
        stimulus: what it computes; the number of its streams is a multiple of 64.
        warm_up_steps: steps of every stream before counting, so that accumulators hold what they usually hold.
        cycles: clock cycles that are counted, of all streams.
        step_ps: time step of the simulation.
        tick: called now and then.

    Raises:
        CharacterizationError: a result is not that of integer arithmetic.
    """
    search_state = TestBench(mapped.netlist, mapped.unit, stimulus)
    for _ in range(warm_up_steps):
        search_state.run(1)
        tick()
    simulator = WaveformSimulator(mapped.netlist, mapped.timing, mapped.period_ps, len(stimulus.delay), step_ps)
    activity = Activity()
    for _ in range(cycles):
        old = search_state.state
        before, after = search_state.cycle()
        simulator.cycle(before, after, activity)
        activity.add_clocks(search_state.model, before, after, old, search_state.state)
        tick()
    energy = mapped.power.energy(activity, mapped.period_ps)
    unit, bits = mapped.unit, stimulus.weight_bits
    cycles_per_mac = float(unit.step_cycles(stimulus.weights, bits).mean())
    return Measurement(
        digits_per_mac=float(unit.step_digits(stimulus.weights, bits).mean()),
        cycles_per_mac=cycles_per_mac,
        energy_per_mac_fj=energy.total * cycles_per_mac / mapped.lanes,
        energy=energy,
        vectors=search_state.steps,
    )
