"""A budget in energy, on a profile that comes with the package and on one of your own.

    pip install "sigmaquant[demo]"
    python examples/own_hardware.py              # about half a minute; the network is trained on first use
    python examples/own_hardware.py --quick

A profile is data, not code: a JSON file that says what a MAC costs at each pair of bitwidths and what memory costs.
Yours may come from a data sheet, from `sigmaquant hardware measure` on a board, or from `sigmaquant hardware
characterize` on a cell library. Here it is a variant of a shipped one, with the weights on the chip instead of in
external memory.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import digits

import sigmaquant
from sigmaquant import Budget, HardwareProfile, QuantizationResult, load_profile
from sigmaquant.workflow.inspection import inspect_model

SHIPPED = "shift-add-csd-sg13g2"
SHARE = 0.5
"""Of the energy with 8-bit weights, what is allowed."""
QUICK = {"max_cycles": 2, "sensitivity_examples": 64, "batch_norm_examples": 512}
"""Settings for a few seconds."""


def on_chip(profile: HardwareProfile, path: Path) -> Path:
    """Write a profile of your own. A key that is misspelt or impossible is refused by name when the file is read."""
    document = profile.to_dict()
    document["name"] = "my-accelerator"
    document["description"] = f"{profile.name} with its weights in on-chip memory."
    document["memory"]["weights_in"] = "on_chip"
    document["method"]["notes"] = [*document["method"]["notes"], f"derived from {profile.name}"]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return path


def main(arguments: Sequence[str] | None = None) -> dict[str, QuantizationResult]:
    """The same share of energy on both devices, and where the bits go."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer measurements")
    parser.add_argument("--out", type=Path, default=Path("runs/own_hardware"), help="folder")
    options = parser.parse_args(arguments)
    network, results = digits.model(), {}
    example = digits.test_data().example()

    mine = on_chip(load_profile(SHIPPED), options.out / "my-accelerator.json")
    for hardware in (SHIPPED, str(mine)):
        profile = load_profile(hardware)

        # What every layer and the whole network cost at a bitwidth, before anything is decided.
        at_eight = inspect_model(network, (example,), bitwidths=(8,), hardware=profile).hardware[8]
        assert at_eight.total.energy_pj is not None, "this profile gives energy"
        budget = Budget(energy=f"{SHARE * at_eight.total.energy_pj} pJ")

        result = sigmaquant.quantize(
            network,
            digits.train_data(),
            validation_data=digits.val_data(),
            test_data=digits.test_data(),
            budget=budget,
            hardware=hardware,  # a name, a path, or a HardwareProfile
            post_training=True,
            **(QUICK if options.quick else {}),
        )
        results[profile.name] = result
        dram = (at_eight.dram_energy_pj or 0.0) / at_eight.total.energy_pj
        energy = result.cost.energy_pj
        assert energy is not None, "this profile gives energy"
        print(f"{profile.name}: {at_eight.total.energy_pj / 1e6:.3f} uJ at 8 bits, {dram:.0%} for external memory")
        print(f"  budget {result.status}: {energy / 1e6:.3f} uJ, test accuracy {result.scores.test:.4f}")
        for name, bits in result.plan.weights.items():
            print(f"  {name:20}{bits} bits")
    return results


if __name__ == "__main__":
    main()
