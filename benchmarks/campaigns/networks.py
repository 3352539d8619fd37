"""Random networks of random operators: integers against the quantized network, C under sanitizers against integers."""

from __future__ import annotations

import random
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sigmaquant.errors import SigmaQuantError
from sigmaquant.export.c import CRunner, export_c
from sigmaquant.export.fidelity import FidelityCheck
from sigmaquant.graph import trace
from sigmaquant.lowering import IntegerExecutor, lower
from sigmaquant.plan import BitwidthPlan
from sigmaquant.quant import calibrate_, prepare, set_plan_

SANITIZED = ("-std=c99", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")


class Rescaled(nn.Module):
    """Another size of the map."""

    def __init__(self, factor: float, mode: str) -> None:
        super().__init__()
        self.factor, self.mode = factor, mode

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=self.factor, mode=self.mode)


class Joined(nn.Module):
    """Two branches, added, multiplied or side by side."""

    def __init__(self, left: nn.Module, right: nn.Module, how: str) -> None:
        super().__init__()
        self.left, self.right, self.how = left, right, how

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.left(x), self.right(x)
        if self.how == "cat":
            return torch.cat([a, b], 1)
        return a + b if self.how == "add" else a * b


def _layer(draw: random.Random, channels: int) -> tuple[nn.Module, int]:
    kind = draw.choice(
        ("conv", "conv", "depthwise", "grouped", "pool", "activation", "norm", "resize", "joined", "pad")
    )
    if kind in ("conv", "grouped", "depthwise"):
        groups = channels if kind == "depthwise" else draw.choice([g for g in (1, 2) if channels % g == 0])
        out = channels if kind == "depthwise" else groups * draw.randint(1, 4)
        kernel, dilation = draw.choice((1, 3, 3, 5)), draw.choice((1, 1, 2))
        stride, padding = draw.choice((1, 1, 2)), dilation * (kernel // 2)
        conv = nn.Conv2d(
            channels, out, kernel, stride, padding, dilation, groups, draw.random() < 0.5,
            draw.choice(("zeros", "zeros", "reflect")) if padding and padding < 3 else "zeros",
        )  # fmt: skip
        return conv, out
    if kind == "pool":
        return draw.choice(
            (nn.MaxPool2d(2, ceil_mode=True), nn.AvgPool2d(3, 1, 1), nn.AdaptiveAvgPool2d((3, 2)))
        ), channels
    if kind == "activation":
        return draw.choice(
            (nn.ReLU(), nn.ReLU6(), nn.Hardswish(), nn.SiLU(), nn.GELU(), nn.Sigmoid(), nn.Tanh())
        ), channels
    if kind == "norm":
        return draw.choice((nn.BatchNorm2d(channels), nn.GroupNorm(1, channels))), channels
    if kind == "resize":
        return Rescaled(draw.choice((2.0, 1.5)), draw.choice(("nearest", "bilinear"))), channels
    if kind == "pad":
        return nn.ZeroPad2d(tuple(draw.randint(0, 2) for _ in range(4))), channels
    out = draw.randint(1, 4)
    branches = [nn.Sequential(nn.Conv2d(channels, out, k, padding=k // 2), nn.ReLU()) for k in (1, 3)]
    how = draw.choice(("add", "cat", "mul"))
    return Joined(*branches, how), out * (2 if how == "cat" else 1)


def network(draw: random.Random) -> tuple[nn.Module, tuple[int, ...]]:
    """A network and the shape of its input, without the batch."""
    channels = draw.randint(1, 4)
    shape = (channels, draw.randint(5, 10), draw.randint(5, 10))
    layers: list[nn.Module] = [nn.Conv2d(channels, channels, 3, padding=1)]
    for _ in range(draw.randint(2, 7)):
        layer, channels = _layer(draw, channels)
        layers.append(layer)
    layers += [nn.Flatten(), nn.LazyLinear(draw.randint(1, 6))]
    model = nn.Sequential(*layers)
    with torch.no_grad():
        model(torch.zeros(2, *shape))
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.weight)
                nn.init.normal_(module.running_mean)
                nn.init.uniform_(module.running_var, 0.5, 2.0)
    return model.eval(), shape


def trial(work: Path, seed: int, *, compiled: bool = True) -> str:
    """``"same"``, ``"refused: …"``, or what is wrong.

    Args:
        work: a folder for the C sources.
        seed: of the network, its plan and its inputs.
        compiled: whether C is written, compiled and run as well.
    """
    draw = random.Random(seed)
    torch.manual_seed(seed)
    model, shape = network(draw)
    x = torch.randn(12, *shape)
    try:
        graph = trace(model, x[:2])
        if graph.float_places:
            return f"refused: {graph.float_places[0].operator} stays in float"
        quantized = prepare(graph)
        bits = {name: draw.randint(2, 8) for name in graph.layer}
        activations = {name: draw.choice((8, 8, 8, 4)) for name in graph.activation_names}
        set_plan_(quantized, BitwidthPlan(bits, activations, graph.fingerprint, draw.choice((0, 2))))
        calibrate_(quantized, [x])
        integers = lower(quantized.eval())
        parting = FidelityCheck(quantized, integers).run([(x,)])
        if parting is not None:
            return f"the integers part from the network at {parting}"
        if not compiled:
            return "same"
        export_c(integers, work / f"net{seed}")
        runner = CRunner(work / f"net{seed}", flags=SANITIZED)
    except SigmaQuantError as error:
        return f"refused: {error}"
    executor = IntegerExecutor(integers, "integer")
    codes = executor.quantize_inputs(x)
    found, wanted = runner(*codes), executor.run_codes(*codes)
    pairs = zip(found if isinstance(found, tuple | list) else (found,), wanted, strict=True)
    return "same" if all(torch.equal(a.reshape(b.shape).to(b.dtype), b) for a, b in pairs) else "C gives other codes"
