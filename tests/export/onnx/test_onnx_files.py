"""ONNX files as a whole: names, metadata, inputs, sizes, what the runtime makes of them, and what is refused."""

from __future__ import annotations

import importlib
import json
import sys
from collections import Counter
from functools import partial
from math import ceil, prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, numpy_helper
from onnx_cases import Net, check, codes_of, optimized, random_codes
from torch import Tensor

import sigmaquant.export.onnx
from sigmaquant import __version__
from sigmaquant.errors import ExportError, MissingExtraError, StorageError
from sigmaquant.export.onnx import OnnxRunner, export_onnx
from sigmaquant.lowering import IntegerExecutor, IntegerModel
from sigmaquant.lowering.model import FloatOperator
from sigmaquant.operators import Average, Edge, MaxPool, Reshape, Sum, decode
from sigmaquant.operators.fixed_point import common_multipliers, factor
from sigmaquant.plan import BitwidthPlan


def add(net: Net, left: str, right: str) -> str:
    """A sum that fills its output's range."""
    output = net.grid()
    multipliers, offset, shift = common_multipliers([0.61803, 0.70711], 0.0, 20, "test")
    parameters: dict[str, Any] = {"multipliers": tuple(multipliers), "offset": offset, "shift": shift}
    return net.add(Sum, left, right, grid=output, **parameters, low=-128, high=127)


def residual(bits: tuple[int, ...] = (5, 3, 2), midrise_up_to: int = 0) -> Net:
    """Three convolutions, a residual sum, pooling, a classifier."""
    net = Net()
    same: dict[str, Any] = {"padding": ((1, 1), (1, 1))}
    grids = [{"bits": b, "midrise": b <= midrise_up_to} for b in bits]
    first = net.layer(net.input(3, 10, 10), (6, 3, 3, 3), **grids[0], **same)
    second = net.layer(first, (6, 6, 3, 3), **grids[1], **same)
    joined = add(net, first, second)
    window = {"kernel": (2, 2), "stride": (2, 2), "padding": (0, 0), "dilation": (1, 1)}
    pooled = net.add(MaxPool, joined, **window, ceil_mode=False)
    third = net.layer(pooled, (9, 6, 1, 1), **grids[2])
    output = net.grid()
    whole: dict[str, Any] = {"windows": (), "kernel": (), "stride": (), "padding": ()}
    scale = factor(1.7 / 25, "test")
    mean = net.add(Average, third, grid=output, factor=scale, dims=(1, 2), keepdim=False, low=-128, high=127, **whole)
    net.layer(mean, (10, 9), bits=4)
    return net


def reals(model: IntegerModel, count: int = 3) -> list[Tensor]:
    return [decode(x, model.edges[n]) for n, x in zip(model.inputs, random_codes(model, count), strict=True)]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "model.onnx"


@pytest.mark.parametrize("form", ["planes", "native"])
def test_a_network_agrees(form: str, tmp_path: Path) -> None:
    check(residual((4, 3, 2), midrise_up_to=3).model(), tmp_path, form=form)


@pytest.mark.parametrize("form", ["planes", "native"])
def test_the_runtime_computes_it_in_integers(form: str, file: Path, tmp_path: Path) -> None:
    export_onnx(residual((4, 6, 8)).model(), file, form=form)
    kinds = Counter(node.op_type for node in optimized(file, tmp_path).graph.node)
    assert kinds["QLinearConv"] == 3
    assert kinds["QLinearAdd"] == kinds["QLinearGlobalAveragePool"] == kinds["QGemm"] == 1
    assert kinds["QuantizeLinear"] == kinds["DequantizeLinear"] == 1, "at the network's input and output alone"
    assert set(kinds) <= {
        "QLinearConv", "QLinearAdd", "QLinearGlobalAveragePool", "QGemm", "QuantizeLinear", "DequantizeLinear",
        "MaxPool", "NhwcMaxPool", "Transpose", "Reshape",
    }, "nothing unpacks weights at run time"  # fmt: skip


def test_only_sums_of_8_bit_weights_that_could_saturate_take_the_slower_type(file: Path) -> None:
    net = Net()
    source = net.layer(net.input(3, 5, 5), (4, 3, 3, 3), bits=8)
    net.layer(source, (4, 4, 3, 3), bits=8)
    operator: Any = net.operators[1]
    np.clip(operator.codes, -64, 64, out=operator.codes)
    export_onnx(net.model(), file)
    kinds = [t.data_type for t in onnx.load(file).graph.initializer if t.name.endswith(".weight")]
    assert kinds == [TensorProto.UINT8, TensorProto.INT8]


@pytest.mark.parametrize("bits", range(2, 9))
def test_planes_hold_no_bit_too_many(bits: int, file: Path) -> None:
    net = Net()
    shape = (5, 3, 3, 3)
    net.layer(net.input(3, 5, 5), shape, bits=bits)
    export_onnx(net.model(), file)
    (weight,) = (t for t in onnx.load(file).graph.initializer if t.name == "module.e1.weight")
    assert len(weight.raw_data) == ceil(prod(shape) * bits / 8)


def test_native_types(file: Path) -> None:
    net = Net()
    source = net.input(3, 5, 5)
    for bits in range(2, 8):
        source = net.layer(source, (3, 3, 1, 1), bits=bits)
    export_onnx(net.model(), file, form="native")
    found = [t.data_type for t in onnx.load(file).graph.initializer if ".weight" in t.name and "scale" not in t.name]
    planes, narrow = TensorProto.UINT8, TensorProto.INT4
    assert found == [TensorProto.INT2, planes, narrow, planes, narrow, TensorProto.UINT2, planes]


def test_what_surrounds_the_weights_is_small(file: Path) -> None:
    model = residual().model()
    export_onnx(model, file)
    layers = model.weighted
    packed = sum(ceil(op.codes.size * op.bits / 8) for op in layers)
    ideal = packed + sum(8 * len(op.scale) for op in layers)
    assert file.stat().st_size < 1.25 * ideal + 15_000


def test_a_weight_that_is_used_twice_is_stored_once(file: Path, tmp_path: Path) -> None:
    net = Net()
    source = net.input(6, 5, 5)
    first = net.layer(source, (6, 6, 1, 1), bits=3)
    second = net.layer(first, (6, 6, 1, 1), bits=3)
    operators: Any = net.operators
    operators[1].codes[...] = operators[0].codes
    model = net.model(first, second)
    export_onnx(model, file)
    assert sum(node.op_type.startswith("Unpack") for node in onnx.load(file).graph.node) == 1
    check(model, tmp_path)


def test_names(file: Path) -> None:
    export_onnx(residual().model(), file, name="keyword spotter")
    graph = onnx.load(file).graph
    assert graph.name == "keyword spotter"
    named = [node.name for node in graph.node if node.name]
    assert named == [op.name for op in residual().operators]
    tensors = {name for node in graph.node for name in node.output}
    inner = [op.output for op in residual().operators[:-1]]
    assert tensors.issuperset(inner)
    assert [value.name for value in graph.input] == ["e0"]
    assert [value.name for value in graph.output] == [residual().operators[-1].output]


def test_metadata(file: Path) -> None:
    model = residual().model()
    export_onnx(model, file, form="native")
    found = {entry.key: entry.value for entry in onnx.load(file).metadata_props}
    assert BitwidthPlan.from_json(found["sigmaquant.plan"]) == model.plan
    assert (found["sigmaquant.version"], found["sigmaquant.form"]) == (__version__, "native")
    edge = model.edges["e0"]
    grid = {"scale": edge.scale, "zero_point": edge.zero_point, "bits": 8}
    assert json.loads(found["sigmaquant.inputs"]) == {"e0": grid}


@pytest.mark.parametrize(("form", "opset", "ir"), [("planes", 18, 8), ("native", 25, 13)])
def test_versions(form: str, opset: int, ir: int, file: Path) -> None:
    export_onnx(residual((2, 4, 3)).model(), file, form=form)
    proto = onnx.load(file)
    onnx.checker.check_model(proto, full_check=True)
    assert proto.ir_version == ir
    assert {entry.domain: entry.version for entry in proto.opset_import} == {"": opset, "sigmaquant": 1}


@pytest.mark.parametrize("count", [1, 5])
def test_any_batch_size(count: int, file: Path) -> None:
    model = residual().model()
    export_onnx(model, file)
    (x,) = reals(model, 5)
    runner = OnnxRunner(file)
    assert torch.equal(runner(x)[:count], runner(x[:count]))
    assert [value.shape for value in runner.session.get_inputs()] == [["N", 3, 10, 10]]


@pytest.mark.parametrize("bits", [8, 5])
def test_inputs_as_codes(bits: int, file: Path, tmp_path: Path) -> None:
    net = Net()
    net.layer(net.input(3, 5, 5, bits=bits), (4, 3, 3, 3), bits=4)
    model = net.model()
    (codes,) = random_codes(model)
    export_onnx(model, file)
    expected = OnnxRunner(file)(*reals(model))
    export_onnx(model, file, inputs="int8")
    assert torch.equal(OnnxRunner(file)(codes), expected)
    export_onnx(model, file, inputs="uint8")
    assert torch.equal(OnnxRunner(file)((codes.to(torch.int16) + 128).to(torch.uint8)), expected)


def test_floats_beyond_the_input_range_are_clipped(file: Path) -> None:
    net = Net()
    net.layer(net.input(6, bits=5), (4, 6), bits=4)
    model = net.model()
    export_onnx(model, file)
    x = torch.tensor([[-9.0, 9.0, 0.0, 0.1, -0.1, 9.0]])
    (expected,) = codes_of(IntegerExecutor(model)(x), model)
    (found,) = codes_of(OnnxRunner(file)(x), model)
    assert torch.equal(found, expected)


def test_several_inputs_and_outputs(tmp_path: Path) -> None:
    net = Net()
    left, right = net.input(4), net.input(4)
    first = add(net, left, right)
    second = net.layer(first, (3, 4), bits=3)
    check(net.model(second, first), tmp_path, count=20)


def test_an_input_that_is_also_the_output(file: Path) -> None:
    net = Net()
    source = net.input(4)
    model = net.model(source)
    export_onnx(model, file)
    (x,) = reals(model)
    assert torch.allclose(OnnxRunner(file)(x), x)


def test_names_that_collide_stay_apart(tmp_path: Path) -> None:
    net = Net()
    first = net.layer(net.input(3), (4, 3), bits=3)
    net.edges["e1"] = net.edges.pop(first)
    net.operators[0] = type(net.operators[0])(**{**vars(net.operators[0]), "name": "e2"})
    net.layer("e1", (5, 4), bits=3)
    net.edges["e1.codes"] = Edge("e1.codes", (4,), 8, 0.02, 3)
    net.operators.append(Reshape("e2.weight", ("e1",), "e1.codes", (4,)))
    check(net.model("e2", "e1"), tmp_path, count=20)


def test_the_runner_sets_fusions_and_threads(file: Path) -> None:
    export_onnx(residual().model(), file)
    levels = onnxruntime.GraphOptimizationLevel
    for fused, level in ((True, levels.ORT_ENABLE_ALL), (False, levels.ORT_DISABLE_ALL)):
        options = OnnxRunner(file, fused=fused, threads=2).session.get_session_options()
        assert (options.graph_optimization_level, options.intra_op_num_threads) == (level, 2)


def test_the_same_network_gives_the_same_bytes(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("a", "b")]
    for path in files:
        export_onnx(residual().model(), path)
    assert files[0].read_bytes() == files[1].read_bytes()


def with_floats() -> IntegerModel:
    net = Net()
    source = net.input(4)
    for name in ("encoder.norm: layer_norm", "head: softmax"):
        net.operators.append(
            FloatOperator(name, (source,), source, name, "net.py:7: y = f(x)" if "head" in name else "")
        )
    return net.model(source)


def test_float_operators_are_refused_by_name(file: Path) -> None:
    file.write_bytes(b"old")
    with pytest.raises(ExportError, match=r"2 operators .*encoder\.norm: layer_norm, head: softmax.*replace them") as e:
        export_onnx(with_floats(), file)
    assert "head: softmax (net.py:7: y = f(x))" in str(e.value)
    assert file.read_bytes() == b"old"


def test_a_missing_folder_is_told_and_nothing_is_left(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="Create the folder"):
        export_onnx(residual().model(), tmp_path / "missing" / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_an_interrupted_write_leaves_the_old_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_bytes(b"old")

    def fail(self: Path, target: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(KeyboardInterrupt):
        export_onnx(residual().model(), file)
    assert file.read_bytes() == b"old"
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize("module", ["onnx", "onnxruntime"])
def test_a_missing_extra_is_told(module: str, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export_onnx(residual().model(), file)
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr(sigmaquant.export, "onnx", sigmaquant.export.onnx)  # put back after the import below
    for name in [name for name in sys.modules if name.startswith("sigmaquant.export.onnx")]:
        monkeypatch.delitem(sys.modules, name)
    package = importlib.import_module("sigmaquant.export.onnx")  # which needs none of it
    call = partial(package.export_onnx, residual().model()) if module == "onnx" else package.OnnxRunner
    with pytest.raises(MissingExtraError, match=r'pip install "sigmaquant\[onnx\]"'):
        call(file)


def test_native_on_an_old_onnx_is_told(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx.defs, "onnx_opset_version", lambda: 22)
    with pytest.raises(ExportError, match="use form 'planes'"):
        export_onnx(residual().model(), file, form="native")
    export_onnx(residual().model(), file)
    assert file.exists()


def test_scales_are_the_models_own(file: Path) -> None:
    """DequantizeLinear of a weight has scale / gain, that of its bias the product with the input's."""
    net = Net()
    net.layer(net.input(3), (4, 3), bits=3)
    export_onnx(net.model(), file)
    constants = {t.name: numpy_helper.to_array(t) for t in onnx.load(file).graph.initializer}
    (operator,) = net.model().weighted
    assert np.array_equal(constants["module.e1.weight.scale"], operator.scale / operator.gain)
    product = operator.scale / operator.gain * np.float32(net.edges["e0"].scale)
    assert np.array_equal(constants["module.e1.bias.scale"], product)
    assert np.array_equal(constants["module.e1.bias"], operator.bias)
