"""Trained networks, and architectures of a model library with random weights."""

from __future__ import annotations

import pytest
import torch
from torch import fx, nn

from sigmaquant.exported.nodes import scope

# multiply-accumulates of convolutions and the classifier, from the layers' shapes alone
RESNET20_MACS = 432 * 1024 + 6 * 2304 * 1024 + (4608 + 5 * 9216) * 256 + (18432 + 5 * 36864) * 64 + 640


@pytest.mark.parametrize(
    ("name", "layers", "macs"),
    [
        ("akamaster_resnet20_cifar10", 20, RESNET20_MACS),
        ("akamaster_resnet56_cifar10", 56, None),
        ("mlperf_resnet8_cifar10", 10, 12_501_632),
        ("dice_densenet100_12_cifar10", 100, None),
    ],
)
def test_trained_networks(shared_loader, check, train_one_step, name, layers, macs):
    model, _ = shared_loader.network(name)
    example = torch.zeros(1, 3, 32, 32)
    graph = check(model, example)
    assert len(graph.layers) == layers
    assert macs is None or sum(spec.macs for spec in graph.layers) == macs
    assert graph.input_shapes == ((3, 32, 32),)
    assert graph.weightless_macs == 0
    assert all(type(m) in (nn.Conv2d, nn.Linear) for m in map(graph.module.get_submodule, graph.layer))
    assert set(graph.module.state_dict()) == set(model.state_dict())
    if "densenet" in name:  # its norms come before its layers
        reasons = {p.name: p.reason for p in graph.float_parameters}
        assert graph.layer["stages.0.conv1"].batch_norm == "stages.0.bn2"
        assert "absorbed into" in reasons["stages.0.bn2.weight"]
        assert graph.layer["conv1"].batch_norm is None  # its result also goes into a concatenation
        assert "not absorbed" in reasons["stages.0.bn1.weight"]
    train_one_step(graph, example, batch=2)


def _transformers():
    return pytest.importorskip("transformers", minversion="4.50")


def _mobilenet():
    tf = _transformers()
    config = tf.MobileNetV2Config(depth_multiplier=0.35, image_size=32, num_labels=5)
    return tf.MobileNetV2ForImageClassification(config)


def _efficientnet():
    tf = _transformers()
    config = tf.EfficientNetConfig(
        width_coefficient=0.25, depth_coefficient=0.3, image_size=32, hidden_dim=320, num_labels=5
    )
    return tf.EfficientNetForImageClassification(config)


def _convnext():
    tf = _transformers()
    config = tf.ConvNextConfig(hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 2, 1], image_size=32, num_labels=5)
    return tf.ConvNextForImageClassification(config)


def _vit():
    tf = _transformers()
    config = tf.ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, image_size=32,
        patch_size=8, num_labels=5,
    )  # fmt: skip
    return tf.ViTForImageClassification(config)


@pytest.mark.parametrize("build", [_mobilenet, _efficientnet, _convnext, _vit])
def test_library_architectures(build, check, train_one_step):
    torch.manual_seed(0)
    model = build()
    for parameter in model.parameters():
        if parameter.dim() == 4:  # the library's small random weights make gradients vanish
            nn.init.kaiming_normal_(parameter)
    example = torch.zeros(1, 3, 32, 32)
    graph = check(model, example)
    train_one_step(graph, example)
    kinds = {spec.kind for spec in graph.layers}
    assert kinds == {"conv2d", "linear"}
    scopes = {scope(node) for node in graph.module.graph.nodes if isinstance(node, fx.Node)}
    assert all(name == "" or model.get_submodule(name) is not None for name in scopes)
    if build is _efficientnet:  # its depthwise convolution is a subclass of nn.Conv2d with only a constructor
        depthwise = [spec for spec in graph.layers if spec.groups > 1]
        assert len(depthwise) == 8
        assert all(spec.batch_norm for spec in depthwise)
    if build is _vit:
        tokens, width, heads = 17, 32, 4
        assert graph.weightless_macs == 2 * 2 * heads * tokens * tokens * (width // heads)
        assert graph.layer["classifier"].macs == width * 5
