"""`export_c`: a folder of C99 that computes what the reference computes, bit for bit."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import re
import shutil
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from sigmaquant.errors import ExportError
from sigmaquant.export.c import code
from sigmaquant.export.c.endings import CEnding, Endings, in_integers
from sigmaquant.export.c.folder import main_source, makefile, readme
from sigmaquant.export.c.layout import View
from sigmaquant.export.c.names import model_identifier
from sigmaquant.export.c.operators import translate
from sigmaquant.export.c.planes import SharedConstants
from sigmaquant.export.c.program import Placed, Program, Step, place
from sigmaquant.export.c.report import FILE, FORMAT, PLANS_FORMAT, CActivation, CGrid, CLayer, CReport
from sigmaquant.export.c.translate import argument
from sigmaquant.json_text import read_json
from sigmaquant.lowering import IntegerExecutor, IntegerModel
from sigmaquant.operators import Matrix, Operator, Recurrent, Weighted
from sigmaquant.runs.atomic import TEMPORARY_SUFFIX, remove_stale, storage_error

_counter = itertools.count()
_LAYER_TABLES = ("bias", "mantissa", "shift")


def export_c(model: IntegerModel, folder: str | Path, *, name: str = "model") -> CReport:
    """Write a network as a self-contained folder of C99.

    ``<name>.h`` is the interface, ``<name>.c`` the network, ``<name>_weights.c`` its constants, weights bit-packed,
    ``sq*.c`` the kernels it needs, ``main.c`` an example with the reference's result, beside a Makefile and a README.
    Memory is planned here: activations and scratch share one static arena. A softmax, log-softmax or sigmoid at the
    network's end stays out of it, in a function of its own (``<name>_endings.c``).

    Args:
        model: the network; every operator must have an integer form.
        folder: does not exist, is empty, or holds an earlier export, which is replaced. It appears in one instant.
        name: prefix of files and symbols; made a C identifier.

    Returns:
        What it needs in flash and RAM.

    Raises:
        ExportError: an operator that C has no kernel for, or a folder that holds something else. Nothing was written.
        StorageError: the folder could not be written.
    """
    target = Path(os.path.realpath(folder))
    check_target(target)
    integers, report, program, placed = _planned(model, Path(folder), name)
    write_folder(target, _files(integers, report, program, placed))
    return report


def planned_c(model: IntegerModel, *, name: str = "model") -> CReport:
    """What `export_c` would write, without writing it.

    Raises:
        ExportError: an operator that C has no kernel for.
    """
    return _planned(model, Path(), name)[1]


def _planned(model: IntegerModel, folder: Path, name: str) -> tuple[IntegerModel, CReport, Program, Placed]:
    prefix = model_identifier(name)
    integers, endings = in_integers(model)
    program = translate(integers, prefix)
    placed = place(program)
    return integers, report_of(integers, endings, folder, prefix, program, placed), program, placed


def _files(model: IntegerModel, report: CReport, program: Program, placed: Placed) -> dict[str, str]:
    """Text by file name."""
    name = report.name
    files = {
        f"{name}.c": code.source(report, program, placed),
        f"{name}_weights.c": code.weights_source(name, program),
        **kernel_files({step.kernel for step in placed.steps}, report.has_endings),
    }
    if report.has_endings:
        files[f"{name}_endings.c"] = code.endings_source(report)
    sources = sorted(file for file in files if file.endswith(".c"))
    inputs, outputs = example_of(model)
    files = {
        **files,
        f"{name}.h": code.header(report),
        f"{name}_weights.h": code.weights_header(name, program),
        "main.c": main_source(report, inputs, outputs),
        "Makefile": makefile(report, sources),
        "README.md": readme(report),
    }
    digests = {file: hashlib.sha256(text.encode()).hexdigest() for file, text in files.items()}
    return {**files, FILE: report.to_json(digests)}


def kernel_files(kernels: set[str], endings: bool, planes: bool = False) -> dict[str, str]:
    """The headers, and the files that define the kernels."""
    texts = {
        item.name: item.read_text("utf-8")
        for item in resources.files("sigmaquant.export.c").joinpath("kernels").iterdir()
        if item.name.endswith((".c", ".h"))
    }
    wanted = set(kernels) | {"sq_quantize", "sq_dequantize", "sq_scale_up"}
    if kernels & {"sq_conv", "sq_depthwise", "sq_linear", "sq_embedding"} or any(
        k.startswith("sq_recurrent") for k in kernels
    ):
        wanted.add("sq_unpack_8")
    if endings:
        wanted.add("sq_softmax")
    if planes:
        wanted.add("sq_unpack_planes")
    if "sq_conv" in kernels:
        wanted.add("sq_narrow")  # whichever widths: code is measured at one of them
    defined = {
        file: set(re.findall(r"^(?:void|int32_t) (sq_\w+)\(", text, re.MULTILINE))
        | set(re.findall(r"^const sq_narrow_kernels (sq_\w+) =", text, re.MULTILINE))
        | set(re.findall(r"^SQ_UNPACK\((sq_\w+),", text, re.MULTILINE))
        for file, text in texts.items()
        if file.endswith(".c")
    }
    return {file: text for file, text in sorted(texts.items()) if file.endswith(".h") or defined[file] & wanted}


def example_of(model: IntegerModel) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Codes of one random example, and the reference's result, of what is in integers."""
    generator = torch.Generator().manual_seed(0)
    inputs = []
    for name in model.inputs:
        edge = model.edges[name]
        low, high = edge.range if edge.has_grid else (0, max(0, edge.integers - 1))
        kind = torch.int64 if edge.integers else torch.int8
        inputs.append(torch.randint(low, high + 1, (edge.rows, *edge.shape), generator=generator, dtype=kind))
    outputs = IntegerExecutor(model).run_codes(*inputs)
    pairs = zip(model.inputs + model.outputs, (*inputs, *outputs), strict=True)
    kept = [(name, codes) for name, codes in pairs if not model.edges[name].is_float]
    count = sum(not model.edges[name].is_float for name in model.inputs)
    return [codes for _, codes in kept[:count]], [codes for _, codes in kept[count:]]


def report_of(
    model: IntegerModel,
    endings: Endings,
    folder: Path,
    name: str,
    program: Program,
    placed: Placed,
    shared: SharedConstants | None = None,
) -> CReport:
    """What a program needs; `shared` has the planes of several plans."""
    sizes = {table.name: table.values.nbytes for table in program.tables}
    operators = {operator.name: operator for operator in model.operators}
    layers: dict[str, CLayer] = {}
    codes: set[str] = set()
    for step in placed.steps:
        for weight, fields, share in _weights(operators.get(step.operator), step):
            own = (str(fields["codes"]),) if shared is None else shared.tables_of(fields)
            codes.update(own)
            before = layers.get(weight.name)
            layers[weight.name] = CLayer(
                name=weight.name,
                kernel=step.kernel,
                bits=weight.bits,
                weight_bytes=sum(sizes[table] for table in own),
                table_bytes=sum(sizes[fields[key]] for key in _LAYER_TABLES if key in fields),
                scratch_bytes=max(step.scratch_bytes, before.scratch_bytes if before else 0),
                macs=round(step.all_macs * share) + (before.macs if before else 0),
            )
    counts = len(model.inputs), len(model.outputs)
    inputs = tuple(_grid(model, edge, argument("input", i, counts[0])) for i, edge in enumerate(model.inputs))
    outputs = tuple(
        _grid(model, edge, argument("output", i, counts[1]), endings[i]) for i, edge in enumerate(model.outputs)
    )
    return CReport(
        folder=folder,
        name=name,
        weight_bytes=sum(sizes[table] for table in codes),
        table_bytes=sum(sizes[table] for table in program.used if table not in codes),
        arena_bytes=placed.arena_bytes,
        input_bytes=sum(grid.count * (4 if grid.integers else 1) for grid in inputs if grid.place),
        output_bytes=sum(grid.count for grid in outputs if grid.place),
        inputs=inputs,
        outputs=outputs,
        layers=tuple(layers.values()),
        activations=tuple(_activation(name, view) for name, view in program.edges.items()),
    )


def code_tables(model: IntegerModel, placed: Placed, shared: SharedConstants) -> set[str]:
    """Names of the tables of codes that a plan's program reads."""
    operators = {operator.name: operator for operator in model.operators}
    found = [fields for step in placed.steps for _, fields, _ in _weights(operators.get(step.operator), step)]
    return {table for fields in found for table in shared.tables_of(fields)}


def _weights(operator: Operator | None, step: Step) -> list[tuple[Weighted | Matrix, Mapping[str, Any], float]]:
    """The weights of a call, with their fields and their shares of its products; a copy before a layer has none."""
    if isinstance(operator, Weighted) and "layer" in step.parameters:
        return [(operator, step.parameters["layer"], 1.0)]
    if isinstance(operator, Recurrent) and "hidden" in step.parameters:
        both = operator.input_matrix, operator.hidden_matrix
        whole = sum(matrix.codes.size for matrix in both)
        fields = step.parameters["input"], step.parameters["hidden"]
        return [(m, f, m.codes.size / whole) for m, f in zip(both, fields, strict=True)]
    return []


def _activation(name: str, view: View) -> CActivation:
    return CActivation(name, view.whole.shape, view.whole.strides, view.rows)


def _grid(model: IntegerModel, name: str, place: str, endings: tuple[CEnding, ...] = ()) -> CGrid:
    edge = model.edges[name]
    shown = "" if edge.is_float else place
    return CGrid(
        edge.name, edge.shape, edge.bits, edge.scale, edge.zero_point, edge.rows, shown, endings, edge.integers
    )


# -- writing -----------------------------------------------------------------------------------------------------


def check_target(target: Path) -> None:
    """Raise for a folder that holds something else than an export.

    Raises:
        ExportError: it does.
    """
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    try:
        written = read_json((target / FILE).read_bytes()).get("format") in (FORMAT, PLANS_FORMAT)
    except (OSError, ValueError, AttributeError):
        written = False
    if not written:
        raise ExportError(f"{target} exists and is no earlier C export. Choose another folder, or empty this one.")


def write_folder(target: Path, files: dict[str, str]) -> None:
    """All files, in one instant: into a sibling folder, which then takes the name."""
    mark = f"{os.getpid()}-{next(_counter)}{TEMPORARY_SUFFIX}"
    fresh, old = target.with_name(f".{target.name}.{mark}"), target.with_name(f".{target.name}.old-{mark}")
    try:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            fresh.mkdir()
            for file, text in files.items():
                (fresh / file).write_text(text, "utf-8", newline="\n")
            if target.exists():
                target.rename(old)
            try:
                fresh.rename(target)
            except BaseException:
                if old.exists():
                    old.rename(target)
                raise
            remove_stale(target)
        finally:
            for left in (fresh, old):
                with contextlib.suppress(OSError):
                    shutil.rmtree(left)
    except OSError as error:
        kept = "The old folder is intact." if target.exists() else "Nothing was written."
        raise storage_error(target, error, kept) from error
