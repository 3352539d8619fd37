"""ONNX files as modules: what torch.onnx exports of many networks, what is refused, and with which words."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import small_networks
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

import command
import tiny
from sigmaquant import load_model, trace
from sigmaquant.errors import ModelFileError
from sigmaquant.frontends.onnx.load import load_onnx


def export(net: nn.Module, example: Tensor, path: Path, *, batch: int | None = None, opset: int = 17) -> Path:
    """A file of any batch size, or of a fixed one."""
    options = {"dynamic_axes": {"x": {0: "n"}}} if batch is None else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net, (example[: batch or 2],), path, dynamo=False, opset_version=opset, input_names=["x"], **options
        )
    return path


def small_file(
    path: Path, nodes: list, stored: dict[str, np.ndarray], opset: int = 17, shape: tuple = ("n", 4), rank: int = 2
) -> Path:
    """A file of a few nodes from ``x`` to ``y``, which has so many dimensions."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [f"d{axis}" for axis in range(rank)])],
        [numpy_helper.from_array(array, name) for name, array in stored.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), path)
    return path


def tensors(output: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return output if isinstance(output, tuple) else (output,)


@pytest.mark.parametrize("batch", [None, 1], ids=["any batch", "batch of 1"])
@pytest.mark.parametrize("name", small_networks.NETWORKS)
def test_networks_of_many_kinds(tmp_path: Path, name: str, batch: int | None) -> None:
    """For every batch size, whatever size the file is fixed to, and with every weight where the search finds it."""
    net, x = small_networks.network(name)
    loaded = load_model(export(net, x, tmp_path / "net.onnx", batch=batch))
    with torch.no_grad():
        for ours, theirs in zip(tensors(loaded(x)), tensors(net(x)), strict=True):
            torch.testing.assert_close(ours, theirs, atol=2e-6, rtol=1e-4)
    graph, own = trace(loaded, x), trace(net, x)
    assert graph.weightless_macs == own.weightless_macs
    assert sum(layer.macs for layer in graph.layers) == sum(layer.macs for layer in own.layers)


@pytest.mark.parametrize(
    ("name", "opset"),
    [("vision transformer", 14), *((name, opset) for name in ("mobile", "segmenter", "words") for opset in (11, 13))],
)
def test_older_files(tmp_path: Path, name: str, opset: int) -> None:
    """LayerNorm, GELU and SiLU are spelt out there, and found again."""
    net, x = small_networks.network(name)
    loaded = load_model(export(net, x, tmp_path / "net.onnx", opset=opset))
    with torch.no_grad():
        torch.testing.assert_close(loaded(x), net(x), atol=2e-6, rtol=1e-4)
    code = loaded.code
    assert "erf" not in code
    if name == "vision transformer":
        assert sum(isinstance(module, nn.LayerNorm) for module in loaded.modules()) == 4
        assert code.count("gelu(") == 2
    if name == "words":
        assert code.count("silu(") == 1


def test_a_batch_of_several_is_lifted(tmp_path: Path) -> None:
    net, x = small_networks.network("shuffle")
    loaded = load_model(export(net, x, tmp_path / "net.onnx", batch=2))
    with torch.no_grad():
        torch.testing.assert_close(loaded(x), net(x), atol=2e-6, rtol=1e-4)


def test_names_are_the_files_own(tmp_path: Path) -> None:
    net, x = small_networks.network("vision transformer")
    loaded = load_model(export(net, x, tmp_path / "net.onnx"))
    own = net.state_dict()
    assert {key: value.shape for key, value in loaded.state_dict().items()} == {k: v.shape for k, v in own.items()}
    assert {name for name, _ in loaded.named_parameters()} == {name for name, _ in net.named_parameters()}
    loaded.load_state_dict(own)


def test_a_layer_that_is_called_twice_is_one_layer(tmp_path: Path) -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(torch.relu(self.layer(x)))

    loaded = load_model(export(Twice().eval(), torch.randn(3, 4), tmp_path / "net.onnx"))
    assert list(loaded.state_dict()) == ["layer.weight", "layer.bias"]


def test_same_padding_and_other_ways_of_tf2onnx(tmp_path: Path) -> None:
    """Odd padding at the end, a MatMul and its bias, a transposed input."""
    random = np.random.default_rng(0)
    stored = {
        "net/conv/kernel": random.normal(size=(6, 3, 3, 3)).astype(np.float32),
        "net/fc/MatMul/ReadVariableOp:0": random.normal(size=(6, 5)).astype(np.float32),
        "net/fc/bias": random.normal(size=5).astype(np.float32),
        "axes": np.array([2, 3]),
    }
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], "net/input_transpose", perm=[0, 3, 1, 2]),
        helper.make_node(
            "Conv", ["t", "net/conv/kernel"], ["c"], "net/conv/Conv", auto_pad="SAME_UPPER", strides=[2, 2]
        ),
        helper.make_node("MaxPool", ["c"], ["m"], kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER"),
        helper.make_node("AveragePool", ["m"], ["a"], kernel_shape=[2, 2], auto_pad="SAME_UPPER"),
        helper.make_node("ReduceMean", ["a"], ["r"], axes=[2, 3], keepdims=0),
        helper.make_node("MatMul", ["r", "net/fc/MatMul/ReadVariableOp:0"], ["f"], "net/fc/MatMul"),
        helper.make_node("Add", ["f", "net/fc/bias"], ["y"], "net/fc/BiasAdd"),
    ]
    loaded = load_model(small_file(tmp_path / "net.onnx", nodes, stored, shape=("n", 16, 16, 3)))
    assert loaded(torch.zeros(2, 16, 16, 3)).shape == (2, 5)
    assert set(loaded.state_dict()) == {"net.conv.weight", "net.fc.weight", "net.fc.bias", "border"}


@pytest.mark.parametrize("mode", ["reflect", "edge"])
def test_pads_that_are_not_zero(tmp_path: Path, mode: str) -> None:
    nodes = [
        helper.make_node("Pad", ["x", "pads"], ["p"], mode=mode),
        helper.make_node("Conv", ["p", "conv.weight"], ["y"], "conv"),
    ]
    stored = {"pads": np.array([0, 0, 1, 2, 0, 0, 2, 1]), "conv.weight": np.ones((2, 1, 3, 3), np.float32)}
    loaded = load_model(small_file(tmp_path / "net.onnx", nodes, stored, shape=("n", 1, 8, 8), rank=4))
    assert loaded(torch.zeros(1, 1, 8, 8)).shape == (1, 2, 9, 9)


def test_open_shapes_are_given(tmp_path: Path) -> None:
    net = nn.Conv2d(3, 4, 3).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        axes = {"x": {0: "n", 2: "h", 3: "w"}}
        torch.onnx.export(
            net, (torch.zeros(2, 3, 8, 8),), tmp_path / "net.onnx", dynamo=False, input_names=["x"], dynamic_axes=axes
        )
    path = tmp_path / "net.onnx"
    with pytest.raises(
        ModelFileError, match=r"leaves the shape of its input 'x' open: 3x\?x\? .*net\.onnx\?shape=3x64x64"
    ):
        load_model(path)
    assert load_model(f"{path}?shape=3x10x12")(torch.zeros(1, 3, 10, 12)).shape == (1, 4, 8, 10)
    for query, message in (
        ("shape=4x10x12", "has the shape 3x\\?x\\? without the batch, not 4x10x12"),
        ("shape=3x10x12,5", "has 1 inputs \\('x'\\), but 2 shapes were given"),
        ("shape=3xa", "must be sizes without the batch, like shape=3x224x224"),
        ("size=3", "has the unknown option 'size'; known are 'shape' and 'logits'"),
    ):
        with pytest.raises(ModelFileError, match=message):
            load_model(f"{path}?{query}")


def test_all_unknown_operators_are_told_at_once(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Gemm", ["x", "fc.weight"], ["a"], "fc"),
        helper.make_node("NonZero", ["a"], ["b"], "first"),
        helper.make_node("Det", ["a"], ["c"], "other"),
        helper.make_node("NonZero", ["c"], ["y"], "second"),
    ]
    path = small_file(tmp_path / "net.onnx", nodes, {"fc.weight": np.eye(4, dtype=np.float32)})
    with pytest.raises(
        ModelFileError, match=r"not read: Det \(1, first 'other'\), NonZero \(2, first 'first'\)\. If they"
    ):
        load_onnx(path)


@pytest.mark.parametrize(
    ("operator", "message"),
    [
        ("DequantizeLinear", r"is quantized already \(DequantizeLinear\)\. Give the float file"),
        ("QuantizeLinear", r"is quantized already \(QuantizeLinear\)\. Give the float file"),
    ],
)
def test_quantized_files_are_refused(tmp_path: Path, operator: str, message: str) -> None:
    data = np.zeros((4, 4), np.int8) if operator == "DequantizeLinear" else np.zeros((4, 4), np.float32)
    nodes = [
        helper.make_node(operator, ["w", "scale"], ["q"]),
        helper.make_node("Identity", ["x"], ["y"]),
    ]
    path = small_file(tmp_path / "net.onnx", nodes, {"w": data, "scale": np.float32(1.0)})
    with pytest.raises(ModelFileError, match=message):
        load_onnx(path)


def test_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("not a network")
    nodes = [helper.make_node("Relu", ["x"], ["y"])]
    for path, message in (
        (tmp_path / "missing.onnx", "there is no file .*missing"),
        (tmp_path / "text.onnx", "cannot be read as an ONNX file: .* Export it again"),
        (
            small_file(tmp_path / "old.onnx", nodes, {}, opset=9),
            r"is of opset 9; the oldest that is read is 11\. .*convert_",
        ),
    ):
        with pytest.raises(ModelFileError, match=message):
            load_model(path)


def test_an_operator_used_in_another_way_is_named(tmp_path: Path) -> None:
    nodes = [helper.make_node("BatchNormalization", ["x", "s", "s", "s", "s"], ["y", "m", "v"], "bn", training_mode=1)]
    path = small_file(tmp_path / "net.onnx", nodes, {"s": np.ones(4, np.float32)})
    with pytest.raises(ModelFileError, match=r"net\.onnx: BatchNormalization 'bn': it is in training mode\. Export"):
        load_onnx(path)


def test_what_does_not_compute_the_same_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sigmaquant.frontends.onnx import elementwise

    path = small_file(tmp_path / "net.onnx", [helper.make_node("Tanh", ["x"], ["y"])], {})
    load_onnx(path)
    monkeypatch.setitem(elementwise._UNARY, "Tanh", torch.sigmoid)
    with pytest.raises(ModelFileError, match=r"does not compute what ONNX Runtime computes: output 0 differs by up to"):
        load_onnx(path)


def test_the_command_line_takes_files(tmp_path: Path) -> None:
    """From the file to a run, its scores, and a file for a device that is verified."""
    inputs = tiny.train_data()[0][:2]
    path = export(tiny.trained(), inputs, tmp_path / "net.onnx")
    outcome = command.quantize("--size", "4x", "--out", tmp_path / "run", model=str(path))
    assert outcome.code == 0, outcome
    verified = command.main(
        "export", tmp_path / "run", "--model", path, "--data", command.TEST, "--to", "onnx", "--quiet"
    )
    assert verified.code == 0, verified


def test_fastestdet(shared_data: Path) -> None:
    """The same detector as PyTorch module and as file, whose batch is fixed and whose BatchNorms are folded."""
    tasks = shared_data.parent / "tasks"
    if not (tasks / "networks_detect.py").is_file():
        pytest.skip(f"needs the detector: no networks_detect.py in {tasks}")
    import importlib.util

    from safetensors.torch import load_file

    spec = importlib.util.spec_from_file_location("networks_detect", tasks / "networks_detect.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    net = module.FastestDet().eval()
    net.load_state_dict(load_file(tasks / "weights" / "fastestdet_coco.safetensors"))
    loaded = load_model(tasks / "onnx" / "fastestdet_coco.onnx")
    x = torch.rand(2, 3, 352, 352, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        object_, box, classes = net(x)
        expected = torch.cat([object_.sigmoid(), box, classes.softmax(1)], 1)
        torch.testing.assert_close(loaded(x), expected, atol=1e-4, rtol=1e-3)


def test_a_softmax_at_the_end_can_be_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    nodes = [
        helper.make_node("Gemm", ["x", "fc.weight"], ["a"], "fc"),
        helper.make_node("Softmax", ["a"], ["y"], "softmax"),
    ]
    path = small_file(tmp_path / "net.onnx", nodes, {"fc.weight": np.eye(4, dtype=np.float32)})
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    with caplog.at_level("WARNING"):
        assert torch.allclose(load_model(path)(x), x.softmax(1))
        assert f"{path}?logits=true leaves it out" in caplog.text
        caplog.clear()
        assert torch.equal(load_model(f"{path}?logits=true")(x), x)
        assert torch.allclose(load_model(f"{path}?logits=false&shape=4")(x), x.softmax(1))
    assert not caplog.text
    plain = small_file(tmp_path / "plain.onnx", [helper.make_node("Tanh", ["x"], ["y"])], {})
    for spec, message in (
        (f"{plain}?logits=true", "has no softmax at its end. Leave the option logits out"),
        (f"{plain}?logits=1", "logits must be true or false, not '1'"),
    ):
        with pytest.raises(ModelFileError, match=message):
            load_model(spec)
