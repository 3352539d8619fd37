"""Quantized modules against the stock modules that they replace."""

from __future__ import annotations

import copy

import pytest
import torch
from quant_cases import Tied, quantized
from torch import nn

from sigmaquant.errors import PlanError
from sigmaquant.graph.parameters import ParameterLayer
from sigmaquant.lowering import lower
from sigmaquant.numerics import dequantize_weight
from sigmaquant.quant.modules import (
    ActivationQuantizer,
    QEmbedding,
    QLinear,
    QParameter,
    WeightQuantizer,
    quantized_from_float,
)


class OwnConvolution(nn.Conv2d):
    """A subclass with only a constructor, as model libraries have them."""

    def __init__(self) -> None:
        super().__init__(4, 4, 3, groups=4)


STOCK = [
    (nn.Conv1d(4, 6, 3, stride=2, padding=1, groups=2), (2, 4, 9)),
    (nn.Conv2d(4, 6, 3, dilation=2, padding="same", bias=False), (2, 4, 7, 7)),
    (nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"), (2, 4, 7, 7)),
    (OwnConvolution(), (2, 4, 7, 7)),
    (nn.Conv3d(2, 3, 2), (2, 2, 4, 4, 4)),
    (nn.ConvTranspose1d(4, 6, 3, stride=2, output_padding=1, groups=2), (2, 4, 5)),
    (nn.ConvTranspose2d(4, 6, 3, stride=3, padding=1, output_padding=(1, 2), bias=False), (2, 4, 5, 5)),
    (nn.ConvTranspose3d(2, 3, 2, stride=2, output_padding=1), (1, 2, 3, 3, 3)),
    (nn.Linear(5, 7), (2, 3, 5)),
    (nn.modules.linear.NonDynamicallyQuantizableLinear(5, 7), (2, 5)),
    (nn.Embedding(9, 5, padding_idx=2, scale_grad_by_freq=True), (2, 4)),
]
EACH = pytest.mark.parametrize(("stock", "shape"), STOCK, ids=lambda value: type(value).__name__)


def example(stock, shape):
    generator = torch.Generator().manual_seed(0)
    if isinstance(stock, nn.Embedding):
        return torch.randint(0, stock.num_embeddings, shape, generator=generator)
    return torch.randn(shape, generator=generator)


def twin_of(stock):
    axis = 1 if "Transpose" in type(stock).__name__ else 0
    return quantized_from_float(stock, WeightQuantizer(stock.weight.shape[axis], axis))


@EACH
def test_without_bits_it_is_the_stock_module(stock, shape):
    x, twin = example(stock, shape), twin_of(stock)
    assert torch.equal(twin(x), stock(x))
    assert not isinstance(twin, QParameter)
    stock.weight.grad = None
    stock(x).square().sum().backward()
    expected, stock.weight.grad = stock.weight.grad, None
    twin(x).square().sum().backward()
    assert torch.equal(twin.weight.grad, expected)


@EACH
def test_it_shares_the_parameters_under_their_names(stock, shape):
    twin = twin_of(stock)
    assert twin.weight is stock.weight
    assert getattr(twin, "bias", None) is getattr(stock, "bias", None)
    assert set(twin.state_dict()) == {*stock.state_dict(), "weight_quantizer.scale"}
    assert "weight_quantizer" not in dict(stock.named_modules())  # the float module is left alone


@EACH
def test_float_checkpoints_load(stock, shape):
    twin = twin_of(copy.deepcopy(stock))
    other = {key: torch.randn_like(value) for key, value in stock.state_dict().items()}
    result = twin.load_state_dict(other, strict=False)
    assert result.missing_keys == ["weight_quantizer.scale"]
    assert not result.unexpected_keys
    assert torch.equal(twin.weight, other["weight"])


@EACH
@pytest.mark.parametrize("bits", [2, 5, 8])
def test_with_bits_it_computes_with_the_weight_of_its_codes(stock, shape, bits):
    x, twin = example(stock, shape), twin_of(stock)
    before = stock.weight.detach().clone()
    quantizer = twin.weight_quantizer
    quantizer.set_bits_(bits, twin.weight)
    assert torch.equal(stock.weight, before)
    exact = dequantize_weight(quantizer.codes(twin.weight), quantizer.scale, quantizer.axis)
    reference = copy.deepcopy(stock)
    with torch.no_grad():
        reference.weight.copy_(exact)
    assert torch.equal(twin(x), reference(x))
    assert not torch.equal(twin(x), stock(x))
    quantizer.scale.grad = None
    twin(x).square().sum().backward()
    assert bool(quantizer.scale.grad.any())


def test_the_padding_row_of_an_embedding_gets_no_gradient():
    table = nn.Embedding(5, 3, padding_idx=1)
    twin = twin_of(table)
    twin.weight_quantizer.set_bits_(4, twin.weight)
    assert isinstance(twin, QEmbedding)
    twin(torch.tensor([[0, 1, 1, 3]])).sum().backward()
    assert not twin(torch.tensor([1])).any()
    assert not twin.weight.grad[1].any()
    assert bool(twin.weight.grad[0].any())


def test_sparse_gradients_become_dense():
    twin = twin_of(nn.Embedding(5, 3, sparse=True))
    twin.weight_quantizer.set_bits_(4, twin.weight)
    twin(torch.tensor([0, 2])).sum().backward()
    assert not twin.weight.grad.is_sparse


class Renormed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(7, 5, max_norm=1.0)
        self.head = nn.Linear(5, 3)

    def forward(self, x):
        return self.head(self.table(x).mean(1))


def test_an_embedding_with_max_norm_is_quantized_before_it_is_renormed():
    """The renormalisation is an operator of its own, in float; it must not write into the trained weight."""
    x = torch.arange(7).reshape(1, 7)
    torch.manual_seed(0)
    model = Renormed()
    network = quantized(model, x, bits=4)
    assert network.graph.float_operators == ("table: embedding_renorm", "table: embedding")
    assert "table: embedding" in lower(network).float_operators
    large = 3 * torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        network.weight("table.weight").copy_(large)
    network.train()
    seen = []
    network.activation_quantizers["table.embedding"].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    network(x).sum().backward()
    assert float(seen[0].detach().norm(dim=-1).max()) <= 1 + 1e-4
    assert torch.equal(network.weight("table.weight"), large)
    assert bool(network.weight("table.weight").grad.any())


def test_tied_modules_share_one_quantizer_also_in_a_copy():
    network = quantized(Tied(), torch.randint(0, 7, (4, 3), generator=torch.Generator().manual_seed(0)))
    for body in (network.body, copy.deepcopy(network).body):
        assert body.embedding.weight_quantizer is body.head.weight_quantizer
        assert body.embedding.weight is body.head.weight
        assert body.embedding.weight_quantizer.bits == 4
        assert isinstance(body.head, QLinear)
        assert torch.equal(body.embedding.quantized_weight, body.head.quantized_weight)


def test_a_functional_weight_becomes_a_module_without_input():
    layer = ParameterLayer(nn.Parameter(torch.randn(3, 4)))
    twin = quantized_from_float(layer, WeightQuantizer(3, 0))
    assert isinstance(twin, QParameter)
    assert twin() is layer.weight
    twin.weight_quantizer.set_bits_(2, twin.weight)
    assert all(len(row.unique()) <= 3 for row in twin())


def test_bad_bitwidths_are_refused_before_anything_changes():
    quantizer = WeightQuantizer(2, 0)
    with pytest.raises(PlanError):
        quantizer.set_bits_(1, torch.ones(2, 2))
    assert quantizer.bits is None
    with pytest.raises(PlanError):
        ActivationQuantizer(16)


def test_an_activation_quantizer_remembers_its_grid():
    quantizer = ActivationQuantizer()
    x = torch.randn(4, 5)
    assert quantizer(x) is x
    quantizer.set_grid_(0.1, 3, 4)
    other = ActivationQuantizer()
    other.load_state_dict(quantizer.state_dict())
    assert (other.bits, other.zero_point, other.enabled) == (4, 3, True)
    assert torch.equal(other(x), quantizer(x))
    assert "zero_point=3" in repr(other)
