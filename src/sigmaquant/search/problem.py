"""The search as plain numbers: which bitwidths each layer may have, what each costs, and what is allowed.

Strategies see this and a sensitivity table, never the model, so each is a pure function that can be tested exhaustively.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

Bits = Mapping[str, int]
"""Weight bitwidth by layer name."""

Sensitivity = Mapping[str, Mapping[int, float]]
"""Harm of quantizing a layer (by name) to a bitwidth, on any common scale: higher is worse, falls as bits grow."""


@dataclass(frozen=True)
class SearchProblem:
    """Layers, allowed bitwidths, additive costs and limits.

    Attributes:
        choices: allowed bitwidths of each layer, ascending; one entry for a pinned layer. Its keys are all layers.
        costs: resource -> layer -> bitwidth -> what that layer adds. Only limited resources need to be here.
        fixed: resource -> what everything else adds.
        upper: resource -> largest allowed total. Resources that do not depend on weight bitwidths have been checked.
        elements: number of weights of each layer.
    """

    choices: Mapping[str, tuple[int, ...]]
    costs: Mapping[str, Mapping[str, Mapping[int, float]]]
    fixed: Mapping[str, float]
    upper: Mapping[str, float]
    elements: Mapping[str, int]

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of all layers."""
        return tuple(self.choices)

    def total(self, bits: Bits, resource: str) -> float:
        """The whole network's cost."""
        table = self.costs[resource]
        return self.fixed.get(resource, 0.0) + sum(table[name][bits[name]] for name in self.choices)

    def ratios(self, bits: Bits) -> dict[str, float]:
        """Cost over limit for every limited resource."""
        return {resource: self.total(bits, resource) / limit for resource, limit in self.upper.items()}

    def binding(self, bits: Bits) -> str | None:
        """The limited resource with the largest cost/limit ratio, or None when nothing is limited."""
        ratios = self.ratios(bits)
        return max(ratios, key=lambda resource: ratios[resource]) if ratios else None

    def fits(self, bits: Bits) -> bool:
        """Whether every limit holds."""
        return all(ratio <= 1 for ratio in self.ratios(bits).values())

    def lower(self, name: str, bits: int) -> int | None:
        """The next lower allowed bitwidth of a layer, or None."""
        below = [b for b in self.choices[name] if b < bits]
        return below[-1] if below else None

    def higher(self, name: str, bits: int) -> int | None:
        """The next higher allowed bitwidth of a layer, or None."""
        above = [b for b in self.choices[name] if b > bits]
        return above[0] if above else None
