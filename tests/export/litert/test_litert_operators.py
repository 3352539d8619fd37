"""LiteRT, operator by operator: the runtime gives what the executor gives for the model in LiteRT's form."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from litert_cases import Call, lowered, noise, read, steps
from torch import nn

from sigmaquant.export.litert import LitertRunner, export_litert, litert_form
from sigmaquant.lowering import IntegerExecutor

pytest.importorskip("ai_edge_litert")


def conv(i=4, o=4, k=3, **options):
    return nn.Conv2d(i, o, k, **options)


CASES = {
    "convolution": (Call(lambda m, x: m.a(x), a=conv(padding=1)), (4, 6, 6)),
    "convolution-bn-relu": (
        Call(lambda m, x: F.relu(m.n(m.a(x))), a=conv(o=6, stride=2), n=nn.BatchNorm2d(6)),
        (4, 7, 7),
    ),
    "padding that no runtime has": (Call(lambda m, x: F.relu(m.a(x)), a=conv(stride=2, padding=(1, 2))), (4, 8, 8)),
    "convolution-relu6": (Call(lambda m, x: F.relu6(m.a(16 * x)), a=conv()), (4, 6, 6)),
    "clamp": (Call(lambda m, x: torch.clamp(m.a(x), -0.3, 0.2), a=conv()), (4, 6, 6)),
    "grouped": (Call(lambda m, x: m.a(x), a=conv(o=6, groups=2, dilation=2)), (4, 8, 8)),
    "depthwise": (Call(lambda m, x: m.n(m.a(x)), a=conv(o=8, groups=4, bias=False), n=nn.BatchNorm2d(8)), (4, 6, 6)),
    "even kernel": (Call(lambda m, x: m.a(x), a=conv(k=4, padding="same")), (4, 6, 6)),
    "1x1": (Call(lambda m, x: F.relu(m.a(x)), a=conv(o=6, k=1)), (4, 5, 6)),
    "1x1 with a stride": (Call(lambda m, x: m.a(x), a=conv(o=6, k=1, stride=(2, 3))), (4, 7, 8)),
    "1x1 with padding": (Call(lambda m, x: m.a(x), a=conv(o=6, k=1, padding=1)), (4, 5, 5)),
    "convolution 1d": (Call(lambda m, x: m.n(m.a(x)), a=nn.Conv1d(3, 5, 3), n=nn.BatchNorm1d(5)), (3, 9)),
    "pools 1d": (
        Call(lambda m, x: F.avg_pool1d(F.max_pool1d(m.a(x), 3, 2, 1), 2), a=nn.Conv1d(3, 5, 3, padding=1)),
        (3, 9),
    ),
    "linear": (Call(lambda m, x: m.a(x), a=nn.Linear(12, 7)), (12,)),
    "linear with odd rows": (Call(lambda m, x: m.a(x), a=nn.Linear(13, 7)), (13,)),
    "linear of sequences": (Call(lambda m, x: F.relu(m.a(x)), a=nn.Linear(12, 7, bias=False)), (5, 12)),
    "residual": (Call(lambda m, x: F.relu(m.a(x) + x), a=conv(padding=1)), (4, 6, 6)),
    "difference": (Call(lambda m, x: m.a(x) - x, a=conv(padding=1)), (4, 6, 6)),
    "numbers": (Call(lambda m, x: m.b(2 * m.a(x) - 0.5), a=conv(), b=conv()), (4, 8, 8)),
    "negative number": (Call(lambda m, x: -3 * m.a(x) + 1, a=nn.Linear(5, 6)), (5,)),
    "reversed difference": (Call(lambda m, x: 1 - m.a(x), a=conv()), (4, 6, 6)),
    "gate": (Call(lambda m, x: x * torch.sigmoid(m.a(x.mean((2, 3), keepdim=True))), a=conv(k=1)), (4, 6, 6)),
    "concatenation": (Call(lambda m, x: m.b(torch.cat([x, m.a(x)], 1)), a=conv(padding=1), b=conv(8, 3)), (4, 6, 6)),
    "concatenation-relu": (Call(lambda m, x: F.relu(torch.cat([m.b(x), m.a(x)], 2)), a=conv(), b=conv()), (4, 6, 6)),
    "norm before": (
        Call(lambda m, x: m.b(F.relu(m.n(m.a(x)))), a=nn.MaxPool2d(2), n=nn.BatchNorm2d(4), b=conv()),
        (4, 8, 8),
    ),
    "norm of a vector": (Call(lambda m, x: m.n(F.relu(m.a(x))), a=nn.Linear(5, 6), n=nn.BatchNorm1d(6)), (5,)),
    "max pool": (Call(lambda m, x: F.max_pool2d(m.a(x), 3, 2, 1), a=conv()), (4, 8, 8)),
    "max pool of positive values": (Call(lambda m, x: F.max_pool2d(F.relu(m.a(x)), 3, 2, 1), a=conv()), (4, 8, 8)),
    "max pool with ceiling": (Call(lambda m, x: F.max_pool2d(m.a(x), 2, 2, ceil_mode=True), a=conv()), (4, 9, 9)),
    "average pool": (Call(lambda m, x: F.avg_pool2d(m.a(x), 2, padding=1), a=conv()), (4, 8, 8)),
    "global pool": (
        Call(lambda m, x: m.b(F.adaptive_avg_pool2d(m.a(x), 1).flatten(1)), a=conv(), b=nn.Linear(4, 3)),
        (4, 8, 8),
    ),
    "adaptive pool": (Call(lambda m, x: F.adaptive_avg_pool2d(m.a(x), (3, 2)), a=conv()), (4, 8, 8)),
    "mean of a sequence": (Call(lambda m, x: m.b(m.a(x).mean(1)), a=nn.Linear(6, 4), b=nn.Linear(4, 3)), (5, 6)),
    "mean of a signal": (Call(lambda m, x: m.b(m.a(x).mean(2)), a=nn.Conv1d(3, 4, 3), b=nn.Linear(4, 3)), (3, 9)),
    "mean of rows": (Call(lambda m, x: m.a(x).mean(3, keepdim=True), a=conv()), (4, 8, 8)),
    "hardswish": (Call(lambda m, x: F.hardswish(m.a(x)), a=conv()), (4, 6, 6)),
    "silu": (Call(lambda m, x: m.b(F.silu(m.n(m.a(x)))), a=conv(), n=nn.BatchNorm2d(4), b=conv()), (4, 8, 8)),
    "slices and pads": (Call(lambda m, x: F.pad(m.a(x)[:, 1:3, ::2, 1:], (0, 1, 2, 0)), a=conv()), (4, 8, 8)),
    "transposition": (
        Call(lambda m, x: m.b(m.a(x).flatten(2).transpose(1, 2)), a=conv(), b=nn.Linear(4, 5)),
        (4, 6, 6),
    ),
    "flattened image": (Call(lambda m, x: m.b(m.a(x).flatten(1)), a=conv(), b=nn.Linear(4 * 4 * 4, 5)), (4, 6, 6)),
    "transposed": (Call(lambda m, x: m.a(x), a=nn.ConvTranspose2d(4, 4, 3)), (4, 5, 5)),
    "dilated maximum": (Call(lambda m, x: F.max_pool2d(m.a(x), 2, dilation=2), a=conv()), (4, 9, 9)),
    "weighted sum": (Call(lambda m, x: torch.add(x, m.a(x), alpha=3), a=conv(padding=1)), (4, 6, 6)),
    "a norm of volumes": (Call(lambda m, x: m.n(F.relu(m.a(x))), a=nn.Linear(4, 4), n=nn.BatchNorm3d(2)), (2, 3, 3, 4)),
    "padding with copies": (Call(lambda m, x: m.a(x), a=conv(padding=1, padding_mode="reflect")), (4, 6, 6)),
    "shared weight": (Call(lambda m, x: m.a(F.relu(m.a(x))), a=conv(padding=1)), (4, 6, 6)),
}


@pytest.mark.parametrize(("bits", "activation_bits"), [(8, 8), (3, 4)])
@pytest.mark.parametrize("case", CASES)
def test_operators(case, bits, activation_bits, tmp_path):
    network, shape = CASES[case]
    model = lowered(network, shape, bits=bits, activation_bits=activation_bits)
    x = noise(16, *shape, seed=5)
    expected = IntegerExecutor(litert_form(model))(x)
    for inputs in ("float", "int8"):
        export_litert(model, tmp_path / "x.tflite", inputs=inputs)
        apart = steps(LitertRunner(tmp_path / "x.tflite")(x), expected, model)
        assert int(apart.max()) <= 1
        assert float(apart.mean()) < 0.002  # the runtime's factors are float32
    # The runtime's own kernels round twice: one step here and there, two after an addition.
    apart = steps(LitertRunner(tmp_path / "x.tflite", xnnpack=False)(x), expected, model)
    assert int(apart.max()) <= 2
    assert float(apart.mean()) < (0.6 if "MEAN" in read(tmp_path / "x.tflite").operators else 0.2)
    # and LiteRT's form is the network: what rounding takes to one side here and to the other there
    apart = steps(IntegerExecutor(model)(x), expected, model)
    assert int(apart.max()) <= 3
    assert float(apart.mean()) < 0.25


def operators_of(function, shape, tmp_path, activation_bits=8, **layers):
    model = lowered(Call(function, **layers), shape, activation_bits=activation_bits)
    export_litert(model, tmp_path / "x.tflite", inputs="int8")
    return read(tmp_path / "x.tflite").operators


def test_no_operator_is_written_in_vain(tmp_path):
    def written(function, shape, bits=8, **layers):
        return operators_of(function, shape, tmp_path, bits, **layers)

    image = ["TRANSPOSE", "CONV_2D", "TRANSPOSE"]
    assert written(lambda m, x: F.relu(m.a(x)), (4, 6, 6), a=conv(padding=1)) == image
    assert written(lambda m, x: m.a(x).permute(0, 2, 3, 1), (4, 6, 6), a=conv()) == image[:2]
    assert written(lambda m, x: m.a(x), (1, 6, 6), a=conv(1)) == ["RESHAPE", "CONV_2D", "TRANSPOSE"]
    assert written(lambda m, x: m.a(x), (4, 8, 8), a=conv(padding=1, stride=2))[1:-1] == ["PAD", "CONV_2D"]
    pooled = written(lambda m, x: F.max_pool2d(F.relu(m.a(x)), 3, 2, 1), (4, 10, 10), a=conv())
    assert pooled[2:-1] == ["PAD", "MAX_POOL_2D"]  # zero is the smallest code
    assert written(lambda m, x: F.max_pool2d(m.a(x), 3, 2, 1), (4, 10, 10), a=conv())[2:-1] == ["PADV2", "MAX_POOL_2D"]
    # narrow codes lie at the top of int8: saturation and a fused ReLU clamp them
    assert written(lambda m, x: F.relu(m.a(x)), (4, 6, 6), 4, a=conv()) == ["MAXIMUM", *image]


CLAMPS = {
    (-128, 127): ("NONE", []),
    (-100, 127): ("RELU", []),
    (-100, 0): ("RELU6", []),  # zero-point -100, scale 0.06
    (-100, 1): ("NONE", ["MAXIMUM", "MINIMUM"]),
    (-99, 127): ("NONE", ["MAXIMUM"]),
    (-128, 0): ("NONE", ["MINIMUM"]),
}


@pytest.mark.parametrize(("low", "high"), CLAMPS)
def test_an_activation_is_fused_only_where_it_clamps_alike(low, high, tmp_path):
    from ai_edge_litert import schema_py_generated as schema

    model = lowered(Call(lambda m, x: m.a(x), a=nn.Linear(8, 40)), (8,))
    (operator,), (name,) = model.operators, model.outputs
    edges = {**model.edges, name: replace(model.edges[name], scale=0.06, zero_point=-100)}
    operator = replace(operator, low=low, high=high, scale=operator.scale * np.float32(10))  # beyond both ends
    model = replace(model, operators=(operator,), edges=edges)
    path = tmp_path / "x.tflite"
    export_litert(model, path, inputs="int8")
    options = schema.ModelT.InitFromPackedBuf(bytearray(path.read_bytes()), 0).subgraphs[0].operators[0].builtinOptions
    fused, after = CLAMPS[low, high]
    assert options.fusedActivationFunction == getattr(schema.ActivationFunctionType, fused)
    assert read(path).operators == ["FULLY_CONNECTED", *after]
    x = noise(32, 8, seed=3)
    for xnnpack in (True, False):
        found = LitertRunner(path, xnnpack=xnnpack)(x)
        codes = (found / 0.06).round() - 100
        assert (int(codes.min()), int(codes.max())) == (low, high)
        assert int(steps(found, IntegerExecutor(litert_form(model))(x), model).max()) <= (not xnnpack)
