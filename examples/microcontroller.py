"""From a trained network to a folder of C99, compiled and run here before anything is flashed.

    pip install "sigmaquant[demo]"
    python examples/microcontroller.py           # about half a minute; the network is trained on first use
    python examples/microcontroller.py --quick

Needs a C compiler (``cc``). Where ``arm-none-eabi-gcc`` is installed, the library is built for a Cortex-M4 too and its
size is shown. What goes where on a board is in docs/exporting.md.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import digits
import torch

import sigmaquant
from sigmaquant.export.c import CRunner
from sigmaquant.units import format_bytes
from sigmaquant.workflow.exporting import export_run

CROSS = "arm-none-eabi-"
TARGET = "-mcpu=cortex-m4 -mthumb"
QUICK = {"max_cycles": 2, "sensitivity_examples": 64, "batch_norm_examples": 512}
"""Settings for a few seconds."""


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Quantize, write C, build it, compare its decisions with the network's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer measurements")
    parser.add_argument("--out", type=Path, default=Path("runs/microcontroller"), help="run directory")
    options = parser.parse_args(arguments)
    if shutil.which("cc") is None:
        raise SystemExit("there is no C compiler: `cc` was not found. Install one, such as gcc or clang.")

    network = digits.model()
    result = sigmaquant.quantize(
        network,
        digits.train_data(),
        validation_data=digits.val_data(),
        test_data=digits.test_data(),
        budget="10x",
        post_training=True,
        **(QUICK if options.quick else {}),
        run_dir=options.out,
        overwrite=True,
    )
    print(f"budget {result.status}: test accuracy {result.scores.test:.4f}, float {result.float_scores.test:.4f}")

    # Writes the folder, compiles it and runs it on the test data: every output code must be the reference's.
    examples = 50 if options.quick else None
    (verdict,) = export_run(network, options.out, digits.test_data(), to=["c"], examples=examples)
    print(f"{verdict.path}: {'verified' if verdict.passed else verdict.first_difference}")

    # What the network takes of a device is known before it is built.
    needs = json.loads((verdict.path / "export.json").read_text(encoding="utf-8"))
    weights, tables, arena = (format_bytes(needs[f"{kind}_bytes"]) for kind in ("weight", "table", "arena"))
    print(f"flash: {weights} weights, {tables} tables, and code")
    print(f"RAM:   {arena} arena, {needs['input_bytes'] + needs['output_bytes']} B for input and output")

    # The folder's own Makefile builds a program that runs one example and compares it with the reference.
    print(build(verdict.path, "test"))
    if shutil.which(f"{CROSS}gcc"):
        build(verdict.path, "clean")
        build(verdict.path, "library", f"CC={CROSS}gcc", f"AR={CROSS}ar", f"TARGET={TARGET}")
        print(shown([f"{CROSS}size", "--totals", str(verdict.path / "libmodel.a")]))

    # The compiled network called from Python: floats in, floats out, as many examples as you like.
    images, labels = next(digits.test_data().batches())
    decisions = CRunner(verdict.path)(images).argmax(1)
    agreed = int((decisions == result.network(images).argmax(1)).sum())
    print(f"C decides like the quantized network on {agreed} of {len(labels)} images")
    return {"verdict": verdict, "needs": needs, "agreed": agreed, "images": len(labels)}


def build(folder: Path, *goals: str) -> str:
    """Run the folder's Makefile."""
    return shown(["make", "--silent", "-C", str(folder), *goals])


def shown(command: list[str]) -> str:
    """What a command prints; a failure ends the example."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    with torch.no_grad():
        main()
