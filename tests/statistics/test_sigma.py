import pytest
import torch
from statistics_cases import branches, graph_of, resnet20
from torch import nn

from sigmaquant.errors import DataError, ModelError
from sigmaquant.statistics import layer_sigmas, moments


def test_sigma_by_hand():
    model = nn.Sequential(nn.Linear(4, 2, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 1.0, 3.0, 3.0], [4.0, 4.0, 4.0, 4.0]]))
    # Channel means 2 and 4, variances 1 and 0: within 1/2, between 1.
    graph = graph_of(model)
    assert layer_sigmas(graph)["0"] == pytest.approx(1.5**0.5)
    assert layer_sigmas(graph, "folded")["0"] == pytest.approx(1.5**0.5)
    assert layer_sigmas(graph, "normalised")["0"] == pytest.approx((1.5 / (2 / 4)) ** 0.5)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("pieces", [1, 50, 1 << 18])
def test_moments_do_not_depend_on_the_pieces(axis, pieces, monkeypatch):
    monkeypatch.setitem(moments._CHUNK_ELEMENTS, "cpu", pieces)
    weight = torch.randn(6, 7, 3, 3, generator=torch.Generator().manual_seed(1)) + 0.3
    rows = weight.movedim(axis, 0).flatten(1)
    result = moments.channel_moments(weight, axis)
    torch.testing.assert_close(result.mean.float(), rows.mean(1))
    torch.testing.assert_close(result.variance.float(), rows.var(1, correction=0))
    assert result.std() == pytest.approx(float(weight.double().std(correction=0)), rel=1e-6)
    torch.testing.assert_close(moments.channel_maxima(weight, axis), rows.abs().amax(1), rtol=0, atol=0)


def test_a_constant_weight_has_no_spread():
    assert moments.channel_moments(torch.full((3, 1000), 0.1)).std() < 1e-8


def test_folded_is_the_std_of_the_folded_weight_and_ignores_the_scale_batch_norm_removes():
    graph, _ = branches()
    norm = graph.module.get_submodule("norm")
    weight = graph.weight("first").detach()
    factor = norm.weight.detach() / (norm.running_var + norm.eps).sqrt()
    before = layer_sigmas(graph, "folded")
    assert before["first"] == pytest.approx(float((weight * factor.view(-1, 1, 1, 1)).std(correction=0)), rel=1e-5)
    raw = layer_sigmas(graph, "raw")
    assert before["head"] == raw["head"]

    scale = torch.tensor([0.1, 1.0, 2.0, 30.0, 0.5, 7.0])
    with torch.no_grad():
        norm.eps = 0.0
        unscaled = layer_sigmas(graph, "folded")["first"]
        weight.mul_(scale.view(-1, 1, 1, 1))
        norm.running_var.mul_(scale**2)
    assert layer_sigmas(graph, "folded")["first"] == pytest.approx(unscaled, rel=1e-5)
    assert layer_sigmas(graph, "raw")["first"] != pytest.approx(raw["first"], rel=0.1)


@pytest.mark.parametrize("groups", [1, 2])
def test_folding_a_transposed_convolution_scales_its_outputs(groups):
    torch.manual_seed(2)
    model = nn.Sequential(nn.ConvTranspose2d(4, 6, 2, groups=groups, bias=False), nn.BatchNorm2d(6)).eval()
    with torch.no_grad():
        model[1].running_var.uniform_(0.1, 4)
        model[1].weight.normal_()
    graph = graph_of(model, {"0": "1"})
    factor = model[1].weight.detach() / (model[1].running_var + model[1].eps).sqrt()
    model.requires_grad_(False)
    folded = model[0].weight.clone()  # [in, out / groups, 2, 2]
    for output in range(6):
        group, channel = divmod(output, 6 // groups)
        inputs = slice(group * 4 // groups, (group + 1) * 4 // groups)
        folded[inputs, channel] *= factor[output]
    # The folded weight really is the two modules in one.
    x = torch.randn(1, 4, 3, 3)
    shift = model[1].bias - model[1].running_mean * factor
    merged = nn.functional.conv_transpose2d(x, folded, shift, groups=groups)
    torch.testing.assert_close(merged, model(x))
    assert layer_sigmas(graph, "folded")["0"] == pytest.approx(float(folded.std(correction=0)), rel=1e-5)


@pytest.mark.parametrize(
    "layer", [nn.Conv2d(16, 64, 3), nn.Conv2d(64, 64, 3, groups=8), nn.Linear(300, 50), nn.ConvTranspose2d(64, 64, 3)]
)
def test_normalised_is_one_at_he_initialisation(layer):
    torch.manual_seed(0)
    fan_in = layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels // layer.groups * 9
    nn.init.normal_(layer.weight, std=(2 / fan_in) ** 0.5)
    assert layer_sigmas(graph_of(nn.Sequential(layer)), "normalised")["0"] == pytest.approx(1, rel=0.03)


def test_errors():
    graph, _ = branches()
    with pytest.raises(DataError, match="no variant 'std'"):
        layer_sigmas(graph, "std")
    norm = graph.module.get_submodule("norm")
    norm.running_var = None
    with pytest.raises(ModelError, match="running statistics"):
        layer_sigmas(graph, "folded")
    with torch.no_grad():
        graph.weight("twice")[0, 0, 0, 0] = float("inf")
    with pytest.raises(ModelError, match=r"layer 'twice': .*NaN or infinity"):
        layer_sigmas(graph)
    wrong = graph_of(nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2)), {"0": "1"})
    wrong.module.get_submodule("1").num_features = 3
    with pytest.raises(ModelError, match="3 channels"):
        layer_sigmas(wrong, "folded")


def test_resnet20_sigma_falls_with_width_and_the_classifier_is_largest(shared_data):
    _, graph = resnet20(shared_data)
    sigmas = list(layer_sigmas(graph).values())
    assert len(sigmas) == 20
    assert sigmas[-1] == max(sigmas)
    stages = [sum(sigmas[1 + 6 * k : 7 + 6 * k]) for k in range(3)]
    assert sigmas[0] > stages[0] / 6 > stages[1] / 6 > stages[2] / 6
