"""What attention and recurrent layers cost on a microcontroller, for `benchmarks/mcu.py --sequences`.

Every network is one layer with random weights, quantized as users' are; kernels are counted by themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sigmaquant.graph import trace
from sigmaquant.lowering import IntegerModel, lower
from sigmaquant.plan import BitwidthPlan
from sigmaquant.quant import calibrate_, prepare, set_plan_


class Products(nn.Module):
    """One head whose values go through a layer: scores, and their shares' sum of the values."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.values = nn.Linear(width, width)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        v = self.values(v)
        return (q @ k.transpose(1, 2) / q.shape[-1] ** 0.5).softmax(-1) @ v


class Outputs(nn.Module):
    """A recurrent layer's outputs."""

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.layer(x)[0]
        return found


@dataclass(frozen=True)
class Subject:
    """A network of one layer.

    Attributes:
        build: makes it.
        inputs: shapes of one example.
        kernel: whose instructions count.
        count: by what they are divided: multiplications, or values.
        weighted: whether it has weights, so that bits matter.
    """

    build: Callable[[], nn.Module]
    inputs: tuple[tuple[int, ...], ...]
    kernel: str
    count: int
    weighted: bool = False


def _recurrent(kind: type[nn.RNNBase], inputs: int, units: int, steps: int) -> Subject:
    gates = {nn.LSTM: 4, nn.GRU: 3}.get(kind, 1)
    macs = steps * gates * units * (inputs + units)
    build = lambda: Outputs(kind(inputs, units, batch_first=True))  # noqa: E731
    return Subject(build, ((steps, inputs),), "sq_recurrent", macs, weighted=True)


SUBJECTS = {
    "LSTM, 28→20, 28 steps": _recurrent(nn.LSTM, 28, 20, 28),
    "LSTM, 40→64, 49 steps": _recurrent(nn.LSTM, 40, 64, 49),
    "LSTM, 64→128, 25 steps": _recurrent(nn.LSTM, 64, 128, 25),
    "GRU, 40→64, 49 steps": _recurrent(nn.GRU, 40, 64, 49),
    "matmul, 99x64 by 64x99 and 99x99 by 99x64": Subject(
        lambda: Products(64), ((99, 64),) * 3, "sq_matmul", 2 * 99 * 99 * 64
    ),
    "softmax, 99 rows of 99": Subject(lambda: Products(64), ((99, 64),) * 3, "sq_softmax", 99 * 99),
    "LayerNorm, 99 rows of 64": Subject(
        lambda: nn.Sequential(nn.Linear(64, 64), nn.LayerNorm(64)), ((99, 64),), "sq_norm", 99 * 64
    ),
}
"""By what the table calls them; multiplications of matrices, values of the others."""


def integers(subject: Subject, bits: int) -> IntegerModel:
    """The layer at a bitwidth, calibrated on noise."""
    torch.manual_seed(0)
    network = subject.build().eval()
    examples = tuple(torch.randn(8, *shape) for shape in subject.inputs)
    graph = trace(network, tuple(x[:2] for x in examples))
    prepared = prepare(graph)
    activations = dict.fromkeys(graph.activation_names, 8)
    set_plan_(prepared, BitwidthPlan(dict.fromkeys(graph.layer, bits), activations, graph.fingerprint, 4))
    calibrate_(prepared, [examples])
    return lower(prepared.eval())
