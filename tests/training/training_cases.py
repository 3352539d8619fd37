"""A tiny problem that a tiny network solves in a few steps."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sigmaquant.data.indexed import TensorSource
from sigmaquant.graph import QuantGraph, trace
from sigmaquant.plan import BitwidthPlan
from sigmaquant.training.devices import Device
from sigmaquant.training.qat import Recipe
from sigmaquant.training.student import Student
from sigmaquant.training.teacher import make_teacher

CPU = Device("cpu", bf16=False)
CLASSES = 3


def problem(count: int = 96, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Noisy copies of one pattern per class."""
    patterns = torch.randn(CLASSES, 2, 4, 4, generator=torch.Generator().manual_seed(9))
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(0, CLASSES, (count,), generator=generator)
    return patterns[targets] + 0.5 * torch.randn(count, 2, 4, 4, generator=generator), targets


def source(count: int = 96, batch_size: int = 16, seed: int = 0) -> TensorSource:
    return TensorSource(*problem(count, seed), batch_size=batch_size)


def network(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(
            nn.Conv2d(2, 6, 3, padding=1, bias=False),
            nn.BatchNorm2d(6),
            nn.ReLU(inplace=True),
            nn.Conv2d(6, 4, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(16, CLASSES),
        )
        model.train()
        for _ in range(5):
            model(problem()[0])
        with torch.no_grad():
            model[-1].weight.mul_(8)  # logits far enough apart for a teacher to have something to say
    return model.eval()


def plan_of(graph: QuantGraph, bits: int = 4) -> BitwidthPlan:
    return BitwidthPlan(
        {spec.name: bits for spec in graph.layers}, dict.fromkeys(graph.activation_names, 8), graph.fingerprint
    )


def student(bits: int = 4, graph: QuantGraph | None = None, **options) -> Student:
    """A student at a uniform plan, calibrated."""
    graph = graph or trace(network(), problem()[0])
    options = {"calibration_examples": 32, "batch_size": 16, "seed": 0, "recipe": Recipe(lr=0.05), **options}
    data = options.pop("train", None) or source(batch_size=options.pop("batch_size"))
    teacher = options.pop("teacher", CPU.put_module(make_teacher(graph)))
    made = Student(graph, teacher, data, options.pop("device", CPU), options.pop("recipe"), **options)
    made.apply(plan_of(graph, bits))
    return made
