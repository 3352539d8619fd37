"""Results as tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sigmaquant.budget import Cost
from sigmaquant.export.verification import Verification
from sigmaquant.hardware.profile import Compute, HardwareProfile
from sigmaquant.report.document import Config, Result
from sigmaquant.runs import RunFiles
from sigmaquant.runs.documents import parse
from sigmaquant.search.feasibility import format_cost
from sigmaquant.sweeping import Sweep
from sigmaquant.terminal.grid import Column, Grid
from sigmaquant.units import counted, format_bytes, format_count, format_seconds
from sigmaquant.workflow.inspection import ModelReport
from sigmaquant.workflow.results import QuantizationResult, Scores


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


_DEVICE = {"ram_bytes": "RAM", "energy_pj": "energy", "latency_ms": "latency"}


def _cost(resource: str, value: float | None) -> str:
    return "–" if value is None else format_cost(resource, value)


def _numbers(*names: str) -> tuple[Column, ...]:
    return tuple(Column(name) for name in names)


def _words(*names: str) -> tuple[Column, ...]:
    return tuple(Column(name, words=True) for name in names)


def _shape(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape)) or "scalar"


def _uniform(weights: Mapping[str, int]) -> str:
    """The uniform control by its bitwidths; pinned layers may have others."""
    return f"uniform {'/'.join(map(str, sorted(set(weights.values()))))} b"


def summary(result: QuantizationResult) -> Grid:
    """Float, uniform control and quantized network beside each other."""
    given = [name for name in _DEVICE if result.cost.resource(name) is not None]
    titles = ("validation", "test", "weights", "scales", "other", "total", "smaller", "BOPs")

    def row(title: str, scores: Scores, cost: Cost) -> tuple[str, ...]:
        return (
            title,
            _number(scores.validation),
            _number(scores.test),
            format_bytes(cost.weight_bytes),
            format_bytes(cost.scale_bytes),
            format_bytes(cost.other_bytes),
            format_bytes(cost.total_bytes),
            f"{result.reference.total_bytes / cost.total_bytes:.2f}×",
            "–" if cost.bops is None else format_count(cost.bops),
            *(_cost(name, cost.resource(name)) for name in given),
        )

    rows = [row("float32", result.float_scores, result.reference)]
    if result.control is not None:
        training = ", same training" if result.trained_examples else ""
        control = f"{_uniform(result.control.plan.weights)}{training}"
        rows.append(row(control, result.control.scores, result.control.cost))
    if result.control_above is not None:
        above = result.control_above
        rows.append(row(f"{_uniform(above.plan.weights)}, beyond the budget", above.scores, above.cost))
    rows.append(
        row("quantized" if result.returned == "search" else "quantized: the control", result.scores, result.cost)
    )
    notes = [
        f"not met: {name}, {100 * excess:.2f} % off its limit ({result.limits[name]:.6g})"
        for name, excess in result.violations.items()
    ]
    notes += list(result.notes)
    if result.float_operators:
        notes.append(f"{len(result.float_operators)} operators stay in float, the first is {result.float_operators[0]}")
    notes.append(f"took {format_seconds(result.seconds)}")
    columns = (Column("network", words=True), *_numbers(*titles, *(_DEVICE[name] for name in given)))
    return Grid(f"Budget {result.status}", columns, tuple(rows), tuple(notes), turned=True)


_SMALL = ("bias", "BatchNorm, ")


def _without_small(rows: Sequence[tuple[str, int, str, str]]) -> tuple[tuple[str, ...], ...]:
    """Parameters with number of values, bitwidth and reason; biases and those of BatchNorm counted in one line."""
    small = [row for row in rows if row[3].startswith(_SMALL)]
    shown = [(name, f"{count:,}", bits, reason) for name, count, bits, reason in rows if not reason.startswith(_SMALL)]
    if small:
        norms = sum(reason != "bias" for *_, reason in small)
        biases = len(small) - norms
        kinds = [f"{norms} of BatchNorm"] if norms else []
        kinds += [counted(biases, "bias", "biases")] if biases else []
        values = f"{sum(row[1] for row in small):,}"
        shown.append((", ".join(kinds), values, "float", "absorbed into layers, or kept at 32 bits"))
    return tuple(shown)


def operating_points(result: QuantizationResult) -> list[Grid]:
    """Energy and latency at each operating point of the profile; no table where it has none."""
    if not result.cost.operating_points:
        return []
    costs = [("quantized", result.cost), *([("control", result.control.cost)] if result.control is not None else [])]
    titles = [f"{what}, {who}" for who, _ in costs for what in ("energy", "latency")]
    rows = tuple(
        (
            point.name,
            *(
                _cost(name, cost.resource(f"{name}@{point.name}"))
                for _, cost in costs
                for name in ("energy_pj", "latency_ms")
            ),
        )
        for point in result.cost.operating_points
    )
    return [Grid("Operating points", (Column("operating point", words=True), *_numbers(*titles)), rows)]


def plans(result: QuantizationResult) -> Grid:
    """All plans that share their weights, each beside the same plan for itself."""
    tested = result.scores.test is not None
    given = [name for name in _DEVICE if result.cost.resource(name) is not None]
    heads = ("validation", "alone", *(("test", "test alone") if tested else ()))
    columns = (
        *_words("plan", "budget"),
        *_numbers(*heads, "weights", "total", "smaller", "BOPs", *(_DEVICE[name] for name in given)),
    )
    rows = []
    for row in result.plans:
        alone = row.alone
        scores = [_number(row.scores.validation), _number(None if alone is None else alone.validation)]
        if tested:
            scores += [_number(row.scores.test), _number(None if alone is None else alone.test)]
        rows.append(
            (
                row.name,
                "met" if row.met else "not met",
                *scores,
                format_bytes(row.cost.weight_bytes),
                format_bytes(row.cost.total_bytes),
                f"{result.reference.total_bytes / row.cost.total_bytes:.2f}×",
                "–" if row.cost.bops is None else format_count(row.cost.bops),
                *(_cost(name, row.cost.resource(name)) for name in given),
            )
        )
    notes = ("alone: the same bitwidths rounded or trained for that plan only",)
    return Grid("Plans", columns, tuple(rows), notes, turned=True)


def plan_layers(result: QuantizationResult) -> Grid:
    """The coverage table with every plan's bitwidths."""
    rows = []
    for number, covered in enumerate(result.coverage):
        bits = "\t".join(str(row.coverage[number].bits or "float") for row in result.plans)
        rows.append((covered.parameter, covered.elements, bits, covered.reason))
    columns = (
        *(Column("parameter", words=True), Column("values")),
        *(Column(row.name, breaks=True) for row in result.plans),
        Column("not quantized because", words=True),
    )
    several = len(result.plans)
    cells = tuple(
        (name, values, *(bits.split("\t") if "\t" in bits else [bits] * several), reason)
        for name, values, bits, reason in _without_small(rows)
    )
    return Grid("Bitwidths", columns, cells)


def layers(result: QuantizationResult) -> Grid:
    """The coverage table: every parameter with its bitwidth, or why it is not quantized."""
    rows = [(row.parameter, row.elements, str(row.bits or "float"), row.reason) for row in result.coverage]
    columns = (
        Column("parameter", words=True),
        *_numbers("values", "bits"),
        Column("not quantized because", words=True),
    )
    return Grid("Bitwidths", columns, _without_small(rows))


def scores(values: Mapping[str, float], metric: str) -> Grid:
    """What `evaluate` found, by the name of the metric."""
    rows = tuple((name, _number(values[name]), f"{values['examples']:.0f}") for name in ("float", "quantized"))
    return Grid("", (Column("network", words=True), *_numbers(metric, "examples")), rows)


def inspection(report: ModelReport) -> list[Grid]:
    """Layers with their statistics and bytes; then what stays in float."""
    bits = report.bitwidths
    columns = (
        *(Column("layer", words=True), Column("kind", words=True)),
        *_numbers("weight", "values", "MACs", "input", "output", "σ"),
        *_numbers(*(f"D({b})" for b in bits), *(f"bytes at {b}" for b in bits)),
    )
    rows = tuple(
        (
            row.spec.name,
            row.spec.kind,
            _shape(row.spec.weight_shape),
            f"{row.spec.elements:,}",
            format_count(row.spec.macs),
            _shape(row.spec.input_shape),
            _shape(row.spec.output_shape),
            f"{row.sigma:.4f}",
            *(f"{row.divergence[b]:.4f}" for b in bits),
            *(f"{row.weight_bytes[b]:,}" for b in bits),
        )
        for row in report.layers
    )
    table = Grid(f"{len(report.layers)} layers, fingerprint {report.graph.fingerprint}", columns, rows)
    given = [(p.name, p.elements, "", p.reason) for p in report.graph.float_parameters]
    floats = [(name, values, reason) for name, values, _, reason in _without_small(given)]
    for place in report.graph.float_places:
        line = f": {place.line}" if place.line else ""
        floats.append((str(place), "", f"operator without an integer form{line}"))
    kept = Grid(
        "Not quantized",
        (Column("parameter", words=True), Column("values"), Column("because", words=True)),
        tuple(floats),
    )
    return [table, *_device_tables(report), kept, *_feasible(report)]


def _feasible(report: ModelReport) -> list[Grid]:
    """Which kinds of files can hold the network, and why not."""
    if not report.files:
        return []
    rows = tuple((found.target, "yes" if found.possible else "no", found.reason) for found in report.files)
    return [Grid("Files", _words("file", "can be written", "because"), rows)]


def _device_tables(report: ModelReport) -> list[Grid]:
    """Energy, latency and cycles of every layer at each bitwidth, as far as the profile gives them."""
    if not report.hardware:
        return []
    first = next(iter(report.hardware.values()))
    wanted = {
        name: title
        for name, title in (("energy_pj", "energy"), ("latency_ms", "latency"), ("cycles", "cycles"))
        if getattr(first.total, name) is not None
    }
    titles = [f"{title} at {bits}" for title in wanted.values() for bits in report.bitwidths]
    rows = []
    for row in report.layers:
        cells = []
        for name in wanted:
            for bits in report.bitwidths:
                cost = row.hardware[bits]
                cells.append(_cost(name, getattr(cost, name)) + (" *" if cost.interpolated else ""))
        rows.append((row.spec.name, *cells))
    totals = [_cost(name, getattr(report.hardware[b].total, name)) for name in wanted for b in report.bitwidths]
    what = "peak activation RAM" if first.total.flash_bytes is None else "RAM of the C program"
    notes = [f"{what} {format_bytes(float(first.total.ram_bytes or 0))}"]
    if any(cost.interpolated for cost in report.hardware.values()):
        notes.append("* interpolated between measured bitwidths")
    return [
        Grid(
            f"On {first.profile}, activations at 8 bits",
            (Column("layer", words=True), *_numbers(*titles)),
            (*rows, ("network", *totals)),
            tuple(notes),
            last=True,
        )
    ]


def verifications(verdicts: Sequence[Verification]) -> Grid:
    """Every exported file: whether it computes what the reference does, its bytes and its speed."""
    compared = {verdict.plan: verdict.integers for verdict in verdicts if verdict.integers is not None}
    memory = any(verdict.ram_bytes is not None for verdict in verdicts)
    rows: list[tuple[str, ...]] = []
    for plan, integers in compared.items():
        ours = integers.agreement
        rows.append(
            (
                f"(integers beside the network{f', {plan}' if plan else ''})",
                "verified",
                f"{100 * ours.decisions:.2f} %",
                "–",
                f"{100 * ours.equal:.2f} %",
                f"{ours.largest_steps} steps",
                *("", "", *(("",) if memory else ()), "–"),
            )
        )
    for verdict in verdicts:
        found, deployed = verdict.agreement, verdict.as_deployed
        failed = "FAILED" if verdict.problem else f"FAILED (needs {verdict.demand})"
        rows.append(
            (
                f"{verdict.path}{f' ({verdict.plan})' if verdict.plan else ''}",
                ("verified" if verdict.passed else failed) + (", OVER A LIMIT" if verdict.over else ""),
                "–" if found is None else f"{100 * found.decisions:.2f} %",
                "–" if deployed is None else f"{100 * deployed.decisions:.2f} %",
                "–" if found is None else f"{100 * found.equal:.2f} %",
                "–" if found is None else f"{found.largest_steps} steps",
                f"{verdict.real_bytes:,}",
                f"{verdict.ideal_bytes:,}",
                *(("–" if verdict.ram_bytes is None else f"{verdict.ram_bytes:,}",) if memory else ()),
                "–" if verdict.latency_ratio is None else f"{verdict.latency_ratio:.2f}",
            )
        )
    lines = [v.problem.rstrip(".") for v in verdicts if v.problem]
    lines += [f"{v.path} is over a limit: {v.over}" for v in verdicts if v.over]
    lines += [f"{v.path}: {v.first_difference}" for v in verdicts if v.first_difference]
    lines += [f"{v.path}: {note}" for v in verdicts for note in (*v.notes, v.deployment) if note]
    examples = next((v.agreement.examples for v in verdicts if v.agreement is not None), None)
    if examples is not None:
        lines.append(f"{examples} examples against the integer reference")
    for integers in list(compared.values())[:1]:
        lines.append(
            f"{integers.operators} of its operators give what the quantized network rounds, to "
            f"{integers.largest_beyond:.3f} steps on {integers.examples} examples; outputs are "
            f"{integers.agreement.mean_steps:.2f} steps apart in the mean"
        )
    columns = (
        *_words("file", "verdict"),
        *_numbers("decided alike", "as deployed", "codes equal", "largest", "bytes", "ideal"),
        *_numbers(*(("RAM",) if memory else ()), "time / float"),
    )
    return Grid("Exported files", columns, tuple(rows), tuple(lines), turned=True)


def profiles(found: Sequence[HardwareProfile]) -> Grid:
    """Profiles by name."""
    rows = tuple((item.name, item.description, item.method.date) for item in found)
    return Grid("", (*_words("profile", "what it is"), Column("made")), rows)


def profile(found: HardwareProfile) -> list[Grid]:
    """How a profile was made, and its MACs."""
    facts = [("description", found.description)]
    if found.technology is not None:
        t = found.technology
        facts.append(("technology", f"{t.library}, {t.voltage_v:g} V, {t.corner}, {t.layout}"))
        facts.append(("Liberty SHA-256", t.liberty_sha256))
    if found.compute is not None:
        facts.append(("clock", f"{found.compute.clock_mhz:g} MHz, {found.compute.parallel_macs} MACs at once"))
        unit = found.compute.unit
        if unit is not None:
            facts.append(
                (
                    "unit",
                    f"{unit.name} ({unit.organisation.replace('_', ' ')}): {unit.area_um2:,.0f} µm², "
                    f"shortest period {unit.min_period_ps:,.0f} ps, leakage {unit.leakage_nw:,.1f} nW",
                )
            )
    memory = found.memory
    facts.append(("weights live in", memory.weights_in.replace("_", "-")))
    for macro in memory.on_chip:
        facts.append(("memory", f"{macro.macro}: read {macro.read_energy_fj_per_bit:.1f} fJ a bit"))
    if memory.dram is not None:
        facts.append(("DRAM", f"{memory.dram.read_energy_fj_per_bit:,.0f} fJ a bit ({memory.dram.source})"))
    facts.append(("baseline", found.baseline or "–"))
    facts.append(("made", f"{found.method.date}: {found.method.command}"))
    facts += [("note", note) for note in found.method.notes]
    table = Grid(found.name, _words("", ""), tuple(facts), header=False)
    return [table, *([] if found.compute is None else [_entries(found.compute)])]


def _entries(compute: Compute) -> Grid:
    rows = tuple(
        (
            entry.layer or "all",
            str(entry.w_bits),
            str(entry.a_bits),
            "–" if entry.digits_per_mac is None else f"{entry.digits_per_mac:.3f}",
            f"{entry.cycles_per_mac:.3f}",
            "–" if entry.energy_per_mac_fj is None else f"{entry.energy_per_mac_fj:,.1f}",
            f"{entry.vectors:,} vectors" if entry.verified else "–",
        )
        for entry in compute.table
    )
    titles = ("weight bits", "activation bits", "digits", "cycles", "energy fJ", "verified")
    return Grid("One MAC", (Column("layers", words=True), *_numbers(*titles)), rows)


def read_runs(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """Results of finished runs.

    Raises:
        RunDirectoryError: no run directory, damaged, or not finished.
    """
    rows = []
    for path in paths:
        files = RunFiles(path)
        config = files.read_config()
        parse(Config, config, files.config_path)
        files.check_finished()
        document = files.read_result()
        result = parse(Result, document, files.result_path)
        rows.append({"run": str(path), "config": config, **document, **result.model_dump(mode="json")})
    return rows


def comparison(rows: Sequence[Mapping[str, Any]]) -> list[Grid]:
    """Runs side by side, each above its uniform control where there is one: results, then every layer's bitwidth."""
    columns = (
        *_words("run", "strategy", "budget", "status"),
        *_numbers("validation", "test", "float test", "weights", "total", "time"),
    )
    cells: list[tuple[str, ...]] = []
    plans: list[tuple[str, Mapping[str, int]]] = []
    for row in rows:
        budget = {k: v for k, v in row["config"]["budget"].items() if k != "size_counts"}
        cells.append(
            (
                row["run"],
                row["config"]["settings"]["strategy"],
                ", ".join(f"{k} {v}" for k, v in budget.items()),
                row["status"],
                _number(row["scores"]["validation"]),
                _number(row["scores"]["test"]),
                _number(row["float_scores"]["test"]),
                format_bytes(row["cost"]["weight_bytes"]),
                format_bytes(row["cost"]["total_bytes"]),
                format_seconds(row["seconds"]),
            )
        )
        plans.append((row["run"], row["weights"]))
        control = row.get("control")
        if control is not None:
            cells.append(
                (
                    f"  {_uniform(control['weights'])}",
                    *("", "", ""),
                    _number(control["scores"]["validation"]),
                    _number(control["scores"]["test"]),
                    "",
                    format_bytes(control["cost"]["weight_bytes"]),
                    format_bytes(control["cost"]["total_bytes"]),
                    "",
                )
            )
            plans.append(("uniform", control["weights"]))
    metrics = {row["run"]: row["config"].get("metric", "top1") for row in rows}
    notes: tuple[str, ...] = ()
    if len(set(metrics.values())) > 1:
        notes = ("scored by different metrics: " + ", ".join(f"{r} by {m}" for r, m in metrics.items()),)
    layers = dict.fromkeys(name for _, weights in plans for name in weights)
    bits = Grid(
        "Weight bits",
        (Column("layer", words=True), *(Column(title, breaks=True) for title, _ in plans)),
        tuple((name, *(str(weights.get(name, "–")) for _, weights in plans)) for name in layers),
    )
    return [Grid("Runs", columns, tuple(cells), notes, turned=True), bits]


def frontier(found: Sweep) -> Grid:
    """The runs of a sweep, loosest limit first."""
    knee = found.knee
    where = "no knee: fewer than three points on the front, or no bend" if knee is None else f"knee: {knee.budget}"
    strategies = len({point.strategy for point in found.points}) > 1
    if len(found.resources) > 1 or strategies:
        where = "runs that no other one beats in cost and score are not marked as beaten"
    given = [name for name in _DEVICE if any(getattr(point, name) is not None for point in found.points)]
    control = any(point.control_validation is not None for point in found.points)
    columns = (
        *_words(*(("strategy",) if strategies else ()), "budget", "status"),
        *_numbers("validation", "test", *(("uniform", "uniform test") if control else ()), "total", "smaller"),
        *_numbers(*(_DEVICE[name] for name in given)),
        Column("began from", words=True),
        *_numbers("trained on", "time"),
    )
    rows = []
    for point in found.points:
        marks = " (knee)" if point.knee else "" if point.on_front else " (beaten)"
        rows.append(
            (
                *((point.strategy,) if strategies else ()),
                point.budget,
                point.status + marks,
                _number(point.validation),
                _number(point.test),
                *((_number(point.control_validation), _number(point.control_test)) if control else ()),
                format_bytes(point.total_bytes),
                f"{point.reduction:.2f}×",
                *(_cost(name, getattr(point, name)) for name in given),
                point.started_from or "–",
                format_count(point.trained_examples),
                format_seconds(point.seconds),
            )
        )
    notes = tuple(f"{run} failed: {why}" for run, why in found.failed.items())
    return Grid(f"Frontier, {where}", columns, tuple(rows), notes, turned=True)


def sweep_document(found: Sweep) -> dict[str, Any]:
    """For JSON."""
    return {
        "sweep": str(found.path),
        "resources": list(found.resources),
        "met": found.met,
        "knee": None if found.knee is None else found.knee.run,
        "points": [asdict(point) for point in found.points],
        "failed": found.failed,
        "frontier": str(found.frontier_path),
        "report": None if found.report_path is None else str(found.report_path),
    }
