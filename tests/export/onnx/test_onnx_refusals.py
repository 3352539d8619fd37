"""Damaged models, unknown arguments, files that cannot be run: one sentence each, never another kind of error."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx_cases import Net

import sigmaquant.export.onnx.exporter
from sigmaquant.errors import ExportError
from sigmaquant.export.onnx import OnnxRunner, OnnxWatch, export_onnx
from sigmaquant.lowering import IntegerModel
from sigmaquant.operators import Permute, Reshape, Slopes


def chain() -> IntegerModel:
    net = Net()
    first = net.layer(net.input(3, 5, 5), (4, 3, 3, 3), bits=4)
    net.layer(first, (2, 4, 1, 1), bits=8)
    return net.model()


def with_edge(model: IntegerModel, name: str, **changes: Any) -> IntegerModel:
    return replace(model, edges={**model.edges, name: replace(model.edges[name], **changes)})


def with_operator(model: IntegerModel, place: int, **changes: Any) -> IntegerModel:
    operators = list(model.operators)
    operators[place] = replace(operators[place], **changes)
    return replace(model, operators=tuple(operators))


def permuted(model: IntegerModel) -> IntegerModel:
    return replace(model, operators=(*model.operators[:1], Permute("turn", ("e1",), "e2", (0, 1))))


def sloped(model: IntegerModel) -> IntegerModel:
    slopes = Slopes("act", ("e1",), "e2", 7, np.ones(9, np.int32), 5, -128, 127)
    return replace(model, operators=(*model.operators[:1], slopes))


DAMAGE: dict[str, tuple[Callable[[IntegerModel], IntegerModel], str]] = {
    "an unknown output": (lambda m: replace(m, outputs=("y",)), "'y'.*does not describe"),
    "an unknown input": (lambda m: with_operator(m, 1, inputs=("y",)), r"'module\.e2' \(Convolution\).*'y'"),
    "another order": (lambda m: replace(m, operators=m.operators[::-1]), "'e1', which nothing before it writes"),
    "written twice": (lambda m: with_operator(m, 1, output="e1"), "'e1', which has a value"),
    "never written": (lambda m: replace(m, operators=m.operators[:1]), "'e2' is written by no operator"),
    "no scale": (lambda m: with_edge(m, "e1", scale=float("nan")), "'e1' has the scale nan"),
    "no zero-point": (lambda m: with_edge(m, "e1", zero_point=300), "zero-point 300"),
    "another shape": (lambda m: with_edge(m, "e2", shape=(2, 9, 9)), "no valid ONNX graph"),
    "another rank": (permuted, "no valid ONNX graph"),
    "other channels": (sloped, "no valid ONNX graph"),
    "no geometry": (lambda m: with_operator(m, 1, padding=()), r"'module\.e2' \(Convolution\).*do not fit"),
    "two rounds": (lambda m: with_operator(m, 1, scale=None), r"'module\.e2'.*Lower the network again"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_models(kind: str, tmp_path: Path) -> None:
    damage, told = DAMAGE[kind]
    with pytest.raises(ExportError, match=told):
        export_onnx(damage(chain()), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("argument", ["form", "inputs"])
def test_unknown_arguments(argument: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {argument: "strange"}
    with pytest.raises(ExportError, match=f"ONNX {argument} 'strange' is unknown. Choose one of "):
        export_onnx(chain(), tmp_path / "model.onnx", **options)


def test_a_file_that_protobuf_cannot_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sigmaquant.export.onnx.exporter, "_LARGEST_BYTES", 100)
    with pytest.raises(ExportError, match="2 GB"):
        export_onnx(chain(), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"", b"no file of this kind", None])
def test_files_that_cannot_be_read(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ExportError, match=r"model\.onnx.*Export the network again"):
        OnnxRunner(path)
    with pytest.raises(ExportError, match=r"model\.onnx.*Export the network again"):
        OnnxWatch(path, chain())


def test_other_inputs_than_the_file_takes(tmp_path: Path) -> None:
    export_onnx(chain(), tmp_path / "model.onnx")
    for runner in (OnnxRunner(tmp_path / "model.onnx"), OnnxWatch(tmp_path / "model.onnx", chain())):
        with pytest.raises(ExportError, match="takes 1 inputs, but 2 are given"):
            runner(torch.zeros(1, 3, 5, 5), torch.zeros(1))
        with pytest.raises(ExportError, match=r"takes 'e0': float \['N', 3, 5, 5\]"):
            runner(torch.zeros(1, 3, 5, 4))
    assert OnnxRunner(tmp_path / "model.onnx")(torch.zeros(1, 3, 5, 5).double()).dtype == torch.float32


def test_a_reshape_to_another_number_of_values(tmp_path: Path) -> None:
    net = Net()
    net.input(3, 4)
    net.edges["e1"] = replace(net.edges["e0"], name="e1", shape=(5,))
    net.operators.append(Reshape("flat", ("e0",), "e1", (5, 1)))
    with pytest.raises(ExportError, match="no valid ONNX graph"):
        export_onnx(net.model("e1"), tmp_path / "model.onnx")
