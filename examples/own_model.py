"""Your own network and your own data, from Python: quantize, read the result, export to ONNX, verify the file.

    pip install "sigmaquant[demo,onnx]"
    python examples/own_model.py                 # about half a minute
    python examples/own_model.py --quick         # some seconds, with a worse network

The network here is small and trained on the spot, so that the example needs nothing else. Yours is trained already:
replace `Net`, `trained` and `Digits` by what you have, and keep `main`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import sigmaquant
from sigmaquant import Budget, QuantizationResult
from sigmaquant.workflow.exporting import export_run

SEED = 0
QUICK = {"cycle_examples": 256, "max_cycles": 2, "final_epochs": 0.5, "sensitivity_examples": 128}
"""Settings for a few seconds."""


# -- 1. The network: any module that torch.export accepts. ---------------------------------------------------------


class Net(nn.Module):
    """Two paths of convolutions that are joined again. Functional calls, concatenations and additions are all fine."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 24, 3, padding=1)
        self.narrow = nn.Sequential(nn.Conv2d(24, 24, 1, bias=False), nn.BatchNorm2d(24), nn.ReLU())
        self.wide = nn.Sequential(nn.Conv2d(24, 24, 3, padding=1, bias=False), nn.BatchNorm2d(24), nn.ReLU())
        self.joined = nn.Conv2d(48, 32, 3, stride=2, padding=1)
        self.classifier = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        """``[n, 1, 8, 8]`` to logits ``[n, 10]``."""
        x = nn.functional.relu(self.stem(x))
        x = torch.cat([self.narrow(x), self.wide(x)], 1)
        x = nn.functional.relu(self.joined(x))
        return self.classifier(x.mean((2, 3)))


# -- 2. The data: any Dataset of (input, target), or a DataLoader that you have. -----------------------------------


class Digits(Dataset[tuple[Tensor, int]]):
    """A part of scikit-learn's handwritten digits."""

    def __init__(self, begin: int, end: int) -> None:
        digits = load_digits()
        order = torch.randperm(len(digits.target), generator=torch.Generator().manual_seed(SEED))[begin:end]
        self.images = torch.tensor(digits.images, dtype=torch.float32)[order, None] / 16
        self.labels = digits.target[order.numpy()].tolist()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], self.labels[index]


def trained(data: Dataset[tuple[Tensor, int]], epochs: int) -> Net:
    """Stands for the training that you have done long ago."""
    torch.manual_seed(SEED)
    net = Net()
    optimiser = torch.optim.Adam(net.parameters(), lr=0.003)
    for _ in range(epochs):
        for images, labels in DataLoader(data, batch_size=64, shuffle=True):
            optimiser.zero_grad()
            nn.functional.cross_entropy(net(images), labels).backward()
            optimiser.step()
    return net.eval()


# -- 3. The job. ---------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> QuantizationResult:
    """Quantize, show, export, verify."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="some seconds, with a worse network")
    parser.add_argument("--out", type=Path, default=Path("runs/own_model"), help="run directory")
    options = parser.parse_args(arguments)

    # Three parts that do not overlap. The search decides on the validation data; the test data are scored once, at
    # the end. Your own DataLoader works as well as a Dataset: it keeps its batch size, its workers and its sampler.
    training, validation, test = Digits(0, 1100), Digits(1100, 1450), Digits(1450, 1797)
    loader = DataLoader(training, batch_size=64, shuffle=True)
    net = trained(training, epochs=6 if options.quick else 30)

    # What is allowed: a tenth of the float network's bytes, and two points of accuracy. `pin` fixes layers of which
    # you know better. Everything that can be chosen is a field of `sigmaquant.Settings`.
    result = sigmaquant.quantize(
        net,
        loader,
        validation_data=validation,
        test_data=test,
        budget=Budget(size="10x", accuracy="-2 %"),
        run_dir=options.out,
        overwrite=True,
        pin={"stem": 8},
        seed=SEED,
        **(QUICK if options.quick else {"cycle_examples": 1100, "final_epochs": 6}),
    )

    # `met` is the answer. When the budget cannot be met, the best network found is here all the same, and
    # `violations` says by how much each limit is missed.
    print(f"budget {result.status}", *(f"{name}: {excess:.1%} off" for name, excess in result.violations.items()))
    print(f"{'':12}{'accuracy':>10}{'bytes':>10}")
    print(f"{'float32':12}{result.float_scores.test:>10.4f}{result.reference.total_bytes:>10,}")
    print(f"{'quantized':12}{result.scores.test:>10.4f}{result.cost.total_bytes:>10,}")

    # Every parameter of the model is in this table: at a bitwidth, or with the reason why it is not.
    for row in result.coverage:
        print(f"{row.parameter:24}{row.elements:>8,}  {f'{row.bits} bits' if row.bits else row.reason}")

    # One call writes the files and runs each of them against integer arithmetic on your data. For ONNX at least
    # 99.9 % of the examples must have the same largest output; C and packed files must be equal.
    (verdict,) = export_run(net, options.out, test, to=["onnx"])
    agreement = verdict.as_deployed or verdict.agreement
    print(f"{verdict.path}: {verdict.real_bytes:,} bytes, {'verified' if verdict.passed else verdict.first_difference}")
    print(f"same decision as the reference on {agreement.decisions:.2%} of {agreement.examples} test images")
    return result


if __name__ == "__main__":
    main()
