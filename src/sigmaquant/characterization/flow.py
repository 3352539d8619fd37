"""One unit on one library: the whole flow, and the profile it gives."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sigmaquant.characterization.icarus import cross_check, icarus_is_installed
from sigmaquant.characterization.liberty import Library, read_liberty
from sigmaquant.characterization.mac_units import ACCUMULATOR_BITS, LANES, MacUnit, find_unit
from sigmaquant.characterization.measurement import MappedUnit, Measurement, map_unit, measure
from sigmaquant.characterization.memory import memory_energy
from sigmaquant.characterization.netlist import MAX_FANOUT
from sigmaquant.characterization.stimuli import DOT_LENGTH, LayerSample, build_stimulus
from sigmaquant.characterization.waveforms import STEP_PS
from sigmaquant.errors import CharacterizationError
from sigmaquant.hardware.profile import SCHEMA_VERSION

STREAMS = 512
CYCLES = 8
"""Clock cycles that are simulated with delays, in each of `STREAMS` streams."""

Progress = Callable[[str, int, int], None]


def characterize(
    liberty: Path,
    unit: str,
    *,
    clock_mhz: float,
    weight_bits: Sequence[int] = (2, 4, 6, 8),
    activation_bits: Sequence[int] = (8,),
    samples: Sequence[LayerSample] | None = None,
    seed: int = 0,
    sram: Sequence[Path] = (),
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure a MAC unit on a cell library.

    The unit's Verilog is synthesised, its nets are buffered, its timing is analysed, and it runs `STREAMS` streams of
    weights and activations. Every step is compared with integer arithmetic, at first without delays; then `CYCLES`
    cycles are simulated with every cell's delays, so that glitches count.

    ``energy_per_mac_fj`` is all that the unit's cells and nets take: internal energy of all cells; charging of all nets
    (pins and the library's expected wires), those of the operands' inputs included; the clock network from the unit's
    clock input on, with its gates and a buffer for every 16 sinks; leakage. What the result's outputs drive, the
    memories, and what brings the operands are not included. ``energy_per_digit_fj`` is the slope between that stimulus
    and one of fewer digits at the same bitwidth. All figures are pre-layout; ratios are safer than absolute values.
    Where Icarus Verilog is installed, it runs some of the vectors too, and a note says what it makes of them.

    Args:
        liberty: standard-cell library, one corner; may be gzipped.
        unit: one of `MAC_UNITS`.
        clock_mhz: clock frequency.
        weight_bits: bitwidths of the weights, 2..8.
        activation_bits: bitwidths of the activations, 2..8; the unit is built for the widest, narrower ones come
            sign-extended.
        samples: layers of a real network instead of Gaussian values.
        seed: of everything random.
        sram: Liberty files of memory macros, for the profile's ``memory``.
        progress: called with a label, steps done and steps in all.

    Returns:
        A profile as `HardwareProfile.from_dict` reads it.

    Raises:
        LibertyError: a Liberty file is broken, foreign or lacks something.
        CharacterizationError: no such unit or bitwidth, synthesis failed, the clock is too fast, or a wrong result.
        MissingExtraError: pyosys is not installed.
        DataError: a sample cannot be used.
    """
    chosen = find_unit(unit)
    pairs = [(w, a) for a in sorted(set(activation_bits)) for w in sorted(set(weight_bits))]
    if not pairs or any(not 2 <= bits <= 8 for pair in pairs for bits in pair):
        raise CharacterizationError("bitwidths are integers from 2 to 8, at least one of weights and of activations.")
    if not clock_mhz > 0:
        raise CharacterizationError(f"clock_mhz is {clock_mhz}; it must be positive.")
    widths = {"weight": weight_bits, "activation": activation_bits}
    measurements = 1 if chosen.digits is None else 2
    warm_up = _warm_up_steps(chosen)
    ticks = _Ticks(progress, len(pairs) * measurements * (warm_up + CYCLES) + 1)
    ticks.label = "reading the libraries"
    ticks.show()
    macros = [memory_energy(path) for path in sram]
    library = read_liberty(liberty)
    ticks.label = "synthesis"
    ticks.show()
    period_ps = 1e6 / clock_mhz
    mapped = map_unit(chosen, library, period_ps=period_ps, activation_bits=max(activation_bits))
    ticks()
    table = []
    for w_bits, a_bits in pairs:
        results = []
        for sparse in (False, True)[:measurements]:
            ticks.label = f"{w_bits}-bit weights, {a_bits}-bit activations"
            stimulus = build_stimulus(
                chosen,
                w_bits,
                a_bits,
                streams=STREAMS,
                steps=2 * warm_up,  # fast streams of a unit with varying cycles must not begin anew
                lanes=LANES,
                seed=seed,
                samples=samples,
                sparse=sparse,
            )
            results.append(measure(mapped, stimulus, warm_up_steps=warm_up, cycles=CYCLES, tick=ticks))
        table.append(_entry(chosen, w_bits, a_bits, results))
    notes = []
    if icarus_is_installed():
        ticks.label = "cross-check with Icarus Verilog"
        ticks.show()
        notes.append(cross_check(mapped, stimulus, warm_up_steps=2, cycles=CYCLES).sentence())
    command = [
        f"sigmaquant hardware characterize --liberty {liberty.name} --unit {chosen.name} --clock-mhz {clock_mhz:g}",
        *(f"--{kind}-bits {','.join(map(str, sorted(set(bits))))}" for kind, bits in widths.items()),
        *(f"--sram {path.name}" for path in sram),
        f"--seed {seed}",
    ]
    return _profile(mapped, library, " ".join(command), clock_mhz, table, macros, samples, seed, notes)


def _warm_up_steps(unit: MacUnit) -> int:
    """A whole dot product, so that accumulators are as far into theirs as they usually are, and no fewer than 32."""
    return max(32, DOT_LENGTH // unit.macs_per_result(LANES))


class _Ticks:
    """Counts steps for the caller's progress display."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0
        self.label = ""

    def __call__(self) -> None:
        self._done += 1
        self.show()

    def show(self) -> None:
        if self._progress:
            self._progress(self.label, self._done, self._total)


def _entry(unit: MacUnit, w_bits: int, a_bits: int, results: Sequence[Measurement]) -> dict[str, Any]:
    dense, *rest = results
    slope = None
    if rest:
        digits = dense.digits_per_mac - rest[0].digits_per_mac
        slope = (dense.energy_per_mac_fj - rest[0].energy_per_mac_fj) / digits if digits else 0.0
    return {
        "w_bits": w_bits,
        "a_bits": a_bits,
        "digits_per_mac": _rounded(dense.digits_per_mac) if unit.digits else None,
        "cycles_per_mac": _rounded(dense.cycles_per_mac),
        "energy_per_mac_fj": _rounded(dense.energy_per_mac_fj),
        "energy_per_digit_fj": None if slope is None else _rounded(slope),
        "verified": True,  # `measure` raises at the first wrong result
        "vectors": sum(result.vectors for result in results),
    }


def _rounded(value: float) -> float:
    """Six digits: more would only be noise in the file."""
    return float(f"{value:.6g}")


def _profile(
    mapped: MappedUnit,
    library: Library,
    command: str,
    clock_mhz: float,
    table: list[dict[str, Any]],
    macros: list[dict[str, Any]],
    samples: Sequence[LayerSample] | None,
    seed: int,
    notes: list[str],
) -> dict[str, Any]:
    unit, netlist = mapped.unit, mapped.netlist
    stimuli = (
        f"{len(samples)} layers of a network, weights with MSE-optimal scales for each channel"
        if samples
        else f"Gaussian weights with MSE-optimal scales for each channel, rectified Gaussian activations, "
        f"dot products of {DOT_LENGTH}"
    )
    wire = f"wire-load model {library.wire_load.name}" if library.wire_load else "no wire loads"
    return {
        "schema_version": SCHEMA_VERSION,
        "name": f"{unit.name.replace('_', '-')}-{library.name}",
        "description": f"{unit.description[0].upper()}{unit.description[1:]}, on {library.name} at {clock_mhz:g} MHz.",
        "technology": {
            "library": library.name,
            "voltage_v": library.voltage_v,
            "corner": library.corner,
            "liberty_sha256": library.sha256,
            "layout": "pre-layout",
        },
        "compute": {
            "clock_mhz": float(clock_mhz),
            "parallel_macs": mapped.lanes,
            "unit": {
                "name": unit.name,
                "organisation": unit.organisation,
                "accumulator_bits": ACCUMULATOR_BITS,
                "area_um2": _rounded(netlist.area_um2),
                "sequential_area_um2": _rounded(netlist.sequential_area_um2),
                "min_period_ps": _rounded(mapped.timing.min_period_ps),
                "leakage_nw": _rounded(netlist.leakage_nw),
            },
            "digits": unit.digits,
            "cycles": {"rule": unit.cycles.rule, "minimum": unit.cycles.minimum},
            "table": table,
        },
        "memory": {"on_chip": macros},
        "method": {
            "date": datetime.date.today().isoformat(),
            "command": command,
            "simulator": f"NumPy gate-level simulation with inertial delays, time step {STEP_PS:g} ps, "
            f"{STREAMS} streams x {CYCLES} cycles",
            "stimuli": stimuli,
            "seed": seed,
            "notes": [
                f"Pre-layout: {wire}, a buffer for every {MAX_FANOUT} sinks, clocks included, no clock skew.",
                "Energy: cells, nets, clock network of the unit, leakage; no memories, nothing outside the unit.",
                "Every result of the mapped netlist equalled integer arithmetic.",
                *notes,
            ],
        },
        "baseline": None,
    }
