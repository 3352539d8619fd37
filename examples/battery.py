"""Three plans from one set of weights, and a battery threshold that switches between them while the device runs.

    pip install "sigmaquant[demo]"
    python examples/battery.py           # about a minute; the network is trained on first use
    python examples/battery.py --quick

Needs a C compiler (``cc``). The policy is yours: here a plan for each range of the battery's charge, with energies from
a shipped hardware profile whose multipliers are paid by the bit.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import digits
import numpy as np
import torch

import sigmaquant
from sigmaquant.export.c import CRunner
from sigmaquant.nested.files import export_plans

HARDWARE = "bit-serial-sg13g2"
SIZES = ("5x", "8x", "12x")
THRESHOLDS = (60, 30)
"""Percent of charge below which the next smaller plan runs."""
CAPACITY_UJ = 2000.0
"""A very small battery, so that it is empty soon."""
QUICK = {"sensitivity": "divergence", "calibration_examples": 256}
"""Settings for a few seconds."""

FIRMWARE = """
#include <stdio.h>

#include "model.h"

/* Reads a charge in percent and an image's codes, again and again; answers with the plan and the digit. */
int main(void)
{
    static int8_t input[MODEL_INPUT_SIZE];
    static int8_t output[MODEL_OUTPUT_SIZE];
    for (int percent = getchar(); percent != EOF; percent = getchar()) {
        int best = 0;
        if (fread(input, sizeof input, 1, stdin) != 1) {
            return 1;
        }
        (void)model_set_plan((percent < SMALLEST_BELOW) ? 2 : (percent < SMALLER_BELOW) ? 1 : 0);
        model_run(input, output);
        for (int i = 1; i < MODEL_OUTPUT_SIZE; i++) {
            best = (output[i] > output[best]) ? i : best;
        }
        (void)printf("%d %d\\n", (int)model_plan(), best);
    }
    return 0;
}
"""


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Quantize, write C, and let a battery run down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer measurements")
    parser.add_argument("--out", type=Path, default=Path("runs/battery"), help="run directory")
    options = parser.parse_args(arguments)
    if shutil.which("cc") is None:
        raise SystemExit("there is no C compiler: `cc` was not found. Install one, such as gcc or clang.")

    network = digits.model()
    result = sigmaquant.quantize(
        network,
        digits.train_data(),
        validation_data=digits.val_data(),
        test_data=digits.test_data(),
        plans=SIZES,
        post_training=True,
        hardware=HARDWARE,
        strategy="ilp",
        **(QUICK if options.quick else {}),
        run_dir=options.out,
        overwrite=True,
    )

    # What a policy is written by: each plan's energy, time and accuracy.
    energies = [float(row.cost.energy_pj or 0.0) / 1e6 for row in result.plans]
    for row, energy in zip(result.plans, energies, strict=True):
        print(f"{row.name:>4}: {energy:.3f} uJ, {row.cost.latency_ms:.3f} ms, test accuracy {row.scores.test:.4f}")

    verdicts = export_plans(network, options.out, digits.test_data(), to=["c"], examples=50 if options.quick else None)
    folder = verdicts[0].path
    print(f"{folder}: {'every plan verified' if all(verdict.passed for verdict in verdicts) else 'FAILED'}")

    program = build(folder, options.out)
    images, labels = next(digits.test_data().batches())
    runner = CRunner(folder)
    codes = images_as_codes(runner, images)
    charge, requests = 100.0, []
    while charge > 0:  # the battery runs down: every decision costs what its plan costs
        percent = int(charge)
        plan = sum(percent < threshold for threshold in THRESHOLDS)
        requests.append((percent, len(requests) % len(codes)))
        charge -= 100.0 * energies[plan] / CAPACITY_UJ
    answers = ask(program, requests, codes)
    wrong = sum(int(labels[image]) != digit for (_, image), (_, digit) in zip(requests, answers, strict=True))
    counts = [sum(plan == number for plan, _ in answers) for number in range(len(SIZES))]
    largest_only = int(CAPACITY_UJ / energies[0])
    print(f"decisions by plan: {counts}, {wrong} of {len(answers)} wrong; by the largest plan alone: {largest_only}")
    return {"result": result, "verdicts": verdicts, "counts": counts, "answers": answers, "alone": largest_only}


def images_as_codes(runner: CRunner, images: torch.Tensor) -> np.ndarray[Any, Any]:
    """Input codes, as a camera would give them."""
    (edge,), _ = runner.edges
    codes = torch.clamp(torch.round(images / edge.scale) + edge.zero_point, -128, 127)
    return codes.to(torch.int8).reshape(len(images), -1).numpy()


def build(folder: Path, out: Path) -> Path:
    """Compile the firmware above with the exported folder."""
    source, program = out / "firmware.c", out / "firmware"
    source.write_text(FIRMWARE, encoding="utf-8")
    files = [str(file) for file in sorted(folder.glob("*.c")) if file.name != "main.c"]
    limits = [f"-DSMALLER_BELOW={THRESHOLDS[0]}", f"-DSMALLEST_BELOW={THRESHOLDS[1]}"]
    command = ["cc", "-std=c99", "-O2", *limits, "-I", str(folder), "-o", str(program), str(source), *files]
    subprocess.run(command, check=True)
    return program


def ask(program: Path, requests: list[tuple[int, int]], codes: np.ndarray[Any, Any]) -> list[tuple[int, int]]:
    """The firmware's plan and digit for every charge and image."""
    data = b"".join(bytes([percent]) + codes[image].tobytes() for percent, image in requests)
    done = subprocess.run([str(program.resolve())], input=data, capture_output=True, check=True)
    return [(int(line.split()[0]), int(line.split()[1])) for line in done.stdout.splitlines()]


if __name__ == "__main__":
    with torch.no_grad():
        main()
