"""Error-compensated rounding."""

from __future__ import annotations

import torch
from quant_cases import Residual, Tied, images, quantized
from torch import nn

from sigmaquant.quant import compensate_rounding_
from sigmaquant.quant.rounding import _compensated, input_vectors


def outputs_error(network, x):
    return float((network(x) - network.graph.module.eval()(x)).detach().norm())


def test_layers_land_on_their_grid_and_outputs_come_closer():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 4))
    mixing = torch.randn(12, 12, generator=torch.Generator().manual_seed(0))
    x = torch.randn(256, 12, generator=torch.Generator().manual_seed(1)) @ mixing  # correlated inputs
    network = quantized(model, x, bits=3)
    nearest, scales = outputs_error(network, x), [s.detach().clone() for s in network.scales()]
    assert compensate_rounding_(network, x.split(64)) == ("0", "2")
    assert outputs_error(network, x) < 0.9 * nearest
    assert all(torch.equal(s, kept) for s, kept in zip(network.scales(), scales, strict=True))
    for name, quantizer in network.weight_quantizers.items():
        weight = network.weight(name).detach()
        assert torch.allclose(quantizer(weight), weight, atol=1e-6)


def test_tied_weights_are_left_alone():
    ids = torch.randint(0, 7, (8, 3), generator=torch.Generator().manual_seed(0))
    network = quantized(Tied(), ids)
    table = network.weight("embedding").detach().clone()
    assert compensate_rounding_(network, [ids]) == ("middle",)
    assert torch.equal(network.weight("embedding"), table)


def test_a_network_of_convolutions_stays_finite_and_keeps_its_mode():
    network = quantized(Residual(), images()).train()
    assert compensate_rounding_(network, [images(), (images(seed=1),)]) == ("conv1", "conv2", "fc")
    assert network.training
    assert bool(torch.isfinite(network.eval()(images())).all())


def test_input_vectors_are_what_the_weight_rows_are_multiplied_with():
    generator = torch.Generator().manual_seed(0)
    layers = [
        (nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2, bias=False), (3, 4, 7, 6)),
        (nn.Conv2d(2, 3, (3, 2), dilation=2, padding="same", bias=False), (3, 2, 7, 6)),
        (nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular", bias=False), (3, 2, 5, 5)),
        (nn.Conv1d(4, 4, 3, padding=2, groups=4, bias=False), (3, 4, 9)),
        (nn.Linear(5, 4, bias=False), (3, 2, 5)),
    ]
    for layer, shape in layers:
        x = torch.randn(shape, generator=generator)
        groups = getattr(layer, "groups", 1)
        vectors = input_vectors(layer, x, samples=10**6)
        rows = layer.weight.reshape(groups, layer.weight.shape[0] // groups, -1)
        products = (rows @ vectors.transpose(1, 2)).flatten(0, 1)
        expected = layer(x) if isinstance(layer, nn.Linear) else layer(x).movedim(1, -1)
        assert torch.allclose(products.T, expected.flatten(0, -2), atol=1e-5), layer


def test_inputs_that_hardly_differ_are_rounded_all_the_same():
    """A moment that rounding errors have made indefinite: more damping, and at last none of it."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(3, 40, generator=generator)
    scales = torch.full((3,), 0.5)
    direction = torch.randn(40, 1, generator=generator)
    for negative in (0.05, 1e4):
        moment = direction @ direction.T - negative * torch.eye(40)
        moment.diagonal().clamp_(min=1e-3)
        rounded = _compensated(rows, scales, moment, 3, midrise=False)
        assert bool(rounded.isfinite().all())
        assert torch.equal(rounded, (rounded / 0.5).round() * 0.5)
