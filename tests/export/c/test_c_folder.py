"""The exported folder: names, what is refused, and that it appears whole or not at all."""

from __future__ import annotations

import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from c_cases import NO_PLAN, Net, check_codes, compiled, list_again, mixed_model, random_codes
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from sigmaquant.errors import ArtifactError, ExportError, StorageError
from sigmaquant.export.c import CRunner, export_c
from sigmaquant.export.c import writing as export_module
from sigmaquant.export.c.names import Names, comment, identifier, model_identifier
from sigmaquant.export.targets import TARGETS, Source
from sigmaquant.export.verification import Reference
from sigmaquant.lowering import IntegerExecutor, IntegerModel
from sigmaquant.lowering.model import Dequantize, FloatOperator, Quantize
from sigmaquant.operators import (
    Average,
    Concatenation,
    Edge,
    FloatFunction,
    Lookup,
    MatMul,
    Norm,
    Operator,
    Permute,
    Resize,
    Slice,
    Softmax,
    Sum,
    UnitLength,
    compute,
)
from sigmaquant.operators.fixed_point import factor


def tiny(name: str = "table") -> IntegerModel:
    edges = {"x": Edge("x", (2, 3), 8), "y": Edge("y", (2, 3), 8, 0.5, 1)}
    table = np.arange(-128, 128, dtype=np.int8)[::-1].copy()
    return IntegerModel((Lookup(name, ("x",), "y", "neg", table),), edges, ("x",), ("y",), NO_PLAN)


# -- names -------------------------------------------------------------------------------------------------------


@given(st.text())
def test_every_name_becomes_an_identifier(text):
    for found in (identifier(text), model_identifier(text)):
        assert found.isidentifier()
        assert found.isascii()
        assert not found.startswith("_")


@given(st.lists(st.sampled_from(["a.b", "a_b", "A.B", "a.b_2", "", "é", "int", "1"]), max_size=12))
def test_identifiers_are_unique_whatever_their_case(texts):
    names = Names()
    found = [names.unique(text).lower() for text in texts]
    assert len(set(found)) == len(found)


@given(st.text())
def test_comments_stay_comments(text):
    found = comment(text)
    assert found.isascii()
    assert not any(part in found for part in ("*", "/", "?", "\\", "\n", "\r"))


@pytest.mark.parametrize("name", ["1-bad name", "int", "string", "main", "sq_conv", "été", "", "export", "x" * 300])
def test_models_of_any_name_compile(name, tmp_path, objects):
    model = tiny(name="*/ layer ??/ \\")
    report = export_c(model, tmp_path / "out", name=name)
    assert (report.folder / f"{report.name}.h").is_file()
    check_codes(compiled(report.folder, objects, ("-Wall", "-Werror", "-pedantic")), model, random_codes(model, 2))


class Keywords(nn.Module):
    """Layers that are named as C would not have them."""

    def __init__(self) -> None:
        super().__init__()
        for name in ("int", "struct", "params", "a_b", "A_B", "output", "arena"):
            self.add_module(name, nn.Linear(3, 3))

    def forward(self, x):
        for module in self.children():
            x = torch.relu(module(x))
        return x


def test_layers_of_any_name_compile(tmp_path, objects):
    from c_cases import integer_model

    torch.manual_seed(0)
    model = integer_model(Keywords().eval(), torch.randn(8, 3), 0)
    export_c(model, tmp_path / "out", name="double")
    check_codes(compiled(tmp_path / "out", objects, ("-Wall", "-Werror")), model, random_codes(model, 2))


# -- refusals ----------------------------------------------------------------------------------------------------


def of(cls: type, shape: tuple[int, ...] = (2, 2, 2, 2), inputs: int = 1, /, **fields) -> IntegerModel:
    net = Net()
    names = [net.input(shape) for _ in range(inputs)]
    return net.model([net.add(cls, names, **fields)])


def floating() -> IntegerModel:
    edges = {"x": Edge("x", (2,), 32), "y": Edge("y", (2,), 32)}
    operator = FloatOperator("norm: layer_norm", ("x",), "y", "norm: layer_norm", "net.py:7", torch.relu)
    return IntegerModel((operator,), edges, ("x",), ("y",), NO_PLAN)


def moved_floats() -> IntegerModel:
    edges = {"x": Edge("x", (2, 3), 8)} | {name: Edge(name, (2, 3), 32) for name in ("f", "s")}
    edges["y"] = Edge("y", (3, 2), 32)
    operators = (
        Dequantize("d", ("x",), "f"), FloatFunction("soft", ("f",), "s", "softmax", 1),
        Permute("turn", ("s",), "y", (1, 0)),
    )  # fmt: skip
    return IntegerModel(operators, edges, ("x",), ("y",), NO_PLAN)


class Unknown(Operator):
    """What no exporter has heard of."""


@compute.register
def _(operator: Unknown, reference: object, x: torch.Tensor) -> torch.Tensor:
    return x


def quantized_input() -> IntegerModel:
    edges = {"x": Edge("x", (2,), 32), "y": Edge("y", (2,), 8)}
    return IntegerModel((Quantize("q", ("x",), "y"),), edges, ("x",), ("y",), NO_PLAN)


def product_of(depth: int) -> IntegerModel:
    net = Net()
    names = [net.input((1, depth)), net.input((depth, 1))]
    return net.model([net.add(MatMul, names, factor=factor(0.01, "t"), **RANGE)])


def norm_of(count: int) -> IntegerModel:
    one = np.ones(1)
    return of(
        Norm, (count,), axes=(0,), centred=True, epsilon=1, root_bits=0, multiplier=one.astype(np.int32),
        offset=one.astype(np.int32), shift=one.astype(np.int64), **RANGE,
    )  # fmt: skip


RANGE = {"low": -128, "high": 127}
FOLD = {"dims": (0,), "keepdim": False, "windows": (), "kernel": (), "stride": (), "padding": ()}
REFUSED = {
    "float": (floating, "'norm: layer_norm' at net.py:7.*leave it out"),
    "quantize": (quantized_input, "'q': it reads 'x', which is float.*very end"),
    "moved floats": (moved_floats, "'turn': it moves .*before the function"),
    "nothing read": (lambda: IntegerModel((), {"x": Edge("x", (2,), 32)}, ("x",), ("x",), NO_PLAN), "reads none"),
    "nothing in it": (lambda: of(Slice, (2,), axis=0, start=1, stop=1, step=1), "holds no value"),
    "large average": (lambda: of(Average, (2**24,), **FOLD, factor=factor(1e-7, "t"), **RANGE), "32 bits.*two steps"),
    "long resizing": (
        lambda: of(
            Resize, (1, 2**20), lower=((0,),), weights=((0,),), scales=(1.0,), align_corners=False,
            factor=factor(0.1, "t"), **RANGE,
        ),
        "resizing more than 1048575 places",
    ),
    "large eps": (lambda: of(UnitLength, (2,), multiplier=256, least=2**46, **RANGE), "64 bits.*smaller eps"),
    "long product": (
        lambda: product_of(2**31 // 255**2 + 1), r"sums of 33026 products do not fit into 32 bits.*at most 33025"
    ),
    "wide softmax": (
        lambda: of(
            Softmax, (2,), table=np.zeros(256, dtype=np.int32), multiplier=2**41, mask=None, **RANGE
        ), "shares do not fit into 64 bits",
    ),
    "long norm": (lambda: norm_of(52200), "sums over 52200 values do not fit into 64 bits.*fewer values"),
    "three terms": (
        lambda: of(Sum, (2,), 3, multipliers=(1, 1, 1), offset=0, shift=1, **RANGE), "3 terms.*two at a time"
    ),
    "wide sum": (lambda: of(Sum, multipliers=(2**24,), offset=0, shift=1, **RANGE), "does not fit into 32 bits"),
    "shift": (lambda: of(Concatenation, axis=0, multipliers=(1,), shifts=(31,), **RANGE), "shift 31"),
    "unknown": (lambda: of(Unknown), "'op y1': Unknown has no C kernel"),
}  # fmt: skip


@pytest.mark.parametrize(("build", "message"), REFUSED.values(), ids=REFUSED)
def test_what_has_no_kernel_is_refused_before_anything_is_written(build, message, tmp_path):
    with pytest.raises(ExportError, match=message):
        export_c(build(), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


# -- writing -----------------------------------------------------------------------------------------------------


def test_the_folder_holds_what_it_needs_and_no_more(tmp_path):
    report = export_c(tiny(), tmp_path / "out", name="tiny")
    assert sorted(path.name for path in report.folder.iterdir()) == [
        "Makefile", "README.md", "export.json", "main.c", "sq.h", "sq_dot.h", "sq_elementwise.c", "sq_fixed.c",
        "sq_fixed.h", "sq_float.c", "sq_rows.h", "sq_strip.h", "tiny.c", "tiny.h", "tiny_weights.c", "tiny_weights.h",
    ]  # fmt: skip
    assert (report.weight_bytes, report.table_bytes, report.arena_bytes) == (0, 256, 0)
    assert (report.input_bytes, report.output_bytes) == (6, 6)


def test_the_report_is_what_the_folder_says(tmp_path):
    model = mixed_model()
    report = export_c(model, tmp_path / "out", name="mixed")
    header, source = (report.folder / "mixed.h").read_text(), (report.folder / "mixed.c").read_text()
    assert f"#define MIXED_ARENA_BYTES {report.arena_bytes}\n" in header
    assert f"int16_t halves[{report.arena_bytes // 2}];" in source
    document = json.loads((report.folder / "export.json").read_text())
    assert document["weight_bytes"] == report.weight_bytes == sum(layer.weight_bytes for layer in report.layers)
    assert [layer["name"] for layer in document["layers"]] == [layer.name for layer in report.layers]
    assert (
        f"| RAM: arena (activations and scratch) | {report.arena_bytes} |" in (report.folder / "README.md").read_text()
    )
    weights = (report.folder / "mixed_weights.c").read_text()
    declared = [int(part.split("]")[0]) for part in weights.split("_codes[")[1:]]
    assert sum(declared) == report.weight_bytes
    sizes = {layer.name: layer for layer in report.layers}
    for operator in model.weighted:
        assert sizes[operator.name].bits == operator.bits
        assert sizes[operator.name].weight_bytes >= math.ceil(operator.codes.size * operator.bits / 8)
        assert sizes[operator.name].table_bytes == 9 * len(operator.codes)


def test_an_earlier_export_is_replaced(tmp_path):
    export_c(tiny(), tmp_path / "out", name="first")
    export_c(tiny(), tmp_path / "out", name="second")
    assert not (tmp_path / "out" / "first.c").exists()
    assert (tmp_path / "out" / "second.c").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("content", ["mine", "{}", '{"format": "other"}', "[1]"])
def test_a_folder_of_other_things_is_left_alone(content, tmp_path):
    target = tmp_path / "out"
    target.mkdir()
    (target / "export.json").write_text(content)
    with pytest.raises(ExportError, match="is no earlier C export"):
        export_c(tiny(), target)
    assert (target / "export.json").read_text() == content
    with pytest.raises(ExportError, match="is no earlier C export"):
        export_c(tiny(), target / "export.json")


def test_an_interrupted_export_leaves_the_old_one(tmp_path, monkeypatch):
    export_c(tiny(), tmp_path / "out", name="old")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    rename, calls = Path.rename, []

    def failing(self: Path, target: Path) -> Path:
        calls.append(self)
        if len(calls) == 2:  # the new folder takes the name; the old one has just left it
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(StorageError, match="old folder is intact"):
        export_c(tiny(), tmp_path / "out", name="new")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_interrupt_while_writing_leaves_nothing(tmp_path, monkeypatch):
    write, calls = Path.write_text, []

    def failing(self: Path, *args, **kwargs):
        calls.append(self)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return write(self, *args, **kwargs)

    monkeypatch.setattr(export_module.Path, "write_text", failing)
    with pytest.raises(KeyboardInterrupt):
        export_c(tiny(), tmp_path / "deep" / "out")
    assert list((tmp_path / "deep").iterdir()) == []


def test_a_file_in_the_way_is_a_storage_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="could not write"):
        export_c(tiny(), tmp_path / "file" / "out")


# -- the runner --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runner(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runner") / "out"
    export_c(tiny(), folder)
    runner = CRunner(folder, flags=("-std=c99", "-O0"))
    shutil.rmtree(folder)  # what is compiled needs it no longer
    return runner


def test_floats_in_floats_out(runner):
    x = torch.randn(4, 2, 3) * 40
    assert torch.equal(runner(x), IntegerExecutor(tiny())(x))
    codes = torch.arange(-12, 12, dtype=torch.int8).reshape(4, 2, 3)
    assert runner(codes).dtype == torch.int8
    assert torch.equal(runner(codes), -1 - codes)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ((), "0 inputs were given, the network has 1"),
        ((torch.zeros(2, 3),), r"shape \[2, 3\] instead of"),
        ((torch.zeros(1, 3, 2),), r"shape \[1, 3, 2\] instead of"),
    ],
)
def test_inputs_that_do_not_fit(runner, inputs, message):
    with pytest.raises(ExportError, match=message):
        runner(*inputs)


def test_folders_and_compilers_that_do_not_work(tmp_path, monkeypatch):
    with pytest.raises(ExportError, match="is no C export"):
        CRunner(tmp_path)
    report = export_c(tiny(), tmp_path / "out")
    with pytest.raises(ExportError, match="no compiler 'no-such-cc'"):
        CRunner(report.folder, compiler="no-such-cc")
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(tmp_path))
        with pytest.raises(ExportError, match="no C compiler here"):
            CRunner(report.folder)
    (report.folder / "model.c").write_text("nonsense")
    with pytest.raises(ArtifactError, match=r"model\.c is not the file that was written"):
        CRunner(report.folder)
    list_again(report.folder)
    with pytest.raises(ArtifactError, match=r"compiling .* failed"):
        CRunner(report.folder)


def change(path, pattern, replacement):
    text = path.read_text()
    assert len(re.findall(pattern, text)) == 1
    path.write_text(re.sub(pattern, replacement, text))


def test_only_listed_files_are_compiled(tmp_path):
    """A planted file would run its constructor."""
    report = export_c(tiny(), tmp_path / "out")
    ran = tmp_path / "ran"
    (report.folder / "planted.c").write_text(
        "#include <stdio.h>\n__attribute__((constructor)) static void f(void)\n"
        f'{{\n    FILE *file = fopen("{ran}", "w");\n    fclose(file);\n}}\n'
    )
    codes = torch.zeros(1, 2, 3, dtype=torch.int8)
    assert torch.equal(CRunner(report.folder)(codes), -1 - codes)
    assert not ran.exists()
    document = json.loads((report.folder / "export.json").read_text())
    for file in ("../planted.c", "planted.c"):
        other = {**document, "files": {**document["files"], file: "0" * 64}}
        (report.folder / "export.json").write_text(json.dumps(other))
        with pytest.raises(ArtifactError, match="is not the file that was written"):
            CRunner(report.folder)
    for broken in ({**document, "files": {}}, {**document, "inputs": 3}, {**document, "name": "x y"}):
        (report.folder / "export.json").write_text(json.dumps(broken))
        with pytest.raises(ArtifactError, match="damaged"):
            CRunner(report.folder)
    assert not ran.exists()


def ended() -> IntegerModel:
    """With a softmax behind its last integer."""
    model = tiny()
    edges = {**model.edges} | {name: Edge(name, (2, 3), 32) for name in ("f", "s")}
    operators = (*model.operators, Dequantize("d", ("y",), "f"), FloatFunction("soft", ("f",), "s", "softmax", 1))
    return replace(model, operators=operators, edges=edges, outputs=("s", "y"))


def test_functions_behind_the_network_are_run_and_checked(tmp_path):
    model, x = ended(), torch.randn(4, 2, 3) * 40
    report = export_c(model, tmp_path / "out")
    for ours, theirs in zip(CRunner(report.folder)(x), IntegerExecutor(model)(x), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
    text = (report.folder / "export.json").read_text()
    assert text.count('"softmax"') == 1
    (report.folder / "export.json").write_text(text.replace('"softmax"', '"softmax(0); system"'))
    with pytest.raises(ArtifactError, match="damaged"):
        CRunner(report.folder)


def test_a_folder_is_verified_with_the_functions_behind_its_network(tmp_path):
    model, x = ended(), torch.randn(20, 2, 3) * 40
    export_c(model, tmp_path / "out")
    inputs, outputs = ([model.edges[name] for name in names] for names in (model.inputs, model.outputs))
    source = Source(nn.Identity(), (x[:2],), tuple(inputs), outputs=tuple(outputs))
    agreement = Reference(model, [x]).agreement(TARGETS["c"].runner(tmp_path / "out", source))
    assert (agreement.decisions, agreement.equal) == (1, 1)
    for wrong in (replace(outputs[1], scale=0.25), outputs[0]):
        with pytest.raises(ArtifactError, match="other grids than the network"):
            TARGETS["c"].runner(tmp_path / "out", replace(source, outputs=(outputs[0], wrong)))
    with pytest.raises(ArtifactError, match="other grids than the network"):
        TARGETS["c"].runner(tmp_path / "out", replace(source, outputs=(outputs[0],)))


def test_a_listed_file_that_is_gone(tmp_path):
    report = export_c(tiny(), tmp_path / "out")
    (report.folder / "sq.h").unlink()
    with pytest.raises(ArtifactError, match=r"sq\.h is listed in export\.json and cannot be read"):
        CRunner(report.folder)


@pytest.mark.parametrize("constant", ["INPUT_SCALE", "INPUT_ZERO_POINT", "OUTPUT_SCALE", "OUTPUT_ZERO_POINT"])
def test_constants_of_the_header_are_checked(tmp_path, constant):
    report = export_c(tiny(), tmp_path / "out")
    change(report.folder / "model.h", rf"(MODEL_{constant}) .*", r"\1 (7)" if "ZERO" in constant else r"\1 0.75F")
    list_again(report.folder)
    with pytest.raises(ArtifactError, match=r"model\.h has size, scale and zero-point"):
        CRunner(report.folder)


@pytest.mark.parametrize("scale", ["1.000000000e+00F", "5.000000000e-01F"])
def test_the_helpers_for_floats_are_run(tmp_path, scale):
    """The network is right; only the helper for its input, or that for its output, is not."""
    x = torch.randn(4, 2, 3) * 40
    report = export_c(tiny(), tmp_path / "out")
    right = CRunner(report.folder)(x)
    change(report.folder / "model.c", rf"(sq_grid grid = \{{6), {re.escape(scale)}", r"\1, 3.5F")
    list_again(report.folder)
    if scale.startswith("1"):
        assert not torch.equal(CRunner(report.folder)(x), right)
    else:
        with pytest.raises(ArtifactError, match="the helper for floats"):
            CRunner(report.folder)(x)
