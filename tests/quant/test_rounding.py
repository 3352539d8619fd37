"""Error-compensated rounding."""

from __future__ import annotations

import pytest
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


def column_by_column(rows, scales, moment, qmax):
    """OPTQ as it is written down: [O, K] of one group, in float64, one column after the other."""
    order = moment.diagonal().argsort(descending=True, stable=True)
    damped = moment[order][:, order] + 0.01 * moment.diagonal().mean() * torch.eye(len(order), dtype=moment.dtype)
    factor = torch.linalg.cholesky(torch.linalg.inv(damped), upper=True)
    left, result = rows[:, order].clone(), torch.empty_like(rows)
    for k in range(len(order)):
        result[:, k] = (left[:, k] / scales).round().clamp(-qmax, qmax) * scales
        error = (left[:, k] - result[:, k]) / factor[k, k]
        left[:, k + 1 :] -= error[:, None] * factor[k, k + 1 :]
    return result[:, order.argsort()]


@pytest.mark.parametrize("block", [1, 7, 64, 1000])
def test_blocks_of_any_length_give_what_single_columns_give(block):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(3, 400, 50, generator=generator) @ (
        torch.eye(50) + 0.2 * torch.randn(3, 50, 50, generator=generator)
    )
    moment = inputs.transpose(1, 2) @ inputs
    rows, scales = torch.randn(3, 8, 50, generator=generator), torch.rand(3, 8, generator=generator) + 0.3
    found = _compensated(rows.double(), scales.double(), moment.double(), 3, midrise=False, block=block)
    for group in range(3):
        exact = column_by_column(rows[group].double(), scales[group].double(), moment[group].double(), 3)
        assert torch.allclose(found[group], exact, atol=1e-9)
    single = _compensated(rows, scales, moment, 3, midrise=False, block=block)
    assert float((single.double() - found).abs().gt(1e-4).float().mean()) < 0.01


def test_inputs_that_hardly_differ_are_rounded_all_the_same():
    """A moment that rounding errors have made indefinite: more damping, and at last none of it.

    In the last group nothing ever arrives; the others are not disturbed by it.
    """
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(4, 3, 40, generator=generator)
    scales = torch.full((4, 3), 0.5)
    direction = torch.randn(40, 1, generator=generator)
    moments = [direction @ direction.T - negative * torch.eye(40) for negative in (0.0, 0.05, 1e4)]
    for moment in moments:
        moment.diagonal().clamp_(min=1e-3)
    moment = torch.stack([*moments, torch.zeros(40, 40)])
    rounded = _compensated(rows, scales, moment, 3, midrise=False)
    nearest = (rows / 0.5).round().clamp(-3, 3) * 0.5
    assert torch.equal(rounded, (rounded / 0.5).round() * 0.5)
    assert torch.equal(rounded[2:], nearest[2:])
    for group in range(2):
        assert not torch.equal(rounded[group], nearest[group])
        alone = _compensated(rows[group : group + 1], scales[:1], moment[group : group + 1], 3, midrise=False)
        assert torch.equal(alone[0], rounded[group])
