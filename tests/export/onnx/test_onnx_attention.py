"""Transformers: products of activations, softmax with masks, normalizations; alone and as blocks."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx_cases import ROUNDINGS, Net, check, codes_of, compare, integers, noise, optimized
from torch import Tensor, nn

from sigmaquant.errors import ExportError
from sigmaquant.export.onnx import OnnxRunner, OnnxWatch, export_onnx
from sigmaquant.lowering import IntegerExecutor
from sigmaquant.operators import Edge, Linear, Lookup, MatMul, Norm, Operator, encode
from sigmaquant.operators.fixed_point import factor
from sigmaquant.operators.norm import Normed
from sigmaquant.operators.softmax import Shares


def put(net: Net, operator: Operator, grid: Edge) -> str:
    """An operator that a `Pending` has made."""
    given = {f.name: getattr(operator, f.name) for f in fields(operator)[3:]}
    return net.add(type(operator), *operator.inputs, grid=grid, **given)


@pytest.mark.parametrize(
    ("left", "right"),
    [((7, 5), (5, 6)), ((3, 7, 5), (3, 5, 6)), ((1, 7, 5), (3, 5, 6)), ((2, 3, 1, 5), (1, 3, 5, 1)), ((1, 1), (1, 1))],
)
@pytest.mark.parametrize("bits", [8, 4])
def test_products_of_activations(left: tuple[int, ...], right: tuple[int, ...], bits: int, tmp_path: Path) -> None:
    net = Net()
    a, b, output = net.input(*left), net.input(*right, bits=bits), net.grid(bits)
    low, high = output.range
    ratio = factor((high - low) / 6 / (74 * 4.3 * 2 ** (bits - 4) * math.sqrt(left[-1])), "test")
    net.add(MatMul, a, b, grid=output, factor=ratio, low=low + 1, high=high)
    check(net.model(), tmp_path, count=40)


def test_products_become_integer_kernels(tmp_path: Path) -> None:
    net = Net()
    a, b, output = net.input(4, 9, 8), net.input(4, 8, 9), net.grid()
    net.add(MatMul, a, b, grid=output, factor=factor(1e-3, "test"), low=-128, high=127)
    export_onnx(net.model(), tmp_path / "model.onnx")
    kinds = {node.op_type for node in optimized(tmp_path / "model.onnx", tmp_path).graph.node}
    assert "QLinearMatMul" in kinds
    assert "MatMul" not in kinds


SHARES = Edge("shares", (), 8, 1 / 256, -128)
CAUSAL = np.tril(np.ones((6, 6), np.bool_))


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("scale", [1 / 256, 1 / 255, 0.0291])
@pytest.mark.parametrize("mask", ["none", "causal", "keys", "emptied", "examples"])
def test_softmax(mask: str, scale: float, bits: int, tmp_path: Path) -> None:
    masks: dict[str, Any] = {
        "none": None,
        "causal": CAUSAL[None],
        "keys": np.array([1, 1, 0, 1, 0, 0], np.bool_).reshape(1, 1, 6),
        "emptied": np.tril(np.ones((6, 6), np.bool_), -2)[None],
        "examples": np.stack([CAUSAL, ~CAUSAL]),
    }
    net = Net()
    source = net.edges[net.input(2, 6, 6)]
    output = replace(SHARES, name="e1", scale=scale * 2 ** (8 - bits), zero_point=-(2 ** (bits - 1)), bits=bits)
    put(net, Shares(edge=source, mask=masks[mask]).finish(output, "shares"), output)
    check(net.model(), tmp_path, count=50)


def test_a_row_that_a_mask_empties_is_nothing(tmp_path: Path) -> None:
    net = Net()
    source, output = net.edges[net.input(3, 4)], replace(SHARES, name="e1")
    mask = np.ones((3, 4), np.bool_)
    mask[1] = False
    put(net, Shares(edge=source, mask=mask).finish(output, "shares"), output)
    export_onnx(net.model(), tmp_path / "model.onnx")
    result = OnnxRunner(tmp_path / "model.onnx")(noise(2, 3, 4))
    assert isinstance(result, Tensor)
    assert not result[:, 1].any()
    assert (result.sum(-1)[:, [0, 2]] - 1).abs().max() < 0.01


def test_shares_of_many_that_are_equal_are_rounded_up(tmp_path: Path) -> None:
    net = Net()
    source, output = net.edges[net.input(512)], replace(SHARES, name="e1")
    put(net, Shares(edge=source).finish(output, "shares"), output)
    export_onnx(net.model(), tmp_path / "model.onnx")
    x = torch.ones(1, 512)
    (expected,) = codes_of(IntegerExecutor(net.model())(x), net.model())
    for fused in (False, True):
        assert torch.equal(codes_of(OnnxRunner(tmp_path / "model.onnx", fused=fused)(x), net.model())[0], expected)
    assert (expected == -127).all()


NORMS: dict[str, dict[str, Any]] = {
    "plain": {"axes": (1,)},
    "factors": {"axes": (1,), "factor": (12,), "offset": (12,)},
    "factors alone": {"axes": (1,), "factor": (12,)},
    "without mean": {"axes": (1,), "centred": False, "factor": (12,)},
    "all values": {"axes": (0, 1), "factor": (5, 12), "offset": (5, 12)},
    "all values without mean": {"axes": (0, 1), "centred": False, "factor": (5, 12), "offset": (5, 12)},
    "one factor for rows of all": {"axes": (0, 1), "factor": (5, 1), "offset": (5, 1)},
    "factors outside": {"axes": (1,), "factor": (5, 1), "offset": (1, 12)},
    "nothing added": {"axes": (1,), "eps": 0.0},
    "much added": {"axes": (1,), "eps": 0.1, "factor": (12,)},
    "halves": {"axes": (1,), "scale": 2.0**-5},
}


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("form", ["planes", "native"])
@pytest.mark.parametrize("kind", NORMS)
def test_normalizations(kind: str, form: Any, bits: int, tmp_path: Path) -> None:
    net, given = Net(), {"eps": 1e-5, **NORMS[kind]}
    source = net.edges[net.input(5, 12, bits=bits)]
    output = Edge("e1", (), bits, given.pop("scale", 5.9317 / 2**bits), -1)
    numbers = {
        key: net.random.normal(key == "factor", 0.3, given.pop(key)) for key in ("factor", "offset") if key in given
    }
    put(net, Normed(edge=source, **given, **numbers).finish(output, "norm"), output)
    check(net.model(), tmp_path, count=50, form=form)


@pytest.mark.parametrize("eps", [0.0, 1e-12, 1e-5])
@pytest.mark.parametrize("is_centred", [True, False])
def test_rows_without_any_deviation(is_centred: bool, eps: float, tmp_path: Path) -> None:
    """Equal values, zeros, and rows of which one value is one step off, at every code."""
    net = Net()
    source, output = net.edges[net.input(64)], Edge("e1", (), 8, 0.05, 3)
    operator = Normed(edge=source, axes=(0,), centred=is_centred, eps=eps).finish(output, "norm")
    assert isinstance(operator, Norm)
    put(net, operator, output)
    export_onnx(net.model(), tmp_path / "model.onnx")
    codes = torch.arange(-128, 128)[:, None].repeat(2, 64)
    codes[256:, 5] = (codes[256:, 5] + 1).clamp(max=127)
    x = (codes - source.zero_point) * torch.tensor(source.scale)
    assert torch.equal(encode(x, source).long(), codes)
    (expected,) = codes_of(IntegerExecutor(net.model())(x), net.model())
    for fused in (False, True):
        (found,) = codes_of(OnnxRunner(tmp_path / "model.onnx", fused=fused)(x), net.model())
        assert (found - expected).abs().max() <= 1
        assert (found != expected).float().mean() < ROUNDINGS


class Attention(nn.Module):
    """Heads, with a mask that says which keys take part in which query."""

    def __init__(self, width: int, heads: int, mask: Tensor | None = None, product: str = "matmul") -> None:
        super().__init__()
        self.heads, self.product = heads, product
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        n, t, w = x.shape
        q, k, v = (m(x).reshape(n, t, self.heads, w // self.heads).transpose(1, 2) for m in (self.q, self.k, self.v))
        if self.product == "fused":
            y = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=self.mask)
        else:
            einsum = self.product == "einsum"
            scores = torch.einsum("bhqd,bhkd->bhqk", q, k) if einsum else q @ k.transpose(-1, -2)
            scores = scores / math.sqrt(w // self.heads)
            if self.mask is not None:
                scores = scores.masked_fill(~self.mask, -1e9)
            y = scores.softmax(-1) @ v
        return self.out(y.transpose(1, 2).reshape(n, t, w))


class Block(nn.Module):
    """A transformer's layer on the frames of a sequence, after a convolution of each; norms before or after."""

    def __init__(self, first: bool, norm: type[nn.Module], **options: Any) -> None:
        super().__init__()
        self.first = first
        self.embed, self.attention = nn.Conv1d(3, 16, 3), Attention(16, 4, **options)
        self.norm1, self.norm2 = norm(16), norm(16)
        self.up, self.down, self.head = nn.Linear(16, 32), nn.Linear(32, 16), nn.Linear(16, 5)
        self.position = nn.Parameter(0.3 * torch.randn(1, 6, 16))

    def mlp(self, x: Tensor) -> Tensor:
        return self.down(nn.functional.gelu(self.up(x)))

    def forward(self, x: Tensor) -> Tensor:
        n, frames = x.shape[:2]
        x = self.embed(x.reshape(n * frames, *x.shape[2:])).mean(-1).reshape(n, frames, 16) + self.position
        if self.first:
            x = x + self.attention(self.norm1(x))
            x = x + self.mlp(self.norm2(x))
        else:
            x = self.norm1(x + self.attention(x))
            x = self.norm2(x + self.mlp(x))
        return self.head(x)


BLOCKS: dict[str, tuple[bool, type[nn.Module], dict[str, Any]]] = {
    "norms after": (False, nn.LayerNorm, {}),
    "norms before, causal": (True, nn.LayerNorm, {"mask": torch.ones(6, 6).tril().bool()}),
    "no mean, keys": (True, nn.RMSNorm, {"mask": torch.tensor([True, True, False, True, True, False])}),
    "einsum": (True, nn.LayerNorm, {"product": "einsum"}),
    "fused": (False, nn.LayerNorm, {"product": "fused", "mask": torch.ones(6, 6).tril().bool()}),
}


@pytest.mark.parametrize(("form", "bits"), [("planes", 8), ("native", 8), ("planes", 4), ("native", 6)])
@pytest.mark.parametrize("kind", BLOCKS)
def test_blocks(kind: str, form: str, bits: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    first, norm, options = BLOCKS[kind]
    x = noise(24, 6, 3, 8)
    model = integers(Block(first, norm, **options), bits, x)
    assert {"MatMul", "Softmax", "Norm"} <= {type(operator).__name__ for operator in model.operators}
    assert any(edge.rows > 1 for edge in model.edges.values())
    compare(model, tmp_path / "model.onnx", form, x)


class Groups(nn.Module):
    """Normalizations of images, whose frames are rows."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.group, self.instance = nn.Conv2d(2, 6, 3), nn.GroupNorm(3, 6), nn.InstanceNorm2d(6, affine=True)
        for norm in (self.group, self.instance):
            nn.init.normal_(norm.weight)
            nn.init.normal_(norm.bias)

    def forward(self, x: Tensor) -> Tensor:
        n, frames = x.shape[:2]
        y = torch.relu(self.group(self.conv(x.reshape(n * frames, *x.shape[2:]))))
        return torch.relu(self.instance(y)).mean((2, 3)).reshape(n, frames, 6)


@pytest.mark.parametrize(("form", "bits"), [("planes", 8), ("native", 5)])
def test_normalizations_of_groups(form: str, bits: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = noise(16, 3, 2, 7, 6)
    compare(integers(Groups(), bits, x), tmp_path / "model.onnx", form, x)


@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("bits", [8, 4])
def test_layers_and_functions_of_vectors_need_no_other_shapes(bits: int, has_bias: bool, tmp_path: Path) -> None:
    net = Net()
    first = net.layer(net.input(5, 4, 6), (7, 6), bits=bits)
    table = np.arange(-128, 128).astype(np.int8)[::-1].copy()
    second = net.layer(net.add(Lookup, first, table=table, function="turned"), (3, 7))
    if not has_bias:
        net.operators = [replace(op, bias=0 * op.bias) if isinstance(op, Linear) else op for op in net.operators]
    model = net.model(second)
    check(model, tmp_path, count=20)
    found = OnnxWatch(tmp_path / "model.onnx", model)(noise(3, 5, 4, 6))
    assert {name: tuple(codes.shape[1:]) for name, codes in found.items()} == {
        name: edge.shape for name, edge in model.edges.items()
    }
    shapes = sum(node.op_type == "Reshape" for node in onnx.load(tmp_path / "model.onnx").graph.node)
    assert shapes == (4 if has_bias else 2), "of the input, of the function, and of the output"


def test_weights_for_processors_that_do_not_saturate(tmp_path: Path) -> None:
    net = Net()
    net.layer(net.input(99), (5, 99))
    kinds, processors = {}, ("any", "vnni")
    for processor in processors:
        export_onnx(net.model(), tmp_path / "model.onnx", processor=processor)
        weights = [t for t in onnx.load(tmp_path / "model.onnx").graph.initializer if "weight" in t.name and t.dims]
        kinds[processor] = {t.data_type for t in weights if len(t.dims) == 2}
    assert kinds == {"any": {onnx.TensorProto.UINT8}, "vnni": {onnx.TensorProto.INT8}}
    with pytest.raises(ExportError, match="processor 'z80' is unknown"):
        export_onnx(net.model(), tmp_path / "model.onnx", processor="z80")  # type: ignore[arg-type]
