"""The file as a whole: interface, metadata, refusals, and what happens when something goes wrong."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from litert_cases import Call, lowered, noise, read, steps
from torch import nn

from sigmaquant.errors import ExportError, MissingExtraError, StorageError
from sigmaquant.export.litert import LitertRunner, export_litert, litert_form
from sigmaquant.export.litert.writing import PLAN_METADATA
from sigmaquant.graph import trace
from sigmaquant.lowering import IntegerExecutor, lower
from sigmaquant.plan import BitwidthPlan
from sigmaquant.quant import calibrate_, prepare, set_plan_
from sigmaquant.runs import atomic

pytest.importorskip("ai_edge_litert")


def tiny(bits=4, activation_bits=8):
    return lowered(
        Call(
            lambda m, x: m.b(F.relu(m.a(x)).mean((2, 3))),
            a=nn.Conv2d(3, 8, 3, padding=1),
            b=nn.Linear(8, 5),
        ),
        (3, 6, 5),
        bits=bits,
        activation_bits=activation_bits,
    )


def test_the_interface_is_the_networks_own(tmp_path):
    model = tiny()
    export_litert(model, tmp_path / "float.tflite", name="net")
    export_litert(model, tmp_path / "codes.tflite", inputs="int8")
    floats, codes = read(tmp_path / "float.tflite"), read(tmp_path / "codes.tflite")
    (given,), (result,) = floats.inputs, floats.outputs
    assert (floats.tensors[given].kind, floats.tensors[given].shape) == ("FLOAT32", (1, 3, 6, 5))
    assert (floats.tensors[result].kind, floats.tensors[result].shape) == ("FLOAT32", (1, 5))
    for names, tensors in ((codes.inputs, model.inputs), (codes.outputs, model.outputs)):
        edge, stored = model.edges[tensors[0]], codes.tensors[names[0]]
        assert names == list(tensors)
        assert stored.kind == "INT8"
        assert stored.scale[0] == np.float32(edge.scale)
        assert stored.zero_point[0] == edge.zero_point


def test_any_batch_in_any_order(tmp_path):
    model = tiny()
    export_litert(model, tmp_path / "x.tflite")
    for xnnpack in (True, False):
        run, x = LitertRunner(tmp_path / "x.tflite", xnnpack=xnnpack), noise(7, 3, 6, 5)
        whole = run(x)
        assert whole.shape == (7, 5)
        assert int(steps(torch.cat([run(x[:1]), run(x[1:2]), run(x[2:])]), whole, model).max()) == 0
        assert int(steps(run(x), whole, model).max()) == 0
        assert int(steps(run(x.flip(0)), whole, model).max()) > 0


def test_several_inputs_and_outputs_keep_their_order(tmp_path):
    model = lowered(Call(lambda m, x, y: (m.a(y), m.b(x) + y), a=nn.Linear(4, 3), b=nn.Linear(6, 4)), (6,), (4,))
    export_litert(model, tmp_path / "x.tflite")
    x, y = noise(5, 6), noise(5, 4, seed=1)
    found, expected = LitertRunner(tmp_path / "x.tflite")(x, y), IntegerExecutor(litert_form(model))(x, y)
    assert [tuple(f.shape) for f in found] == [(5, 3), (5, 4)]
    for i in range(2):
        assert int(steps(found[i], expected[i], model, i).max()) == 0


def test_narrow_inputs_are_clamped(tmp_path):
    model = tiny(activation_bits=3)
    x = 100 * noise(9, 3, 6, 5)  # far outside the range
    expected = IntegerExecutor(litert_form(model))(x)
    for inputs in ("float", "int8"):
        export_litert(model, tmp_path / "x.tflite", inputs=inputs)
        assert int(steps(LitertRunner(tmp_path / "x.tflite")(x), expected, model).max()) == 0


def test_the_plan_is_inside(tmp_path):
    model = tiny()
    export_litert(model, tmp_path / "x.tflite")
    assert BitwidthPlan.from_json(read(tmp_path / "x.tflite").metadata[PLAN_METADATA].decode()) == model.plan


def test_constants_are_aligned_as_the_schema_asks(tmp_path):
    from ai_edge_litert import schema_py_generated as schema

    export_litert(tiny(), tmp_path / "x.tflite")
    content = (tmp_path / "x.tflite").read_bytes()
    assert content[4:8] == b"TFL3"
    model, filled = schema.Model.GetRootAs(content), 0
    for i in range(model.BuffersLength()):
        buffer = model.Buffers(i)
        if buffer.DataLength():
            field = buffer._tab.Offset(4)
            assert buffer._tab.Vector(field) % 16 == 0
            filled += 1
    assert filled >= 5
    assert model.Buffers(0).DataLength() == 0  # tensors without constants refer to it


def test_the_same_model_gives_the_same_bytes(tmp_path):
    for name in "ab":
        export_litert(tiny(), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def conv(**options):
    return nn.Conv2d(4, 4, 3, **options)


REFUSED = {
    "volume": (
        Call(lambda m, x: m.a(x), a=nn.Conv3d(2, 3, 2)),
        (2, 4, 4, 4),
        r"'a' \(Convolution of layer 'a'\): convolutions of three dimensions",
    ),
    "volume average": (
        Call(lambda m, x: F.avg_pool3d(m.a(x), 2), a=nn.Linear(12, 12)),
        (2, 12, 12, 12),
        "means over windows of three",
    ),
    "uneven windows of a large map": (
        Call(lambda m, x: F.adaptive_avg_pool2d(m.a(x), (7, 9)), a=conv(padding=1)),
        (4, 67, 65),
        "its windows hold different numbers of values",
    ),
    "seven dimensions": (
        Call(lambda m, x: m.a(x), a=nn.Linear(2, 3)),
        (1, 2, 1, 2, 1, 2),
        r"'a' \(Linear of layer 'a'\): it computes with 7 dimensions, and LiteRT's kernels take 6",
    ),
    "sum of all before": (
        Call(lambda m, x: m.b(torch.cumsum(m.a(x), 1)), a=nn.Linear(4, 4), b=nn.Linear(4, 4)),
        (4,),
        r"no integer form: '.*cumsum' \(litert_cases.py:\d+: .*leave them out of the network",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_exact_form_is_refused_and_nothing_written(case, tmp_path):
    network, shape, message = REFUSED[case]
    model = lowered(network, shape)
    (tmp_path / "x.tflite").write_bytes(b"old")
    with pytest.raises(ExportError, match=message) as error:
        export_litert(model, tmp_path / "x.tflite")
    assert any(remedy in str(error.value) for remedy in ("another format", "behind it"))
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"old"]


def test_an_unknown_kind_of_inputs_is_refused(tmp_path):
    with pytest.raises(ExportError, match="inputs is 'uint8'; it must be 'float' or 'int8'"):
        export_litert(tiny(), tmp_path / "x.tflite", inputs="uint8")
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    export_litert(tiny(bits=8), tmp_path / "x.tflite")
    old = (tmp_path / "x.tflite").read_bytes()

    def full(descriptor, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic, "write_all", full)
    with pytest.raises(StorageError, match="the disk is full"):
        export_litert(tiny(bits=4), tmp_path / "x.tflite")
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [old]


@pytest.mark.parametrize("module", ["ai_edge_litert.schema_py_generated", "flatbuffers"])
def test_a_missing_extra_is_told(module, tmp_path, monkeypatch):
    model = tiny()
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=r'pip install "sigmaquant\[litert\]"'):
        export_litert(model, tmp_path / "x.tflite")
    assert not list(tmp_path.iterdir())
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    with pytest.raises(MissingExtraError, match=r'pip install "sigmaquant\[litert\]"'):
        LitertRunner(tmp_path / "x.tflite")


def test_importing_the_exporter_imports_no_extra():
    code = (
        "import sys, sigmaquant.export.litert; "
        "sys.exit(any(name.split('.')[0] in ('ai_edge_litert', 'flatbuffers') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_what_is_no_file_of_this_kind_is_told(tmp_path):
    (tmp_path / "x.tflite").write_bytes(b"no flatbuffer at all")
    for name in ("x.tflite", "absent.tflite"):
        with pytest.raises(ExportError, match=rf"{name} is no LiteRT file that the runtime can load"):
            LitertRunner(tmp_path / name)


@pytest.mark.parametrize("name", ["akamaster_resnet20_cifar10", "mlperf_resnet8_cifar10"])
def test_trained_networks_run_as_their_form(shared_loader, name, tmp_path):
    network, _ = shared_loader.network(name)
    quantizable = prepare(trace(network.eval(), (noise(2, 3, 32, 32),)))
    graph, widths = quantizable.graph, [8, 5, 4, 6, 7, 3, 2]
    plan = BitwidthPlan(
        {spec.name: widths[i % 7] for i, spec in enumerate(graph.layers)},
        dict.fromkeys(graph.activation_names, 8),
        "",
        2,
    )
    set_plan_(quantizable, plan)
    images = noise(96, 3, 32, 32, seed=5)
    calibrate_(quantizable, [images[:32]])
    model = lower(quantizable)
    sizes = []
    for pack in (True, False):
        report = export_litert(model, tmp_path / "x.tflite", pack=pack)
        found, expected = (
            f(images[64:]) for f in (LitertRunner(report.path), IntegerExecutor(litert_form(model, pack)))
        )
        assert torch.equal(found.argmax(1), expected.argmax(1))
        assert float(steps(found, expected, model).mean()) < 0.1
        assert report.ideal_weight_bytes <= report.weight_bytes < report.file_bytes
        sizes.append(report.weight_bytes)
    assert sizes[0] < sizes[1] == sum(layer.codes.size for layer in model.weighted)
