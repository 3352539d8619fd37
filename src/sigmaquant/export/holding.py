"""Whether a written file holds the limits of its run: by its real bytes, not by what was predicted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sigmaquant.budget import label
from sigmaquant.export.c.flash import code_bytes, functions_of
from sigmaquant.export.verification import Verification
from sigmaquant.plan import BitwidthPlan


@dataclass(frozen=True)
class Held:
    """What a run allows its files.

    Attributes:
        upper: limits by resource, as in `Limits`.
        size_counts: which bytes the size limit counts.
        program: whether memory and flash are those of the C program.
    """

    upper: Mapping[str, float]
    size_counts: str
    program: bool

    @classmethod
    def of(cls, result: Mapping[str, Any], config: Mapping[str, Any]) -> Held:
        """Of a run's result and configuration; without limits where they do not say."""
        limits = {
            name: value for name, value in dict(result.get("limits") or {}).items() if isinstance(value, int | float)
        }
        budget, cost = dict(config.get("budget") or {}), dict(result.get("cost") or {})
        return cls(limits, str(budget.get("size_counts", "total")), "flash_bytes" in cost)

    def compared(self, verdict: Verification, plan: BitwidthPlan) -> dict[str, tuple[float, float]]:
        """What a file takes of each limited resource, and what the budget allows, in bytes."""
        found: dict[str, float | None] = {}
        if verdict.target == self.size_counts:
            found["size_bytes"] = verdict.real_bytes
        if verdict.target == "c" and self.program:
            found["ram_bytes"] = verdict.ram_bytes
            if "flash_bytes" in self.upper:
                used = set[str]().union(*(functions_of(b, b <= plan.midrise_up_to) for b in plan.weights.values()))
                found["flash_bytes"] = verdict.real_bytes + code_bytes(verdict.path).total(
                    used | functions_of(8, False)
                )
        return {
            name: (value, self.upper[name]) for name, value in found.items() if value is not None and name in self.upper
        }


def exceeded(compared: Mapping[str, tuple[float, float]]) -> str:
    """Which limits a file exceeds, in words; empty: none."""
    return "; ".join(
        f"{value:,.0f} bytes of {'RAM' if name == 'ram_bytes' else label(name)} where the budget allows {limit:,.0f}"
        for name, (value, limit) in compared.items()
        if value > limit
    )
