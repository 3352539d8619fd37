"""Files of a run with several plans: written together, and every plan verified against its own integer model."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sigmaquant.errors import ExportError, StorageError
from sigmaquant.export.feasibility import known_targets
from sigmaquant.export.nested import load_nested, read_plans
from sigmaquant.export.targets import TARGETS, ExportOptions, plan_target, write_plans
from sigmaquant.export.verification import Verification
from sigmaquant.graph.reading import read_copy
from sigmaquant.hardware.costs import IdealCosts
from sigmaquant.report import checkpoint_digest
from sigmaquant.runs import NullProgress, Progress, RunFiles
from sigmaquant.runs import task as progress_task
from sigmaquant.tasks import Task
from sigmaquant.workflow.exporting import (
    FOLDER,
    REPORT,
    Subject,
    Written,
    all_or_none,
    digest_of,
    float_latency_ms,
    keep,
    read_inputs,
    record_of,
    subject_of,
    task_of_run,
    verify_file,
)
from sigmaquant.workflow.loading import keys_of

log = logging.getLogger("sigmaquant")


def run_with_plans(path: str | Path) -> Path | None:
    """The run with several plans that a path leads to: itself, its export folder, or a file there; else None."""
    path = Path(path)
    for run in (path, path.parent) if path.name == FOLDER else (path, path.resolve().parent.parent):
        if RunFiles(run).nested_path.exists():
            return run
    return None


def export_plans(
    model: nn.Module,
    run: str | Path,
    data: Any,
    *,
    to: Sequence[str] = ("onnx",),
    out: str | Path | None = None,
    options: ExportOptions | None = None,
    task: Task | str | None = None,
    examples: int | None = None,
    progress: Progress | None = None,
) -> tuple[Verification, ...]:
    """Write all plans of a run as files and verify each plan of each.

    The packed file and the C folder hold all plans; ONNX and LiteRT have a file for each, ``model_plan_<k>``.

    Args:
        model: the trained float model.
        run: the run directory.
        data: what to verify on, as for `sigmaquant.workflow.exporting.export_run`.
        to: kinds of files.
        out: the folder; None: ``export`` in the run directory.
        options: how files are written.
        task: what the outputs are for; None: the run's.
        examples: at most so many examples are run; None: all.
        progress: display.

    Returns:
        a verdict for each kind of file and plan.

    Raises:
        ExportError, MissingExtraError, StorageError: as `sigmaquant.workflow.exporting.export_run`.
    """
    names = known_targets(to)
    folder = Path(run) / FOLDER if out is None else Path(out)
    options = options or ExportOptions()
    plans = _loaded(model, run, data, examples, folder, dict.fromkeys(names, options), task)
    networks = {plan: subject.network for plan, subject in plans.subjects.items()}
    models = {plan: options.held(subject.reference.model) for plan, subject in plans.subjects.items()}
    with all_or_none(folder) as staging:
        for name in names:
            write_plans(name, networks, models, staging, options)
    files = {(name, number): folder / plan_target(name, number).file for name in names for number in range(len(models))}
    known = {key: Written(options, digest_of(path)) for key, path in files.items()}
    return _verified(plans, files, known, folder, Path(run), progress)


def verify_plans(
    model: nn.Module,
    path: str | Path,
    data: Any,
    *,
    task: Task | str | None = None,
    examples: int | None = None,
    progress: Progress | None = None,
) -> tuple[Verification, ...]:
    """Verify the files of a run with several plans again.

    Args:
        model: the trained float model.
        path: the run directory, its export folder, or one file in it.
        data: as for `export_plans`.
        task: as for `export_plans`.
        examples: as for `export_plans`.
        progress: display.

    Raises:
        ExportError: there is no file of the known kinds, or the integers that the files hold compute something else
            than the quantized network.
    """
    path = Path(path)
    run = run_with_plans(path) or path
    folder = run / FOLDER
    count = len(read_plans(RunFiles(run).nested_path))
    every = {(name, number): folder / plan_target(name, number).file for name in TARGETS for number in range(count)}
    files = {key: file for key, file in every.items() if file.exists()}
    if path.name in {file.name for file in every.values()}:
        files = {key: file for key, file in files.items() if file.name == path.name}
    if not files:
        raise ExportError(f"{path} holds no exported file in its folder {FOLDER!r}. Write some: `sigmaquant export`.")
    known = dict.fromkeys(files, Written())
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        numbers = {item.name: number for number, item in enumerate(read_plans(RunFiles(run).nested_path))}
        for item in json.loads((folder / REPORT).read_text(encoding="utf-8"))["artifacts"]:
            key = item["target"], numbers[item["plan"]]
            if key in known:
                known[key] = Written(ExportOptions(**item["options"]), item.get("sha256"))
    options = {name: known[name, number].options for name, number in files}
    plans = _loaded(model, run, data, examples, folder, options, task)
    return _verified(plans, files, known, folder, run, progress)


@dataclass(frozen=True)
class _Plans:
    """What is exported or verified: every plan by its name, from the largest to the smallest."""

    subjects: Mapping[str, Subject]


def _loaded(
    model: nn.Module,
    run: str | Path,
    data: Any,
    examples: int | None,
    folder: Path,
    options: Mapping[str, ExportOptions],
    task: Task | str | None,
) -> _Plans:
    own = task_of_run(run, task)
    given, path = read_inputs(data, keys_of(model, own), examples), RunFiles(run).nested_path
    model = read_copy(model).cpu().eval()
    subjects = {}
    for number, item in enumerate(read_plans(path)):
        network = load_nested(model, given[0], path, number)
        subjects[item.name] = subject_of(model, network, given, own, folder, options)
    return _Plans(subjects)


def _verified(
    plans: _Plans,
    files: Mapping[tuple[str, int], Path],
    written: Mapping[tuple[str, int], Written],
    folder: Path,
    run: Path,
    progress: Progress | None,
) -> tuple[Verification, ...]:
    """The verdicts, which are kept beside the files."""
    names, subjects = list(plans.subjects), list(plans.subjects.values())
    first = subjects[0]
    costs = IdealCosts(first.network.graph)
    with torch.no_grad():
        float_ms = float_latency_ms(first.source)
    verdicts, progress = [], progress or NullProgress()
    with progress_task(progress, "verifying", len(files)):
        for (kind, number), path in files.items():
            subject, own = subjects[number], written[kind, number]
            assert subject.network.plan is not None, "a loaded network has one"
            ideal = costs.cost(subject.network.plan).total_bytes
            reference, source = subject.of(kind, own.options)
            verdict = verify_file(kind, path, reference, source, own, ideal, float_ms, plan_target(kind, number))
            verdict = replace(verdict, integers=subject.integers, plan=names[number])
            log.info("%s, plan %s: %s", path, names[number], "verified" if verdict.passed else "FAILED")
            verdicts.append(verdict)
            progress.advance(1)
    document = {
        "examples": first.reference.examples,
        "checkpoint_sha256": checkpoint_digest(RunFiles(run)),
        "integers": asdict(first.integers),
        "artifacts": [record_of(verdict, written[key].options) for verdict, key in zip(verdicts, files, strict=True)],
    }
    try:
        keep(document, folder, run)
    except StorageError as error:
        log.warning("the verdict is not kept: %s", error)
    return tuple(verdicts)
