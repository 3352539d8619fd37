import contextlib
import itertools

import pytest
import torch
from statistics_cases import Tied, branches, graph_of, images, resnet20
from torch import nn
from torch.nn import functional as F

from sigmaquant.errors import DataError, ModelError
from sigmaquant.graph import trace
from sigmaquant.numerics import dequantize_weight, mse_weight_scales, quantize_weight
from sigmaquant.statistics import fisher_sensitivities, output_sensitivity, weight_divergence
from sigmaquant.tasks import Part


def weight_error(graph, name, bits):
    spec, weight = graph.layer[name], graph.weight(name).detach()
    scale = mse_weight_scales(weight, bits, spec.channel_axis)
    codes = quantize_weight(weight, scale, bits, spec.channel_axis)
    return dequantize_weight(codes, scale, spec.channel_axis) - weight


def exact(graph, bits, x, weights=None):
    """Both sensitivities with every label enumerated for every example (or the given label weights [N, C])."""
    module = graph.module.eval()
    parameters = [graph.weight(spec.name) for spec in graph.layers]
    errors = [weight_error(graph, spec.name, bits) for spec in graph.layers]
    diagonal, projected = [0.0] * len(errors), [0.0] * len(errors)
    for index in range(len(x)):
        logs = module(x[index : index + 1].clone()).log_softmax(1)[0]
        label_weights = logs.exp().detach() if weights is None else weights[index]
        for label, weight in enumerate(label_weights.tolist()):
            gradients = torch.autograd.grad(-logs[label], parameters, retain_graph=True)
            for k, (gradient, error) in enumerate(zip(gradients, errors, strict=True)):
                product = (gradient * error).double()
                diagonal[k] += weight * float(product.square().sum()) / (2 * len(x))
                projected[k] += weight * float(product.sum()) ** 2 / (2 * len(x))
    names = [spec.name for spec in graph.layers]
    return dict(zip(names, diagonal, strict=True)), dict(zip(names, projected, strict=True))


def column(table, bits):
    return {name: row[bits] for name, row in table.items()}


def test_score_has_mean_zero_and_the_fisher_information_as_covariance():
    logits = torch.tensor([[2.0, 0.5, -1.0]], dtype=torch.float32)
    p = logits.softmax(1)[0]
    gradients = []
    for signs in itertools.product((-1.0, 1.0), repeat=3):
        leaf = logits.clone().requires_grad_()
        gradients.append(torch.autograd.grad(Part("logits").signed(leaf, torch.tensor([signs])), leaf)[0][0])
    stacked = torch.stack(gradients)
    torch.testing.assert_close(stacked.mean(0), torch.zeros(3), atol=1e-7, rtol=0)
    torch.testing.assert_close(stacked.T @ stacked / 8, torch.diag(p) - torch.outer(p, p))


@pytest.mark.parametrize("micro_batch", [1, 6])
def test_agrees_with_every_label_enumerated(micro_batch):
    graph, x = branches()
    diagonal, projected = exact(graph, 3, x)
    result = fisher_sensitivities(graph, (3,), [x], draws=150 * micro_batch, micro_batch=micro_batch)
    assert column(result.fisher, 3) == pytest.approx(diagonal, rel=0.2)
    assert column(result.curvature, 3) == pytest.approx(projected, rel=0.3)


def test_batches_of_unequal_size_are_one_mean():
    graph, x = branches()
    diagonal, projected = exact(graph, 2, x)
    result = fisher_sensitivities(graph, (2,), [x[:1], (x[1:], None)], draws=300)
    assert column(result.fisher, 2) == pytest.approx(diagonal, rel=0.15)
    assert column(result.curvature, 2) == pytest.approx(projected, rel=0.25)


def test_a_loss_of_ones_own_gives_the_empirical_fisher_information():
    graph, x = branches()
    labels = torch.arange(len(x)) % 4
    diagonal, projected = exact(graph, 3, x, F.one_hot(labels, 4).float())
    result = fisher_sensitivities(
        graph, (3,), [(x, labels)], draws=400, loss=lambda out, y: F.cross_entropy(out, y, reduction="none")
    )
    assert column(result.fisher, 3) == pytest.approx(diagonal, rel=0.2)
    assert column(result.curvature, 3) == pytest.approx(projected, rel=0.3)


def test_values_of_a_linear_network_have_the_relative_squared_error():
    torch.manual_seed(0)
    graph = graph_of(nn.Sequential(nn.Linear(6, 3)))
    x = torch.randn(8, 5, 6)
    expected = output_sensitivity(graph, (3,), [x])["0"][3]
    result = fisher_sensitivities(graph, (3,), [x], draws=1500)
    assert result.curvature["0"][3] == pytest.approx(expected, rel=0.15)


def test_curvature_is_the_output_divergence_of_a_small_change():
    graph, x = branches()
    divergence = column(output_sensitivity(graph, (8,), [x]), 8)
    curvature = column(fisher_sensitivities(graph, (8,), [x], draws=400, micro_batch=6).curvature, 8)
    assert curvature == pytest.approx(divergence, rel=0.35)


def test_frozen_and_tied_parameters_and_disabled_gradients():
    torch.manual_seed(0)
    tied = graph_of(Tied().requires_grad_(False))
    tokens = torch.randint(0, 7, (5, 4))
    with torch.no_grad():
        result = fisher_sensitivities(tied, (3,), [tokens], draws=300)
    assert not any(parameter.requires_grad for parameter in tied.module.parameters())
    tied.module.requires_grad_(True)
    diagonal, projected = exact(tied, 3, tokens)
    assert column(result.fisher, 3) == pytest.approx(diagonal, rel=0.2)
    assert column(result.curvature, 3) == pytest.approx(projected, rel=0.3)


def test_deterministic_and_nothing_left_behind():
    graph, x = branches()
    graph.module.train()
    graph.module.get_submodule("norm").eval()
    modes = {name: part.training for name, part in graph.module.named_modules()}
    state = {name: value.clone() for name, value in graph.module.state_dict().items()}
    random_state = torch.get_rng_state()
    first = fisher_sensitivities(graph, (2, 4), [x], seed=3)
    assert first == fisher_sensitivities(graph, (2, 4), [x], seed=3)
    assert first != fisher_sensitivities(graph, (2, 4), [x], seed=4)
    assert torch.equal(random_state, torch.get_rng_state())
    assert modes == {name: part.training for name, part in graph.module.named_modules()}
    assert all(torch.equal(value, state[name]) for name, value in graph.module.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in graph.module.parameters())


def test_modes_are_restored_after_a_failure():
    graph, x = branches()
    graph.module.train()
    with pytest.raises(DataError, match="one value per example"):
        fisher_sensitivities(graph, (4,), [(x, x)], loss=lambda out, y: out.mean())
    assert all(part.training for part in graph.module.modules())


def test_errors():
    graph, x = branches()
    with pytest.raises(DataError, match="no calibration batches"):
        fisher_sensitivities(graph, (4,), [])
    with pytest.raises(DataError, match="at least 1"):
        fisher_sensitivities(graph, (4,), [x], draws=0)
    with torch.no_grad():
        graph.weight("head")[0, 0] = float("nan")
    with pytest.raises(ModelError, match="layer 'head'"):
        fisher_sensitivities(graph, (4,), [x])


def test_resnet20_ranks_layers_as_their_output_divergence_does(shared_data):
    stats = pytest.importorskip("scipy.stats")
    _, graph = resnet20(shared_data)
    x = images(shared_data, 48)
    reference = column(output_sensitivity(graph, (4,), [x]), 4)
    result = fisher_sensitivities(graph, (4,), [x])
    for table, least in ((result.fisher, 0.5), (result.curvature, 0.6)):
        ranked = column(table, 4)
        assert stats.spearmanr(list(reference.values()), list(ranked.values())).statistic > least
    # D knows nothing of the network around a layer; it is another quantity, and no ranking of outputs.
    assert weight_divergence(graph.weight("linear"), (4,))[4] > 0


@pytest.mark.parametrize("frozen", ["no_grad", "detach"])
def test_what_nothing_is_to_learn_is_sensitive_all_the_same(frozen):
    class Net(nn.Module):
        def __init__(self, freeze):
            super().__init__()
            torch.manual_seed(0)
            self.freeze, self.a, self.b = freeze, nn.Linear(6, 8), nn.Linear(8, 3)

        def forward(self, x):
            with torch.no_grad() if self.freeze == "no_grad" else contextlib.nullcontext():
                features = torch.relu(self.a(x))
            return {"logits": self.b(features.detach() if self.freeze == "detach" else features)}

    x = torch.randn(32, 6, generator=torch.Generator().manual_seed(1))
    expected = fisher_sensitivities(trace(Net(None), x[:2]), (2, 4), [(x, None)])
    found = fisher_sensitivities(trace(Net(frozen), x[:2]), (2, 4), [(x, None)])
    assert found.curvature == expected.curvature
    assert found.curvature["a"][2] > 0
