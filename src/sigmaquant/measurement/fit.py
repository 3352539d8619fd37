"""From measured latencies to a profile: a linear model with non-negative terms, fitted to relative errors.

``latency = once + layers x per_layer + bytes x per_byte + values of operators without weights x per_value + sum over
classes of MACs x per_MAC``. Least squares on the
relative error (each row divided by its latency), so that small layers count as much as large ones; negative terms,
which no device has, are excluded (Lawson and Hanson's NNLS).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal

import numpy as np

from sigmaquant.errors import MeasurementError
from sigmaquant.graph import QuantGraph
from sigmaquant.hardware.profile import (
    Compute,
    Entry,
    HardwareProfile,
    LayerClass,
    Memory,
    Method,
    Overhead,
)
from sigmaquant.hardware.profiled import layer_class, weightless_values
from sigmaquant.plan import BitwidthPlan

CLOCK_MHZ = 1000.0
"""Where a device's clock is not known, a cycle of the profile is a nanosecond."""

_ONCE, _LAYERS, _BYTES, _VALUES = ("once",), ("layers",), ("bytes",), ("values",)


@dataclass(frozen=True)
class Measured:
    """One network and its latency on the device."""

    name: str
    graph: QuantGraph
    plan: BitwidthPlan
    latency_ms: float


@dataclass(frozen=True)
class Fit:
    """A fitted profile and how well it describes what it was fitted to.

    Attributes:
        profile: the profile.
        relative_errors: (predicted - measured) / measured, by name.
    """

    profile: HardwareProfile
    relative_errors: dict[str, float]

    @property
    def mean_error(self) -> float:
        """Mean magnitude of the relative errors."""
        return float(np.mean(np.abs(list(self.relative_errors.values()))))


def _terms(graph: QuantGraph, plan: BitwidthPlan) -> dict[tuple[str, ...], float]:
    """What a network's latency is a sum of: the amount of each unknown."""
    found: dict[tuple[str, ...], float] = {_ONCE: 1.0, _LAYERS: float(len(graph.layers)), _BYTES: 0.0}
    found[_VALUES] = float(weightless_values(graph))
    for spec in graph.layers:
        key = ("macs", layer_class(spec), str(plan.weights[spec.name]))
        found[key] = found.get(key, 0.0) + spec.macs
        found[_BYTES] += (prod(spec.input_shape) + prod(spec.output_shape)) * spec.calls
    return found


def fit_profile(
    measured: Sequence[Measured],
    name: str,
    description: str,
    method: Method,
    *,
    clock_mhz: float = CLOCK_MHZ,
    program: Literal["c"] | None = None,
) -> Fit:
    """The profile that describes measured latencies best.

    Args:
        measured: micro-models, several sizes and depths of each class of layers.
        name: of the profile.
        description: one sentence.
        method: how it was measured.
        clock_mhz: of the device.
        program: of the profile.

    Raises:
        MeasurementError: too few measurements for the unknowns.
    """
    from scipy.optimize import nnls  # only here: it takes half a second to import

    rows = [_terms(item.graph, item.plan) for item in measured]
    keys = list(dict.fromkeys(key for row in rows for key in row))
    if len(rows) < len(keys):
        raise MeasurementError(f"{len(rows)} measurements cannot tell {len(keys)} unknowns apart. Measure more models.")
    latency = np.array([item.latency_ms for item in measured])
    matrix = np.array([[row.get(key, 0.0) for key in keys] for row in rows]) / latency[:, None]
    scale = np.maximum(np.abs(matrix).max(0), 1e-30)  # MACs are millions, layers a few: equalise the columns
    solution, _ = nnls(matrix / scale, np.ones(len(rows)))
    found = dict(zip(keys, (solution / scale).tolist(), strict=True))
    entries: list[Entry] = []
    for key, milliseconds in found.items():
        if key[0] == "macs":
            layer: LayerClass = key[1]  # type: ignore[assignment]
            cycles = milliseconds * clock_mhz * 1e3
            entries.append(Entry(layer=layer, w_bits=int(key[2]), a_bits=8, cycles_per_mac=cycles))
    profile = HardwareProfile(
        name=name,
        description=description,
        compute=Compute(clock_mhz=clock_mhz, parallel_macs=1, table=tuple(entries)),
        memory=Memory(),
        overhead=Overhead(
            latency_ms_per_inference=found[_ONCE],
            latency_ms_per_layer=found[_LAYERS],
            latency_ns_per_activation_byte=found[_BYTES] * 1e6,
            latency_ns_per_weightless_value=found[_VALUES] * 1e6,
        ),
        method=method,
        program=program,
    )
    predicted = [sum(found[key] * amount for key, amount in row.items()) for row in rows]
    errors = {item.name: p / item.latency_ms - 1 for item, p in zip(measured, predicted, strict=True)}
    return Fit(profile, errors)
