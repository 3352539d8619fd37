"""Run directories -> the report's document. Reads only; needs no model, no data and no lock."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from math import sqrt
from pathlib import Path
from typing import Any

from sigmaquant.errors import RunDirectoryError, SigmaQuantError
from sigmaquant.hardware.costs import FLOAT_BITS, packed_bytes
from sigmaquant.json_text import path_text
from sigmaquant.report.document import (
    MEASURES,
    Artifact,
    Artifacts,
    Config,
    Costs,
    Coverage,
    Fidelity,
    LayerRow,
    Noise,
    Picture,
    Pictures,
    Plan,
    Report,
    Result,
    RunReport,
    Step,
    StepRow,
)
from sigmaquant.report.layer_records import LayerCosts, LayerRecord, LayersDocument, read_layers
from sigmaquant.runs.documents import parse
from sigmaquant.runs.files import RunFiles, read_document

EXPORT_FOLDER = "export"
VERIFICATION = "verification.json"

_FLOAT_MEASURES = ("bytes", "weight_bytes", "bops")
"""What a float layer has; the other measures are compared with `LayerRecord.reference`."""


def gather(paths: Sequence[str | Path]) -> Report:
    """What the files of some runs say.

    Args:
        paths: run directories, finished or not, each once.

    Raises:
        RunDirectoryError: no run directory, or a damaged file in one.
        SigmaQuantError: no run, or one given twice.
    """
    folders = [Path(path) for path in paths]
    if not folders:
        raise SigmaQuantError("a report needs at least one run directory.")
    resolved = [folder.resolve() for folder in folders]
    for number, folder in enumerate(resolved):
        if folder in resolved[:number]:
            raise SigmaQuantError(f"the run {paths[number]} is given twice. Give each run once.")
    names = [path_text(label) for label in labels(resolved)]
    runs = [gather_run(folder, name) for folder, name in zip(folders, names, strict=True)]
    return Report(runs=tuple(with_front(runs)), notes=comparability(runs))


def labels(folders: Sequence[Path]) -> list[str]:
    """The shortest ends of absolute paths that tell them apart.

    Example:
        >>> labels([Path("/a/x/run"), Path("/a/y/run"), Path("/a/y/other")])
        ['x/run', 'y/run', 'other']
    """

    def end(folder: Path, parts: int) -> str:
        return "/".join(folder.parts[-parts:])

    result = []
    for folder in folders:
        parts = 1
        while parts < len(folder.parts) and any(other != folder and end(other, parts) == end(folder, parts)
                                                for other in folders):  # fmt: skip
            parts += 1
        result.append(end(folder, parts) or str(folder))
    return result


def gather_run(path: Path, label: str) -> RunReport:
    """One run's part of the report.

    Raises:
        RunDirectoryError: no run directory, or a damaged file in it.
    """
    files = RunFiles(path)
    config = parse(Config, files.read_config(), files.config_path)
    settings, budget, hardware = config.settings, config.budget, config.hardware
    steps = [parse(Step, line, files.trajectory_path) for line in files.read_trajectory()]
    result = parse(Result, files.read_result(), files.result_path) if files.finished else None
    missing: list[str] = []
    described = _layers_document(files, result, missing)
    artifacts, integers = _artifacts(files, result, missing)
    shown = _pictures(files)
    common: dict[str, Any] = {
        "label": label,
        "strategy": settings.strategy,
        "objective": settings.objective,
        "post_training": settings.post_training,
        "budget": {key: value for key, value in budget.items() if key != "size_counts"},
        "size_counts": str(budget.get("size_counts", "total")),
        "hardware": hardware if isinstance(hardware, str) else str(hardware.get("name", "")),
        "metric": config.metric,
        "percent": config.metric == "top1" if config.task is None else config.task.share,
        "float_sha256": config.float_sha256,
        "seed": settings.seed,
        "validation_examples": config.validation_examples,
        "search_examples": settings.search_examples,
        "sigma_variant": settings.sigma if described is None else described.sigma,
        "sensitivity": settings.sensitivity,
        "limits": _limits(result, steps, missing),
        "zones": next((step.zones for step in steps if step.zones is not None), None),
        "steps": tuple(_step_row(step, settings.strategy) for step in steps),
        "artifacts": artifacts,
        "integers": integers,
        "pictures": shown,
    }
    if common["zones"] is None and any(step.move == "cluster" for step in steps):
        missing.append("the buffer zones of phase 1: the run was made before they were recorded")
    if result is None:
        missing.append("scores, costs and limits in the end: the run has not finished")
        last = next((step for step in reversed(steps) if step.accepted), None)
        bits = {} if last is None else last.weights
        layers = tuple(LayerRow(name=name, bits=value) for name, value in bits.items())
        return RunReport(
            **common,
            finished=False,
            status="unfinished",
            cost=None if last is None else last.cost,
            mean_bits=None if last is None else last.mean_bits,
            layers=layers,
            missing=tuple(missing),
            seconds=steps[-1].seconds if steps else None,
        )
    rows = _rows(result, described)
    return RunReport(
        **common,
        finished=True,
        status=result.status,
        violations=result.violations,
        scores=result.scores,
        float_scores=result.float_scores,
        noise=_noise(result, config.validation_examples if common["percent"] else None),
        cost=result.cost,
        reference=result.reference,
        reference_bits=None if described is None else described.reference_bits,
        reference_cost=_reference_cost(described),
        control=result.control,
        mean_bits=_mean_bits(rows),
        layers=rows,
        plans=plans_with_front(result, rows),
        outside=_outside(rows, result.cost),
        coverage=result.coverage,
        float_operators=result.float_operators,
        notes=(*result.notes, *(() if described is None else described.notes)),
        missing=tuple(missing),
        seconds=result.seconds,
        sigmaquant=result.sigmaquant,
        torch=result.torch,
    )


def _noise(result: Result, examples: int | None) -> Noise:
    """Standard errors of the scores.

    Args:
        result: of the run.
        examples: number of validation examples where the metric is a share of them.
    """
    difference, score = result.noise.get("float"), result.float_scores.validation
    one = sqrt(max(0.0, score * (1 - score)) / examples) if examples else None
    if result.scores.test is None:
        return Noise(validation=one if difference is None else difference)
    return Noise(validation=one, test=difference)


def _layers_document(files: RunFiles, result: Result | None, missing: list[str]) -> LayersDocument | None:
    if result is None:
        return None
    if not files.layers_path.exists():
        missing.append(
            "shapes, σ, divergence, costs and histograms of the layers: the run has no layers.json, since it was made "
            "by an earlier release. Run it again to have them"
        )
        return None
    found = read_layers(files.layers_path)
    if {row.name: row.bits for row in found.layers} != result.weights:
        raise RunDirectoryError(f"{files.layers_path} belongs to another plan than {files.result_path}. Run it again.")
    return found


def _pictures(files: RunFiles) -> tuple[Picture, ...]:
    path = files.pictures_path
    return parse(Pictures, read_document(path), path).pictures if files.finished and path.exists() else ()


def _artifacts(
    files: RunFiles, result: Result | None, missing: list[str]
) -> tuple[tuple[Artifact, ...], Fidelity | None]:
    """The verified files, and how their integers compare with the quantized network."""
    path = files.path / EXPORT_FOLDER / VERIFICATION
    if not path.exists():
        return (), None
    document = read_document(path)
    found = parse(Artifacts, document, path)
    made_from = document.get("checkpoint_sha256")
    if made_from is None:
        missing.append("whether the exported files belong to this network: they were verified by an earlier release")
        stale = result is None
    else:
        stale = result is None or made_from != checkpoint_digest(files)
    if found.integers is None and found.artifacts:
        missing.append(
            "whether the files' integers compute what the quantized network does: `sigmaquant verify` compares them"
        )
    files_shown = tuple(
        item.model_copy(
            update={"path": Path(item.path).name + (f" ({item.plan})" if item.plan else ""), "stale": stale}
        )
        for item in found.artifacts
    )
    return files_shown, None if stale else found.integers


def checkpoint_digest(files: RunFiles) -> str | None:
    """SHA-256 of a run's checkpoint: which network it is. None where there is none.

    Raises:
        RunDirectoryError: it cannot be read.
    """
    try:
        with files.checkpoint_path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RunDirectoryError(f"{files.checkpoint_path} cannot be read ({error}).") from error


def _limits(result: Result | None, steps: Sequence[Step], missing: list[str]) -> dict[str, float]:
    if result is not None and result.limits:
        return result.limits
    found = next((step.limits for step in steps if step.limits), {})
    if not found:
        missing.append("the limits in absolute numbers: the run did not record them")
    return found


def _step_row(step: Step, strategy: str) -> StepRow:
    stage = "final" if step.stage == "done" else step.stage
    if stage == "phase1" and strategy != "sigma":
        stage = strategy
    return StepRow(
        **step.model_dump(include={"step", "move", "accepted", "accuracy", "divergence", "mean_bits", "seconds"}),
        stage="start" if step.move == "start" else stage,
        changed=sum(name in step.weights for name in step.changes),
        cost=step.cost,
        violations=step.violations,
    )


def _rows(result: Result, described: LayersDocument | None) -> tuple[LayerRow, ...]:
    uniform = {} if result.control is None else result.control.weights
    if described is not None:
        return tuple(_row(record, uniform.get(record.name)) for record in described.layers)
    rows = []
    for name, bits in result.weights.items():
        elements = _elements(name, result.coverage)
        before: dict[str, float | None] = {}
        after: dict[str, float | None] = {}
        if elements is not None:
            before, after = {"weight_bytes": elements * FLOAT_BITS // 8}, {"weight_bytes": packed_bytes(elements, bits)}
        rows.append(
            LayerRow(
                name=name, bits=bits, uniform_bits=uniform.get(name), elements=elements, before=before, after=after
            )
        )
    return tuple(rows)


def _elements(name: str, coverage: Sequence[Coverage]) -> int | None:
    """Number of a layer's weights: its parameter is the layer itself, or its ``weight``."""
    return next((row.elements for row in coverage if row.parameter in (name, f"{name}.weight")), None)


def _row(record: LayerRecord, uniform_bits: int | None) -> LayerRow:
    shared = ("name", "bits", "kind", "weight_shape", "input_shape", "output_shape", "elements", "macs", "calls",
              "midrise", "activation_bits", "sigma", "divergence", "sensitivity", "histogram")  # fmt: skip
    floats, after = _measures(record.float32), _measures(record.cost)
    reference = {} if record.reference is None else _measures(record.reference)
    cost = record.cost
    parts = {"mac": cost.mac_energy_pj, "on_chip": cost.on_chip_energy_pj, "dram": cost.dram_energy_pj}
    return LayerRow(
        **{name: getattr(record, name) for name in shared},
        uniform_bits=uniform_bits,
        before={name: floats[name] if name in _FLOAT_MEASURES else reference.get(name) for name in MEASURES},
        after=after,
        energy_parts=parts,
        interpolated=cost.interpolated,
    )


def _measures(cost: LayerCosts) -> dict[str, float | None]:
    total = cost.weight_bytes + cost.scale_bytes + cost.bias_bytes
    return {"bytes": total, **{name: getattr(cost, name) for name in MEASURES if name != "bytes"}}


def _reference_cost(described: LayersDocument | None) -> Costs | None:
    total = None if described is None else described.reference_total
    return None if total is None else Costs.model_validate(total)


def _mean_bits(rows: Sequence[LayerRow]) -> float | None:
    known = [(row.elements, row.bits) for row in rows if row.elements is not None]
    total = sum(elements for elements, _ in known)
    return sum(elements * bits for elements, bits in known) / total if total and len(known) == len(rows) else None


def _outside(rows: Sequence[LayerRow], cost: Costs) -> dict[str, float]:
    """What the whole network costs besides its layers, where both are known."""
    found = {}
    for measure in MEASURES:
        total = getattr(cost, "total_bytes" if measure == "bytes" else measure)
        values = [row.after.get(measure) for row in rows]
        given = [value for value in values if value is not None]
        if total is not None and given and len(given) == len(values):
            found[measure] = max(0.0, total - sum(given))
    return found


def cost_of(cost: Costs | None, measure: str) -> float | None:
    """A whole network's cost by one of `MEASURES`, or ``"ram_bytes"``."""
    return None if cost is None else getattr(cost, "total_bytes" if measure == "bytes" else measure)


def with_front(runs: Sequence[RunReport]) -> list[RunReport]:
    """The same runs, each with the measures by which it lies on the frontier: cost against the validation score.

    The validation score, since the test data decide nothing.
    """
    marked = []
    for run in runs:
        front = [
            measure
            for measure in (*MEASURES, "ram_bytes")
            if _point(run, measure) is not None and not any(_dominates(other, run, measure) for other in runs)
        ]
        marked.append(run.model_copy(update={"front": tuple(front)}))
    return marked


def plans_with_front(result: Result, rows: Sequence[LayerRow]) -> tuple[Plan, ...]:
    """A run's plans with their mean bits, each with the measures by which it lies on the plans' frontier."""
    elements = {row.name: row.elements or 0 for row in rows}
    total = sum(elements.values())

    def beaten(plan: Plan, measure: str, cost: float) -> bool:
        score = plan.scores.validation or 0.0
        for other in result.plans:
            theirs, their_score = cost_of(other.cost, measure), other.scores.validation or 0.0
            if (
                theirs is not None
                and theirs <= cost
                and their_score >= score
                and (theirs, their_score) != (cost, score)
            ):
                return True
        return False

    marked = []
    for plan in result.plans:
        costs = {measure: cost_of(plan.cost, measure) for measure in (*MEASURES, "ram_bytes")}
        front = [name for name, cost in costs.items() if cost is not None and not beaten(plan, name, cost)]
        mean = sum(bits * elements.get(name, 0) for name, bits in plan.weights.items()) / total if total else None
        marked.append(plan.model_copy(update={"front": tuple(front), "mean_bits": mean}))
    return tuple(marked)


def _point(run: RunReport, measure: str) -> tuple[float, float] | None:
    cost, score = cost_of(run.cost, measure), run.scores.validation
    return (cost, score) if run.finished and cost is not None and score is not None else None


def _dominates(other: RunReport, run: RunReport, measure: str) -> bool:
    one, two = _point(other, measure), _point(run, measure)
    return one is not None and two is not None and one[0] <= two[0] and one[1] >= two[1] and one != two


def comparability(runs: Sequence[RunReport]) -> tuple[str, ...]:
    """What to mind when the runs are compared."""
    notes = []
    for key, text in (
        ("float_sha256", "the runs are of different float networks"),
        ("hardware", "the runs are on different hardware profiles: energy, latency and cycles do not compare"),
        ("metric", "the runs are scored by different metrics"),
        ("validation_examples", "the runs were judged on different numbers of validation examples"),
    ):
        if len({getattr(run, key) for run in runs}) > 1:
            notes.append(text)
    return tuple(notes)
