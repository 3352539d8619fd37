"""Costs of a device that no table describes: a function of yours from a layer and its bitwidths to what it costs.

A simulator, a formula from a data sheet, a look-up in your own measurements. What can be written as a table is better a
profile (`sigmaquant.hardware.profile`): it is data, and travels with the run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isfinite
from types import MappingProxyType
from typing import Protocol

from sigmaquant.errors import HardwareProfileError
from sigmaquant.graph.specs import LayerSpec


@dataclass(frozen=True)
class LayerEstimate:
    """What one layer costs in one inference; None: the device's function does not say.

    Attributes:
        energy_pj: everything, memory included.
        latency_ms: its time.
        cycles: of the clock.
    """

    energy_pj: float | None = None
    latency_ms: float | None = None
    cycles: float | None = None


class CostFunction(Protocol):
    """Costs of one layer on a device.

    The same arguments must give the same costs, and every layer and bitwidth the same quantities.
    """

    def __call__(self, layer: LayerSpec, weight_bits: int, activation_bits: int, /) -> LayerEstimate:
        """Of a layer with its shapes and MACs; `activation_bits` are those of its input, 32 where it stays in float."""
        ...


@dataclass(frozen=True)
class OwnCosts:
    """A registered function with its sentence."""

    function: CostFunction
    description: str

    def of(self, name: str, layer: LayerSpec, weight_bits: int, activation_bits: int) -> LayerEstimate:
        """The layer's costs.

        Raises:
            HardwareProfileError: the function gives something else than costs; names it and the layer.
        """
        found = self.function(layer, weight_bits, activation_bits)
        values = vars(found).values() if isinstance(found, LayerEstimate) else [None]
        given = [value for value in values if value is not None]
        if not given or not all(isinstance(v, int | float) and isfinite(v) and v >= 0 for v in given):
            raise HardwareProfileError(
                f"the costs {name!r} of layer {layer.name!r} at {weight_bits} bits are {found!r}. Return a "
                "LayerEstimate with at least one number, each finite and at least 0."
            )
        return found


_REGISTERED: dict[str, OwnCosts] = {}
OWN_COSTS: Mapping[str, OwnCosts] = MappingProxyType(_REGISTERED)
"""Every registered function by name."""


def register_costs(name: str, description: str = "") -> Callable[[CostFunction], CostFunction]:
    """Enter a device of your own: ``quantize(..., hardware=name)`` and ``--hardware`` then know it.

    Bytes, bit operations and activation memory are counted as on any device; the function adds what it returns.

    Args:
        name: in place of one of the same name, unless that is the package's.
        description: one sentence.

    Raises:
        HardwareProfileError: the package has a profile of that name, or it looks like a file's.

    Example:
        >>> @register_costs("one-bit-a-cycle")
        ... def serial(layer, weight_bits, activation_bits):
        ...     return LayerEstimate(cycles=layer.macs * weight_bits / 64, energy_pj=0.02 * layer.macs * weight_bits)
    """
    from sigmaquant.hardware.profile import shipped_profiles

    if name in shipped_profiles() or name.endswith(".json") or "/" in name:
        raise HardwareProfileError(
            f"{name!r} names a profile that there is. Choose another name for costs of your own."
        )

    def enter(function: CostFunction) -> CostFunction:
        _REGISTERED[name] = OwnCosts(function, description or (function.__doc__ or name).strip().partition("\n")[0])
        return function

    return enter
