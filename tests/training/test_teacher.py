"""The float network with BatchNorm folded."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from sigmaquant.graph import trace
from sigmaquant.training.teacher import make_teacher


def randomized(model):
    """BatchNorm with statistics and factors of every sign."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(generator=generator)
            module.running_var.uniform_(0.3, 2, generator=generator)
            if module.affine:
                with torch.no_grad():
                    module.weight.normal_(generator=generator)
                    module.bias.normal_(generator=generator)
    return model.eval()


MODELS = [
    (nn.Sequential(nn.Conv2d(2, 3, 3, bias=False), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 4, 1)), (2, 6, 6), 1),
    (nn.Sequential(nn.Conv1d(2, 4, 3, groups=2), nn.BatchNorm1d(4, affine=False)), (2, 7), 1),
    (nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2)), (5,), 1),
    (nn.Sequential(nn.ConvTranspose2d(2, 3, 2), nn.BatchNorm2d(3)), (2, 4, 4), 0),
    (nn.Sequential(nn.BatchNorm2d(2), nn.Conv2d(2, 3, 1)), (2, 4, 4), 0),
]


@pytest.mark.parametrize(("model", "shape", "folded"), MODELS)
def test_it_computes_what_the_float_network_computes(model, shape, folded):
    model = randomized(model)
    x = torch.randn(4, *shape, generator=torch.Generator().manual_seed(1))
    expected, state = model(x), copy.deepcopy(model.state_dict())
    graph = trace(model, x)
    teacher = make_teacher(graph)
    assert torch.allclose(teacher(x), expected, atol=1e-5)
    assert sum(isinstance(module, nn.Identity) for module in teacher.modules()) == folded
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert torch.equal(graph.module.eval()(x), expected)


def test_it_is_frozen_and_in_evaluation_mode():
    model = randomized(MODELS[0][0]).train()
    teacher = make_teacher(trace(model, torch.zeros(2, 2, 6, 6)))
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert not any(module.training for module in teacher.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_layer_called_twice_keeps_its_batch_norm():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)

        def forward(self, x):
            return self.norm(self.conv(self.conv(x)))

    model, x = randomized(Twice()), torch.randn(3, 2, 4, 4)
    teacher = make_teacher(trace(model, x))
    assert torch.allclose(teacher(x), model(x), atol=1e-5)
    assert isinstance(teacher.norm, nn.BatchNorm2d)
