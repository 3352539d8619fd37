"""A task of your own: two outputs, a metric over both, what is alike; all else has a default.

    pip install "sigmaquant[demo,onnx]"
    python examples/own_task.py                  # about half a minute
    python examples/own_task.py --quick          # some seconds, with a worse network

The network reads a handwritten digit and says at once how much ink it has: classes and a value in one dictionary.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

import sigmaquant
from sigmaquant import QuantizationResult, Task
from sigmaquant.tasks import Part
from sigmaquant.workflow.exporting import export_run

SEED = 0
QUICK = {"cycle_examples": 256, "max_cycles": 1, "sensitivity_examples": 128}


# -- 1. The task. --------------------------------------------------------------------------------------------------


class DigitAndInk(Task):
    """Right is an example whose digit is right and whose ink is off by less than a tenth. Targets: digit and ink."""

    metric_name, share = "both right", True

    def outputs(self, returned: Any) -> tuple[Tensor, Tensor]:
        """Of what the network returns, these two count."""
        return returned["digit"], returned["ink"]

    def parts(self, outputs: Any) -> tuple[Part, Part]:
        """The first are logits, compared by KL, the second values; the ink counts for a half."""
        return Part("logits"), Part("values", weight=0.5)

    def each(self, outputs: Any, targets: Tensor) -> Tensor:
        digit, ink = outputs
        return ((digit.argmax(1) == targets[:, 0]) & ((ink[:, 0] - targets[:, 1]).abs() < 0.1)).double()

    def metric(self, outputs: Any, targets: Tensor) -> float:
        return float(self.each(outputs, targets).mean())

    def loss(self, outputs: Any, targets: Tensor) -> Tensor:
        """Only used where `distill` is below 1."""
        return F.cross_entropy(outputs[0], targets[:, 0].long()) + F.mse_loss(outputs[1][:, 0], targets[:, 1])

    def alike(self, outputs: Any, reference: Any) -> Tensor:
        """Of an exported file: the same digit, and the ink as good as the same."""
        same = outputs[0].argmax(1) == reference[0].argmax(1)
        return (same & ((outputs[1] - reference[1]).abs()[:, 0] < 0.02)).double()


# -- 2. The network and its data. ----------------------------------------------------------------------------------


class Net(nn.Module):
    """A dictionary of two outputs; tuples, lists and nested ones are as good."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2), nn.ReLU())
        self.digit, self.ink = nn.Linear(32 * 9, 10), nn.Linear(32 * 9, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.body(x).flatten(1)
        return {"digit": self.digit(x), "ink": self.ink(x)}


def data(begin: int, end: int) -> tuple[Tensor, Tensor]:
    """Images, and for each its digit and its ink."""
    digits = load_digits()
    order = torch.randperm(len(digits.target), generator=torch.Generator().manual_seed(SEED))[begin:end]
    images = torch.tensor(digits.images, dtype=torch.float32)[order, None] / 16
    ink = 3 * images.mean((1, 2, 3)) - 1
    return images, torch.stack([torch.tensor(digits.target)[order].float(), ink], 1)


def trained(images: Tensor, targets: Tensor, epochs: int) -> Net:
    """Stands for the training that you have done long ago."""
    torch.manual_seed(SEED)
    net, task = Net(), DigitAndInk()
    optimiser = torch.optim.Adam(net.parameters(), lr=0.003)
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(64):
            optimiser.zero_grad()
            task.loss(task.outputs(net(images[batch])), targets[batch]).backward()
            optimiser.step()
    return net.eval()


# -- 3. The job: everything goes by the task. ----------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> QuantizationResult:
    """Quantize, export, verify."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="some seconds, with a worse network")
    parser.add_argument("--out", type=Path, default=Path("runs/own_task"), help="run directory")
    options = parser.parse_args(arguments)
    training, test, task = data(0, 1400), data(1400, 1797), DigitAndInk()
    net = trained(*training, epochs=5 if options.quick else 30)
    result = sigmaquant.quantize(
        net,
        training,
        test_data=test,
        task=task,
        budget="8x",
        run_dir=options.out,
        overwrite=True,
        seed=SEED,
        **(QUICK if options.quick else {"cycle_examples": 1400, "final_epochs": 6}),
    )
    print(f"both right: float {result.float_scores.test:.1%}, quantized {result.scores.test:.1%}")
    (verdict,) = export_run(net, options.out, test, to=["onnx"], task=task)
    agreement = verdict.as_deployed or verdict.agreement
    print(f"{verdict.path}: {'verified' if verdict.passed else 'failed'}, {agreement.decisions:.2%} decided alike")
    return result


if __name__ == "__main__":
    main()
