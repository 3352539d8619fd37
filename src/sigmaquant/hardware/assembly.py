"""A characterised unit becomes a profile: its name, its baseline, and where weights live."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from sigmaquant.hardware.profile import HardwareProfile

DRAM_FJ_PER_BIT = 20_000.0
DRAM_SOURCE = (
    "640 pJ for 32 bits, 45 nm: M. Horowitz, Computing's energy problem, ISSCC 2014, as tabulated by Han et al., EIE, "
    "ISCA 2016"
)


def assemble_profile(
    document: Mapping[str, Any],
    *,
    name: str | None = None,
    baseline: str | None = None,
    weights_in: Literal["on_chip", "dram"] = "dram",
    dram_fj_per_bit: float = DRAM_FJ_PER_BIT,
) -> HardwareProfile:
    """The profile of a unit that `sigmaquant.characterization.characterize` measured.

    Args:
        document: what it returned.
        name: of the profile; None: the unit's and the library's.
        baseline: the profile that ratios should be taken to.
        weights_in: where weights live; from external memory each is read once in an inference.
        dram_fj_per_bit: of external memory; the default is a figure of the literature.

    Raises:
        HardwareProfileError: the document is no profile.
    """
    stated = DRAM_SOURCE if dram_fj_per_bit == DRAM_FJ_PER_BIT else "given by the user"
    memory = {
        **document.get("memory", {}),
        "weights_in": weights_in,
        "dram": {"read_energy_fj_per_bit": float(dram_fj_per_bit), "source": stated},
    }
    changed = {**document, "name": name or document.get("name"), "baseline": baseline, "memory": memory}
    return HardwareProfile.from_dict(changed, "the characterised unit")
