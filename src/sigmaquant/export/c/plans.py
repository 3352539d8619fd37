"""`export_c_plans`: a folder of C99 with several plans of one network, which `<name>_set_plan` chooses between."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from sigmaquant.errors import ExportError
from sigmaquant.export.c import code
from sigmaquant.export.c.endings import in_integers
from sigmaquant.export.c.folder import makefile
from sigmaquant.export.c.names import model_identifier
from sigmaquant.export.c.operators import translate
from sigmaquant.export.c.planes import SharedConstants
from sigmaquant.export.c.plans_folder import dispatch_header, dispatch_source, plans_main, plans_readme
from sigmaquant.export.c.program import Placed, Program, place
from sigmaquant.export.c.report import FILE, CPlan, CPlans, CReport
from sigmaquant.export.c.writing import check_target, code_tables, example_of, kernel_files, report_of, write_folder
from sigmaquant.lowering import IntegerModel

_POINTER_BYTES = 4


def export_c_plans(models: Mapping[str, IntegerModel], folder: str | Path, *, name: str = "model") -> CPlans:
    """Write several plans of a network as one self-contained folder of C99.

    Beside what `export_c` writes there is ``<name>_set_plan(k)``: plan 0, the largest, runs until another one is
    chosen, and nothing is loaded or copied then. Weights are bit planes, of which a plan touches its own only.

    Args:
        models: by the plan's name, from the largest to the smallest, of networks whose codes are nested.
        folder: as for `export_c`.
        name: as for `export_c`.

    Returns:
        What it needs in flash and RAM.

    Raises:
        ExportError: as `export_c`, or the codes are not nested.
        StorageError: the folder could not be written.
    """
    prefix, target = model_identifier(name), Path(os.path.realpath(folder))
    check_target(target)
    parts = [in_integers(model) for model in models.values()]
    shared = SharedConstants([model.plan.weights for model in models.values()])
    programs = [translate(integers, prefix, shared) for integers, _ in parts]
    placed = [place(program) for program in programs]
    reports = [
        report_of(integers, endings, Path(folder), prefix, program, where, shared)
        for (integers, endings), program, where in zip(parts, programs, placed, strict=True)
    ]
    _check_alike(reports)
    sizes = {table.name: table.values.nbytes for table in shared.tables.tables}
    codes: set[str] = set()
    for (integers, _), where in zip(parts, placed, strict=True):
        codes |= code_tables(integers, where, shared)
    pointers = _POINTER_BYTES * sum(len(planes.tables) for planes in shared.planes)
    report = CPlans(
        folder=Path(folder),
        name=prefix,
        weight_bytes=sum(sizes[table] for table in codes),
        table_bytes=sum(size for table, size in sizes.items() if table not in codes) + pointers,
        arena_bytes=max(where.arena_bytes for where in placed),
        plans=tuple(CPlan(plan, own) for plan, own in zip(models, reports, strict=True)),
    )
    write_folder(target, _files([integers for integers, _ in parts], report, programs, placed, shared))
    return report


def _check_alike(reports: list[CReport]) -> None:
    first = reports[0]
    for other in reports[1:]:
        for one, two in zip((*first.inputs, *first.outputs), (*other.inputs, *other.outputs), strict=True):
            if (one.place, one.rows, one.shape) != (two.place, two.rows, two.shape):
                raise ExportError(f"the plans do not have the same inputs and outputs: {one.name!r} and {two.name!r}.")


def _files(
    models: list[IntegerModel],
    plans: CPlans,
    programs: list[Program],
    placed: list[Placed],
    shared: SharedConstants,
) -> dict[str, str]:
    """Text by file name."""
    name, first = plans.name, plans.plans[0].report
    kernels = {step.kernel for where in placed for step in where.steps}
    files = {
        f"{name}.c": dispatch_source(plans),
        f"{name}_weights.c": code.weights_source(name, shared.tables, shared.planes),
        **kernel_files(kernels, first.has_endings, planes=bool(shared.planes)),
    }
    for number, (item, program, where) in enumerate(zip(plans.plans, programs, placed, strict=True)):
        own = plan_report(item.report, number)
        files[f"{own.name}.c"] = code.source(own, program, where, of=name)
        files[f"{own.name}.h"] = code.header(own)
    if first.has_endings:
        files[f"{name}_endings.c"] = code.endings_source(first)
    sources = sorted(file for file in files if file.endswith(".c"))
    files = {
        **files,
        f"{name}.h": dispatch_header(plans),
        f"{name}_arena.h": code.arena_header(name, plans.arena_bytes),
        f"{name}_weights.h": code.weights_header(name, shared.tables, shared.planes),
        "main.c": plans_main(plans, [example_of(model) for model in models]),
        "Makefile": makefile(first, sources),
        "README.md": plans_readme(plans),
    }
    digests = {file: hashlib.sha256(text.encode()).hexdigest() for file, text in files.items()}
    return {**files, FILE: plans.to_json(digests)}


def plan_report(report: CReport, number: int) -> CReport:
    """A plan's report under the plan's own name; functions behind outputs are the network's."""
    outputs = tuple(replace(grid, endings=()) for grid in report.outputs)
    return replace(report, name=f"{report.name}_plan_{number}", outputs=outputs)
