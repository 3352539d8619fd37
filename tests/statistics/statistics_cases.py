"""Small networks as graphs, built without the tracer, and the trained ResNet-20 where the shared data are present."""

import importlib
import sys
from pathlib import Path

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from sigmaquant.graph.specs import LayerSpec, QuantGraph

KINDS = {
    nn.Conv2d: "conv2d",
    nn.ConvTranspose2d: "conv_transpose2d",
    nn.Linear: "linear",
    nn.Embedding: "embedding",
}


def graph_of(model: nn.Module, batch_norms: dict[str, str] | None = None) -> QuantGraph:
    """The graph of a model whose layers are modules; `batch_norms` maps a layer to the BatchNorm that follows it."""
    module = fx.symbolic_trace(model)
    called = [str(node.target) for node in module.graph.nodes if node.op == "call_module"]
    layers = []
    for name in dict.fromkeys(called):
        layer = model.get_submodule(name)
        kind = KINDS.get(type(layer))
        if kind is None or any(model.get_submodule(other.name).weight is layer.weight for other in layers):
            continue
        weight = layer.weight
        layers.append(
            LayerSpec(
                name,
                kind,
                f"{name}.weight",
                tuple(weight.shape),
                1 if kind.startswith("conv_transpose") else 0,
                getattr(layer, "groups", 1),
                getattr(layer, "bias", None) is not None,
                0,
                (),
                (),
                calls=called.count(name),
                batch_norm=(batch_norms or {}).get(name),
            )
        )
    return QuantGraph(module, tuple(layers))


class Branches(nn.Module):
    """A convolution called twice, a residual addition, a parallel branch, and on request in-place operations."""

    def __init__(self, writes: bool = False) -> None:
        super().__init__()
        self.writes = writes
        self.first = nn.Conv2d(2, 6, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.twice = nn.Conv2d(6, 6, 3, padding=1)
        self.branch = nn.Conv2d(6, 6, 1)
        self.dropout = nn.Dropout(0.5)
        self.relu = nn.ReLU(inplace=writes)
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.norm(self.first(x)))
        y = F.relu(self.twice(x))
        z = self.branch(x)
        y = self.twice(y)
        if self.writes:
            x += y
            z.mul_(2)
        else:
            x = x + y
        x = self.dropout(self.relu(x) + z)
        return self.head(x.mean((2, 3)))


class Tied(nn.Module):
    """The embedding's matrix is also the classifier's."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 5)
        self.middle = nn.Linear(5, 5)
        self.head = nn.Linear(5, 7, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(torch.tanh(self.middle(self.embedding(tokens))).mean(1))


def branches(writes: bool = False) -> tuple[QuantGraph, Tensor]:
    """A `Branches` network with lively BatchNorm statistics, and a batch."""
    torch.manual_seed(0)
    model = Branches(writes)
    with torch.no_grad():
        model.norm.running_var.uniform_(0.1, 2.0)
        model.norm.running_mean.normal_()
        model.norm.weight.normal_()
        model.head.weight.mul_(8)  # confident enough that the classes differ
    return graph_of(model, {"first": "norm"}), torch.randn(6, 2, 5, 5)


def resnet20(folder: Path) -> tuple[nn.Module, QuantGraph]:
    """The trained ResNet-20 and its graph."""
    net, _ = _loader(folder).network("akamaster_resnet20_cifar10")
    norms = {name: name.replace("conv", "bn") for name, m in net.named_modules() if isinstance(m, nn.Conv2d)}
    return net, graph_of(net, norms)


def images(folder: Path, count: int) -> Tensor:
    """The first CIFAR-10 test images, as ResNet-20 wants them."""
    pixels, _ = _loader(folder).cifar("test")
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return ((torch.from_numpy(pixels[:count]).float() / 255 - mean) / std).permute(0, 3, 1, 2).contiguous()


def _loader(folder: Path):
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    return importlib.import_module("load")
