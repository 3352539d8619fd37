"""Placement in whole networks: trained ones, and architectures of a model library."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import nn

from sigmaquant.graph import trace


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("mlperf_resnet8_cifar10", {"input": 1, "activation": 7, "norm": 3, "layer": 3, "pool": 1}),
        ("akamaster_resnet20_cifar10", {"input": 1, "activation": 19, "norm": 9, "layer": 1, "pool": 1}),
    ],
)
def test_trained_networks_run_on_integers_throughout(shared_loader, name, kinds):
    model, _ = shared_loader.network(name)
    graph = trace(model, torch.zeros(1, 3, 32, 32))
    assert graph.float_operators == ()
    assert dict(Counter(spec.producer for spec in graph.activations)) == kinds
    assert len(set(graph.activation_names)) == len(graph.activations)
    assert all(len(spec.inputs) == 1 for spec in graph.layers)
    if "resnet20" in name:
        assert graph.layer["conv1"].inputs == ("input",)
        assert graph.layer["layer1.0.conv1"].inputs == ("relu",)
        assert graph.layer["layer1.0.conv2"].inputs == ("layer1.0.relu",)
        assert graph.layer["layer1.1.conv1"].inputs == ("layer1.0.relu_1",)
        assert graph.layer["linear"].inputs == ("mean",)


def test_norms_before_convolutions(shared_loader):
    import networks  # beside `load`

    graph = trace(networks.DenseNetBC(num_classes=10, depth=10, growth=4), torch.zeros(1, 3, 32, 32))
    assert graph.float_operators == ()
    kinds = Counter(spec.producer for spec in graph.activations)
    assert kinds == {"input": 1, "activation": 9, "layer": 7, "concatenation": 3, "pool": 3}
    inputs = {name: spec.inputs for name, spec in graph.layer.items()}
    assert inputs["stages.0.conv1"] == ("stages.0.relu",)  # its norm reads the quantized concatenation before it
    assert inputs["stages.0.conv2"] == ("stages.0.relu_1",)
    assert inputs["stages.1.2"] == ("stages.1.1",)
    assert inputs["stages.2.conv1"] == ("stages.2.relu",)


class InvertedResidual(nn.Module):
    def __init__(self) -> None:
        super().__init__()

        def unit(inputs: int, outputs: int, kernel: int, groups: int) -> list[nn.Module]:
            convolution = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=False)
            return [convolution, nn.BatchNorm2d(outputs)]

        self.expand = nn.Sequential(*unit(3, 6, 1, 1), nn.ReLU6())
        self.depthwise = nn.Sequential(*unit(6, 6, 3, 6), nn.ReLU6())
        self.project = nn.Sequential(*unit(6, 3, 1, 1))

    def forward(self, x):
        return x + self.project(self.depthwise(self.expand(x)))


def test_an_inverted_residual_block():
    graph = trace(InvertedResidual(), torch.zeros(1, 3, 8, 8))
    assert graph.activation_names == ("input", "expand.2", "depthwise.2", "project.1", "add")
    assert {name: spec.inputs for name, spec in graph.layer.items()} == {
        "expand.0": ("input",),
        "depthwise.0": ("expand.2",),
        "project.0": ("depthwise.2",),
    }


def library_models():
    tf = pytest.importorskip("transformers", minversion="4.50")
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    image = torch.zeros(1, 3, 32, 32)
    convnext = tf.ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2, num_labels=3)
    bert = tf.BertConfig(vocab_size=20, max_position_embeddings=8, attn_implementation="eager", **small)
    ids, mask = torch.zeros(2, 6, dtype=torch.long), torch.ones(2, 6, dtype=torch.long)
    return {
        "convnext": (tf.ConvNextForImageClassification(convnext), (image,), set()),
        "bert": (
            tf.BertForSequenceClassification(bert),
            (ids, mask),
            set(),
        ),
    }


@pytest.mark.parametrize("name", ["convnext", "bert"])
def test_library_architectures_list_what_stays_in_float(name):
    model, examples, floats = library_models()[name]
    graph = trace(model.eval(), examples)
    assert {place.operator for place in graph.float_places} == floats
    assert all(place.line for place in graph.float_places)
    fed = [spec for spec in graph.layers if not spec.inputs]
    assert all(spec.kind == "embedding" for spec in fed)
    assert all(not activation.startswith("getitem") for activation in graph.activation_names)
