"""The MAC units that can be characterised; each is the Verilog module of its name in ``characterization/rtl``."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from types import MappingProxyType
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sigmaquant.errors import CharacterizationError, near_matches
from sigmaquant.hardware.digits import cycles_of, nonzero_digits
from sigmaquant.hardware.profile import CycleRule, Encoding

LANES = 16
"""Lanes of an array, products of a dot product: MACs that one step does."""
ACCUMULATOR_BITS = 32


@dataclass(frozen=True)
class MacUnit:
    """One unit.

    All ports and the handshake are described at the head of its Verilog file.

    Attributes:
        name: of the module, of its file, and in `characterize`.
        description: one sentence.
        organisation: ``lanes``: one weight is multiplied by `LANES` activations, each lane with an accumulator of its
            own; ``dot_product``: `LANES` products are summed into one accumulator.
        digits: what its energy, and its cycles where `cycles` says so, count of a weight; None: nothing.
        cycles: of a step.
        planes: the weights come one bit a cycle, plane by plane.
        shared: other files of ``characterization/rtl`` that it needs.
    """

    name: str
    description: str
    organisation: Literal["lanes", "dot_product"]
    digits: Encoding | None
    cycles: CycleRule
    planes: bool = False
    shared: tuple[str, ...] = ()

    def weights_per_step(self, lanes: int) -> int:
        """How many weights a step of so many MACs takes."""
        return 1 if self.organisation == "lanes" else lanes

    def macs_per_result(self, lanes: int) -> int:
        """Products that a step of so many MACs adds to one accumulator."""
        return 1 if self.organisation == "lanes" else lanes

    def step_cycles(self, weights: NDArray[np.int8], bits: int) -> NDArray[np.int64]:
        """Cycles of every step; weights [..., weights per step] -> [...]."""
        counts = self.step_digits(weights, bits) if self.cycles.rule == "digits" else np.zeros_like(weights, np.int64)
        table = np.array([cycles_of(digits, bits, self.cycles) for digits in range(9)])
        cycles: NDArray[np.int64] = table[counts.max(-1)]
        return cycles

    def step_digits(self, weights: NDArray[np.int8], bits: int) -> NDArray[np.int64]:
        """Non-zero digits of every weight, of `weights`' shape; zero where the unit counts none."""
        if self.digits is None:
            return np.zeros_like(weights, np.int64)
        table = np.array([nonzero_digits(code, self.digits, bits) for code in range(-(1 << bits - 1), 1 << bits - 1)])
        digits: NDArray[np.int64] = table[weights.astype(np.int64) + (1 << bits - 1)]
        return digits


_UNITS = (
    MacUnit(
        "int8_lanes",
        "16 parallel 8-bit multiply-accumulate lanes that share one weight",
        "lanes",
        None,
        CycleRule(rule="constant"),
        shared=("up_down",),
    ),
    MacUnit(
        "int8_dot",
        "8-bit dot product of 16 weights and activations, one step a cycle",
        "dot_product",
        None,
        CycleRule(rule="constant"),
        shared=("up_down",),
    ),
    MacUnit(
        "shift_add_lanes",
        "16 shift-add lanes that share one weight, one weight bit a cycle",
        "lanes",
        "binary",
        CycleRule(rule="bits"),
        shared=("shift_add_lane", "up_down"),
    ),
    MacUnit(
        "csd_lanes",
        "16 shift-add lanes that share one weight, one non-zero canonical signed digit a cycle",
        "lanes",
        "csd",
        CycleRule(rule="digits"),
        shared=("shift_add_lane", "up_down"),
    ),
    MacUnit(
        "booth4_lanes",
        "16 shift-add lanes that share one weight, one radix-4 Booth digit a cycle",
        "lanes",
        "booth4",
        CycleRule(rule="booth_digits"),
        shared=("shift_add_lane", "up_down"),
    ),
    MacUnit(
        "bit_plane_dot",
        "dot product of 16 weights and activations, one bit of each weight a cycle",
        "dot_product",
        "binary",
        CycleRule(rule="bits"),
        planes=True,
        shared=("up_down",),
    ),
)

MAC_UNITS = MappingProxyType({unit.name: unit for unit in _UNITS})
"""All units by name."""


def find_unit(name: str) -> MacUnit:
    """The unit of a name.

    Raises:
        CharacterizationError: there is none; the message lists the near matches.
    """
    if name not in MAC_UNITS:
        raise CharacterizationError(f"there is no MAC unit {name!r}. {near_matches(name, MAC_UNITS)}")
    return MAC_UNITS[name]


def verilog(name: str) -> str:
    """The source of one file of ``characterization/rtl``, without its ending."""
    return (resources.files("sigmaquant.characterization") / "rtl" / f"{name}.v").read_text(encoding="utf-8")
