"""Costs on a measured device: cycles, latency, energy, bytes and memory of a plan, layer by layer.

The arithmetic model is deliberately plain: MACs x measured cost of a MAC, all parallel MACs busy, and every weight and
activation moved once (compulsory traffic, a lower bound). What a dataflow adds is for tools
made for it, such as ZigZag.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from math import prod
from typing import Any

from torch import Tensor

from sigmaquant.budget import Cost, PointCost, SizeCounts
from sigmaquant.errors import HardwareProfileError
from sigmaquant.graph.buffers import activation_buffers, peak_activation_bytes
from sigmaquant.graph.specs import LayerSpec, QuantGraph
from sigmaquant.hardware.costs import FLOAT_BITS, IdealCosts, input_bits, output_channels, packed_bytes
from sigmaquant.hardware.digits import DigitStatistics, digit_statistics, weight_digits
from sigmaquant.hardware.own_costs import OWN_COSTS
from sigmaquant.hardware.profile import (
    Compute,
    CycleRule,
    Encoding,
    Entry,
    HardwareProfile,
    LayerClass,
    Macro,
    OperatingPoint,
)
from sigmaquant.plan import BitwidthPlan

_FJ_PER_PJ = 1000.0
_FLOAT_BYTES = 4
_HAVE_WEIGHTS = ("input", "layer")
_RESERVE = 0.025
"""Compensated rounding turns zeros into digits: 0.04, 0.58 and 2.16 % more energy on ResNet-20 at 4, 3 and 2.5 bits."""


@dataclass(frozen=True)
class LayerCost:
    """What one layer costs in one inference. `None`: the profile does not give that quantity.

    Attributes:
        name: the layer.
        weight_bytes: packed codes.
        scale_bytes: float32 scales.
        bias_bytes: the bias, one of an absorbed BatchNorm included.
        bops: MACs x weight bits x activation bits.
        digits_per_mac: non-zero digits of a weight.
        cycles: clock cycles.
        latency_ms: their time, and the profile's overhead for a layer.
        mac_energy_pj: of the MAC unit, clock and leakage included.
        on_chip_energy_pj: of on-chip memory.
        dram_energy_pj: of external memory.
        interpolated: the profile has no entry at these bitwidths; its neighbours were interpolated.
    """

    name: str
    weight_bytes: int
    scale_bytes: int
    bias_bytes: int
    bops: float
    digits_per_mac: float | None = None
    cycles: float | None = None
    latency_ms: float | None = None
    mac_energy_pj: float | None = None
    on_chip_energy_pj: float | None = None
    dram_energy_pj: float | None = None
    interpolated: bool = False

    @property
    def energy_pj(self) -> float | None:
        """All energy of the layer, as far as the profile gives it."""
        return _total((self.mac_energy_pj, self.on_chip_energy_pj, self.dram_energy_pj))


@dataclass(frozen=True)
class HardwareCost:
    """A whole network's costs on one profile.

    Attributes:
        profile: its name.
        total: everything together, products between activations and overheads included.
        layers: one row for each layer.
        mac_energy_pj: of all MACs.
        on_chip_energy_pj: of on-chip memory.
        dram_energy_pj: of external memory.
        interpolated: some entry was interpolated.
    """

    profile: str
    total: Cost
    layers: tuple[LayerCost, ...]
    mac_energy_pj: float | None
    on_chip_energy_pj: float | None
    dram_energy_pj: float | None
    interpolated: bool

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        rows = [{**asdict(row), "energy_pj": row.energy_pj} for row in self.layers]
        return {**self.__dict__, "total": self.total.to_dict(), "layers": rows}


class ProfiledCosts:
    """Costs of one network on one measured profile.

    Args:
        graph: the network; its float weights give the digits of weights that are not trained yet.
        profile: the device.

    Raises:
        HardwareProfileError: from the methods, where the profile lacks a bitwidth; the message lists what it has.
    """

    def __init__(self, graph: QuantGraph, profile: HardwareProfile) -> None:
        self.name = profile.name
        self._graph, self._profile = graph, profile
        self._ideal = IdealCosts(graph)
        self._buffers = activation_buffers(graph)
        self._digits: dict[tuple[str, int, bool, int], DigitStatistics] = {}
        rule = None if profile.compute is None else profile.compute.cycles
        # A mid-rise code needs one bit more, and is never zero: units that are paid by bit or digit do not want it.
        self.midrise_up_to = 2 if rule is None or rule.rule == "constant" else 0
        counted = profile.compute is not None and profile.compute.digits is not None
        self.reserve: Mapping[str, float] = dict.fromkeys(("energy_pj", "latency_ms"), _RESERVE) if counted else {}
        self._container = profile.memory.activation_container_bits
        # The memory is built once, for 8-bit weights: a macro that changed with the plan would make costs jump.
        stays = profile.memory.weights_in == "on_chip"
        sizes = [spec.elements for spec in graph.layers]
        self._weight_macro = self._macro(sum(sizes) if stays else max(sizes, default=0))

    def report(self, plan: BitwidthPlan, codes: Mapping[str, Tensor] | None = None) -> HardwareCost:
        """Every layer's costs and the total.

        Args:
            plan: bitwidths.
            codes: the integer weights by layer name; None: those that the float weights would be rounded to.
        """
        rows = tuple(
            self._layer(spec, plan.weights[spec.name], plan, None if codes is None else codes[spec.name])
            for spec in self._graph.layers
        )
        products = self._products(plan)
        parts = [*rows, *([products] if products else [])]
        memory, overhead = self._profile.memory, self._once_ms
        base, latency = self._ideal.cost(plan), _total(row.latency_ms for row in parts)
        ram = peak_activation_bytes(self._buffers, plan.activations, memory.activation_container_bits)
        total = replace(
            base,
            ram_bytes=ram,
            cycles=_total(row.cycles for row in parts),
            latency_ms=None if latency is None else latency + overhead,
            energy_pj=_total(row.energy_pj for row in parts),
        )
        points = tuple(self._at(point, total, _total(row.dram_energy_pj for row in parts)) for point in self._points)
        total = replace(total, operating_points=points)
        return HardwareCost(
            self.name,
            total,
            rows,
            _total(row.mac_energy_pj for row in parts),
            _total(row.on_chip_energy_pj for row in parts),
            _total(row.dram_energy_pj for row in parts),
            any(row.interpolated for row in parts),
        )

    def cost(self, plan: BitwidthPlan, codes: Mapping[str, Tensor] | None = None) -> Cost:
        """The total alone."""
        return self.report(plan, codes).total

    def reference(self) -> Cost:
        """The float32 network: bytes and bit operations; no profile of integer arithmetic gives its energy."""
        return self._ideal.reference()

    def layer(self, name: str, bits: int, plan: BitwidthPlan, size_counts: SizeCounts) -> Mapping[str, float]:
        """What one layer's weight adds to each resource that depends on it."""
        row = self._layer(self._graph.layer[name], bits, plan, None)
        found = {
            "size_bytes": float(row.weight_bytes),
            "bops": row.bops,
            "energy_pj": row.energy_pj,
            "latency_ms": row.latency_ms,
        }
        for point in self._points:
            there = self._at(point, row, row.dram_energy_pj)
            found |= {f"energy_pj@{point.name}": there.energy_pj, f"latency_ms@{point.name}": there.latency_ms}
        return {resource: value for resource, value in found.items() if value is not None}

    @cached_property
    def _once_ms(self) -> float:
        """What an inference takes besides its layers, whatever the plan."""
        overhead = self._profile.overhead
        values = weightless_values(self._graph)
        return overhead.latency_ms_per_inference + values * overhead.latency_ns_per_weightless_value / 1e6

    @property
    def _points(self) -> tuple[OperatingPoint, ...]:
        return self._profile.operating_points

    def _at(self, point: OperatingPoint, base: Cost | LayerCost, dram_pj: float | None) -> PointCost:
        """Costs at an operating point: all time scales with the clock; external memory's energy does not change."""
        compute = self._profile.compute
        assert compute is not None, "profiles with operating points have arithmetic"
        energy, latency = base.energy_pj, base.latency_ms
        if energy is not None:
            energy = (energy - (dram_pj or 0.0)) * self._profile.energy_factor(point) + (dram_pj or 0.0)
        return PointCost(point.name, energy, None if latency is None else latency * compute.clock_mhz / point.clock_mhz)

    def _layer(self, spec: LayerSpec, bits: int, plan: BitwidthPlan, codes: Tensor | None) -> LayerCost:
        a_bits = input_bits(spec, plan)
        base = LayerCost(
            spec.name,
            packed_bytes(spec.elements, bits),
            _FLOAT_BYTES * (output_channels(spec) if spec.batch_norm else spec.channels),
            _FLOAT_BYTES * output_channels(spec) if spec.has_bias or spec.batch_norm else 0,
            float(spec.macs * bits * a_bits),
        )
        compute = self._profile.compute
        if compute is None:
            own = OWN_COSTS.get(self.name)
            if own is None:
                return base
            given = own.of(self.name, spec, bits, a_bits)
            return replace(base, cycles=given.cycles, latency_ms=given.latency_ms, mac_energy_pj=given.energy_pj)
        midrise = bits <= plan.midrise_up_to
        # Units that see the codes themselves see one bit more; a processor unpacks them into its own containers.
        width = bits + (midrise and compute.cycles is not None)
        entry, interpolated = find_entry(compute, layer_class(spec), width, a_bits, f"layer {spec.name!r}")
        digits, cycles, energy_fj = entry.digits_per_mac, entry.cycles_per_mac, entry.energy_per_mac_fj
        if compute.digits is not None:
            found = self._layer_digits(spec.name, bits, midrise, codes, compute.digits, compute.cycles)
            digits = found.digits_per_mac
            if compute.cycles is not None:
                cycles = found.cycles_per_mac
            if energy_fj is not None and entry.energy_per_digit_fj is not None and entry.digits_per_mac is not None:
                energy_fj = max(0.0, energy_fj + entry.energy_per_digit_fj * (digits - entry.digits_per_mac))
        total_cycles = spec.macs / compute.parallel_macs * cycles
        weight_bits = spec.elements * bits
        container = self._container
        inputs = prod(spec.input_shape) * spec.calls * max(a_bits, container)
        outputs = prod(spec.output_shape) * spec.calls * max(_widest(plan), container)
        overhead = self._profile.overhead
        moving_ms = (inputs + outputs) / 8 * overhead.latency_ns_per_activation_byte / 1e6
        return replace(
            base,
            digits_per_mac=digits,
            cycles=total_cycles,
            latency_ms=_latency_ms(total_cycles, compute) + overhead.latency_ms_per_layer + moving_ms,
            mac_energy_pj=None if energy_fj is None else spec.macs * energy_fj / _FJ_PER_PJ,
            on_chip_energy_pj=self._on_chip_pj(weight_bits, inputs, outputs, plan),
            dram_energy_pj=self._dram_pj(weight_bits),
            interpolated=interpolated,
        )

    def _products(self, plan: BitwidthPlan) -> LayerCost | None:
        """The MACs between activations: their wider factor takes the weight's place.

        Those of parts that stay in float are counted as if they were such, since no profile knows float: at the least.
        """
        compute, macs = self._profile.compute, self._graph.weightless_macs + self._graph.float_macs
        if compute is None or not macs:
            return None
        widest = _widest(plan)
        entry, interpolated = find_entry(compute, "linear", widest, widest, "products of activations")
        cycles = macs / compute.parallel_macs * entry.cycles_per_mac
        energy = None if entry.energy_per_mac_fj is None else macs * entry.energy_per_mac_fj / _FJ_PER_PJ
        return LayerCost(
            "products of activations",
            0,
            0,
            0,
            0.0,
            cycles=cycles,
            latency_ms=_latency_ms(cycles, compute),
            mac_energy_pj=energy,
            interpolated=interpolated,
        )

    def _layer_digits(
        self, name: str, bits: int, midrise: bool, codes: Tensor | None, encoding: Encoding, rule: CycleRule | None
    ) -> DigitStatistics:
        if codes is not None:
            return digit_statistics(codes, encoding, bits + midrise, rule)
        key = name, bits, midrise, self._graph.weight(name)._version  # weights may be rescaled
        if key not in self._digits:
            self._digits[key] = weight_digits(self._graph, name, bits, encoding, rule, midrise)
        return self._digits[key]

    def _on_chip_pj(self, weights: int, inputs: int, outputs: int, plan: BitwidthPlan) -> float | None:
        """Bits of weights and inputs read once, of outputs written once; weights from outside are written first."""
        weight_macro, arrives = self._weight_macro, self._profile.memory.weights_in == "dram"
        activation_macro = self._macro(peak_activation_bytes(self._buffers, plan.activations, self._container))
        if weight_macro is None or activation_macro is None:
            return None
        moved = weights * (weight_macro.read_energy_fj_per_bit + weight_macro.write_energy_fj_per_bit * arrives)
        moved += inputs * activation_macro.read_energy_fj_per_bit + outputs * activation_macro.write_energy_fj_per_bit
        return moved / _FJ_PER_PJ

    def _macro(self, needed_bytes: int) -> Macro | None:
        """The smallest macro that holds so many bytes, else the largest one, in banks."""
        macros = sorted(self._profile.memory.on_chip, key=lambda macro: macro.capacity_bytes)
        return next((macro for macro in macros if macro.capacity_bytes >= needed_bytes), macros[-1] if macros else None)

    def _dram_pj(self, weights: int) -> float | None:
        memory = self._profile.memory
        if memory.dram is None:
            return None
        return weights * memory.dram.read_energy_fj_per_bit / _FJ_PER_PJ if memory.weights_in == "dram" else 0.0


def weightless_values(graph: QuantGraph) -> int:
    """Values that operators without weights write in one inference: sums, concatenations, maps by channel, pools."""
    return sum(spec.elements for spec in graph.activations if spec.producer not in _HAVE_WEIGHTS)


def layer_class(spec: LayerSpec) -> LayerClass:
    """The class that measured tables tell apart: depthwise and 1x1 convolutions reuse less than others.

    Example:
        >>> layer_class(LayerSpec("up", "conv2d", "up.weight", (8, 1, 3, 3), 0, 8, False, 0, (8, 4, 4), (8, 4, 4)))
        'depthwise'
    """
    if not spec.kind.startswith("conv"):
        return "linear"
    if spec.groups > 1 and spec.groups == spec.input_shape[0]:
        return "depthwise"
    return "pointwise" if prod(spec.weight_shape[2:]) == 1 else "conv"


def find_entry(compute: Compute, layer: LayerClass, w_bits: int, a_bits: int, where: str) -> tuple[Entry, bool]:
    """The table's entry, interpolated between neighbouring bitwidths where it has none.

    Returns:
        the entry and whether it was interpolated.

    Raises:
        HardwareProfileError: the bitwidths lie outside the table.
    """
    entries = [entry for entry in compute.table if entry.layer == layer]
    entries = entries or [entry for entry in compute.table if entry.layer is None]
    table = {(entry.w_bits, entry.a_bits): entry for entry in entries}
    if (w_bits, a_bits) in table:
        return table[w_bits, a_bits], False
    columns = _between(a_bits, {a for _, a in table})
    found = []
    for column in columns:
        rows = _between(w_bits, {w for w, a in table if a == column})
        found.append(_mix([table[row, column] for row in rows], rows, w_bits) if rows else None)
    complete = [entry for entry in found if entry is not None]
    if not complete or len(complete) < len(columns):
        has = ", ".join(f"w{w}a{a}" for w, a in sorted(table)) or f"nothing for layers of class {layer!r}"
        given = "float" if a_bits == FLOAT_BITS else f"{a_bits}-bit"
        raise HardwareProfileError(
            f"{where}: the hardware profile has no entry for {w_bits}-bit weights with {given} activations and none "
            f"around it to interpolate. It has {has}. Choose bitwidths within these, or another profile."
        )
    return _mix(complete, columns, a_bits), True


def _between(wanted: int, known: set[int]) -> list[int]:
    """The known number itself, or its two neighbours; nothing outside."""
    if wanted in known:
        return [wanted]
    below, above = [k for k in known if k < wanted], [k for k in known if k > wanted]
    return [max(below), min(above)] if below and above else []


def _mix(entries: list[Entry], places: list[int], wanted: int) -> Entry:
    """One entry, or two interpolated linearly."""
    if len(entries) == 1:
        return entries[0]
    share = (wanted - places[0]) / (places[1] - places[0])

    def between(name: str) -> float | None:
        low, high = getattr(entries[0], name), getattr(entries[1], name)
        return None if low is None or high is None else low + share * (high - low)

    names = ("digits_per_mac", "cycles_per_mac", "energy_per_mac_fj", "energy_per_digit_fj")
    return entries[0].model_copy(update={name: between(name) for name in names})


def _widest(plan: BitwidthPlan) -> int:
    return max(plan.activations.values(), default=FLOAT_BITS)


def _latency_ms(cycles: float, compute: Compute) -> float:
    return cycles / (compute.clock_mhz * 1e3)


def _total(values: Iterable[float | None]) -> float | None:
    """The sum of what is given; None where nothing is."""
    given = [value for value in values if value is not None]
    return sum(given) if given else None
