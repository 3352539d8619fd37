"""Rows in the batch, several inputs and outputs, and what stands in float behind the last integers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from onnx_cases import Net, check, check_each, codes_of, random_codes
from torch import Tensor

from sigmaquant.export.onnx import OnnxRunner, OnnxWatch, export_onnx
from sigmaquant.lowering import IntegerExecutor, IntegerModel
from sigmaquant.lowering.model import Dequantize
from sigmaquant.operators import (
    Average,
    Edge,
    FloatFunction,
    MaxPool,
    Pad,
    Permute,
    Reshape,
    Slice,
    Take,
    decode,
    encode,
)
from sigmaquant.operators.edge import FLOAT_BITS
from sigmaquant.operators.fixed_point import factor


def folded() -> Net:
    """Frames into the batch, a convolution and a mean on each, and back."""
    net = Net()
    source = net.input(5, 3, 6, 7)
    inner = replace(net.edges[source], name="frames", rows=5)
    frames = net.add(Reshape, source, grid=inner, shape=(3, 6, 7))
    features = net.layer(frames, (4, 3, 3, 3), bits=3)
    net.edges[features] = replace(net.edges[features], rows=5)
    pooled = net.add(MaxPool, features, kernel=(2, 2), stride=(2, 2), padding=(0, 0), dilation=(1, 1), ceil_mode=False)
    whole: dict[str, Any] = {"windows": (), "kernel": (), "stride": (), "padding": ()}
    output = replace(net.grid(), rows=5)
    whole |= {"factor": factor(0.29314, ""), "low": -128, "high": 127}
    mean = net.add(Average, pooled, grid=output, dims=(1, 2), keepdim=False, **whole)
    back = replace(net.edges[mean], name="examples", rows=1)
    net.layer(net.add(Reshape, mean, grid=back, shape=(5, 4)), (6, 4), bits=4)
    return net


@pytest.mark.parametrize("form", ["planes", "native"])
@pytest.mark.parametrize("count", [1, 5])
def test_frames_in_the_batch(form: str, count: int, tmp_path: Path) -> None:
    model, path = folded().model(), tmp_path / "model.onnx"
    export_onnx(model, path, form=form)
    (codes,) = random_codes(model, count)
    x = decode(codes, model.edges["e0"])
    assert check_each(model, path, x) == len(model.operators)
    (ours,), (theirs,) = (codes_of(OnnxRunner(path, fused=fused)(x), model) for fused in (True, False))
    assert (ours - theirs).abs().max() <= 1


def test_an_output_with_rows_says_so(tmp_path: Path) -> None:
    net = folded()
    model = net.model(net.operators[3].output, net.operators[-1].output)
    check(model, tmp_path, count=4)
    values = onnx.load(tmp_path / "model.onnx").graph.output
    shapes = [[d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim] for value in values]
    assert shapes == [["N*5", 4], ["N", 5, 6]]


def test_one_number_for_each_example(tmp_path: Path) -> None:
    net = Net()
    source, output = net.input(3, 4), net.grid()
    whole: dict[str, Any] = {"windows": (), "kernel": (), "stride": (), "padding": (), "low": -128, "high": 127}
    net.add(Average, source, grid=output, factor=factor(0.7 / 12, ""), dims=(0, 1), keepdim=False, **whole)
    check(net.model(), tmp_path, count=20)
    assert net.edges[output.name].shape == ()


def with_endings(*moves: tuple[type, dict[str, Any]], function: str = "softmax", axis: int = 0) -> IntegerModel:
    """A layer, a function of its values in float, and moves of the result."""
    net = Net()
    last = net.layer(net.input(4, 3), (5, 3), bits=4)
    shape = net.edges[last].shape
    net.edges["real"] = Edge("real", shape, FLOAT_BITS)
    net.edges["shares"] = Edge("shares", shape, FLOAT_BITS)
    net.operators += [
        Dequantize("real", (last,), "real"),
        FloatFunction(f"head.{function}", ("real",), "shares", function, axis),
    ]
    name = "shares"
    for cls, fields in moves:
        name = net.add(cls, name, **fields)
    return net.model("shares", name, last, "shares")


@pytest.mark.parametrize(("function", "axis"), [("softmax", 0), ("softmax", 1), ("log_softmax", 1), ("sigmoid", -1)])
def test_functions_behind_the_last_integers(function: str, axis: int, tmp_path: Path) -> None:
    model, path = with_endings(function=function, axis=axis), tmp_path / "model.onnx"
    export_onnx(model, path)
    x = torch.randn(6, 4, 3, generator=torch.Generator().manual_seed(0))
    assert check_each(model, path, x) == 1
    proto = onnx.load(path)
    metadata = {entry.key: entry.value for entry in proto.metadata_props}
    assert json.loads(metadata["sigmaquant.endings"]) == {f"head.{function}": function}
    assert [value.name for value in proto.graph.output] == ["shares", "shares_1", "e1", "shares_2"]


def test_without_endings_the_file_yields_what_they_would_read(tmp_path: Path) -> None:
    model = with_endings().without_endings()
    check(model, tmp_path)
    metadata = [entry.key for entry in onnx.load(tmp_path / "model.onnx").metadata_props]
    assert "sigmaquant.endings" not in metadata


@pytest.mark.parametrize(
    "move",
    [
        (Reshape, {"shape": (20,)}),
        (Permute, {"axes": (1, 0)}),
        (Slice, {"axis": 1, "start": 1, "stop": 5, "step": 2}),
        (Pad, {"before": (1, 0), "after": (0, 2)}),
        (Take, {"axis": 1, "indices": (4, 3, 2, 1, 0)}),
        (Take, {"axis": 0, "indices": (2, 2, 0)}),
    ],
)
def test_floats_are_moved_as_codes_are(move: tuple[type, dict[str, Any]], tmp_path: Path) -> None:
    model, path = with_endings(move), tmp_path / "model.onnx"
    export_onnx(model, path)
    x = torch.randn(6, 4, 3, generator=torch.Generator().manual_seed(0))
    check_each(model, path, x)
    for ours, theirs in zip(OnnxRunner(path)(x), IntegerExecutor(model)(x), strict=True):
        assert torch.allclose(ours, theirs, atol=0.1)


def test_an_edge_that_is_an_output_twice(tmp_path: Path) -> None:
    net = Net()
    last = net.layer(net.input(4), (3, 4), bits=4)
    check(net.model(last, "e0", last, "e0"), tmp_path)


@pytest.mark.parametrize("inputs", ["float", "int8", "uint8"])
def test_inputs_in_float_and_without_readers(inputs: str, tmp_path: Path) -> None:
    net = Net()
    net.layer(net.input(4), (3, 4), bits=4)
    for name in ("unread", "returned"):
        net.edges[name] = Edge(name, (2,), FLOAT_BITS)
        net.inputs.insert(0, name)
    model = net.model("e1", "returned")
    path = tmp_path / "model.onnx"
    export_onnx(model, path, inputs=inputs)
    reals = [torch.randn(7, 2), torch.randn(7, 2), torch.randn(7, 4)]
    given: list[Tensor] = [*reals]
    if inputs != "float":
        codes = encode(reals[2], model.edges["e0"])
        given[2] = codes if inputs == "int8" else (codes.to(torch.int16) + 128).to(torch.uint8)
    result, same = OnnxRunner(path)(*given)
    assert torch.equal(same, reals[0])
    assert (codes_of((result,), net.model("e1"))[0] - IntegerExecutor(model).run_codes(
        *IntegerExecutor(model).quantize_inputs(*reals))[0]).abs().max() <= 1  # fmt: skip
    metadata = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert list(json.loads(metadata["sigmaquant.inputs"])) == ["e0"]
    assert set(OnnxWatch(path, model)(*reals)) == {"e0", "e1"}


def test_the_watch_sees_each_edge_under_its_own_name(tmp_path: Path) -> None:
    """Also where another edge is called what the codes of an output are called."""
    net = Net()
    first = net.layer(net.input(4), (5, 4), bits=4)
    net.layer(first, (5, 5), bits=3)
    renamed = {"e0": "x", "e1": "y", "e2": "y.codes"}
    operators = [
        replace(op, inputs=tuple(renamed[n] for n in op.inputs), output=renamed[op.output]) for op in net.operators
    ]
    edges = {renamed[name]: replace(edge, name=renamed[name]) for name, edge in net.edges.items()}
    model = IntegerModel(tuple(operators), edges, ("x",), ("y", "y.codes"), net.model().plan)
    path = tmp_path / "model.onnx"
    export_onnx(model, path)
    (codes,) = random_codes(model, 20)
    x = decode(codes, edges["x"])
    assert check_each(model, path, x) == 2
    assert torch.equal(OnnxWatch(path, model)(x)["x"], codes)
