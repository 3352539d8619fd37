"""Results as tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from sigmaquant.budget import Cost
from sigmaquant.export.verification import Verification
from sigmaquant.hardware.profile import Compute, HardwareProfile
from sigmaquant.inspection import ModelReport
from sigmaquant.report.document import Config, Result
from sigmaquant.results import QuantizationResult
from sigmaquant.runs import RunFiles
from sigmaquant.runs.documents import parse
from sigmaquant.search.reach import format_cost
from sigmaquant.sweeping import Sweep
from sigmaquant.units import format_bytes, format_count, format_seconds


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


_DEVICE = {"ram_bytes": "RAM", "energy_pj": "energy", "latency_ms": "latency"}


def _cost(resource: str, value: float | None) -> str:
    return "–" if value is None else format_cost(resource, value)


def _shape(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape)) or "scalar"


def _uniform(weights: Mapping[str, int]) -> str:
    """The uniform control by its bitwidths; pinned layers may have others."""
    return f"uniform {'/'.join(map(str, sorted(set(weights.values()))))} b"


def summary(result: QuantizationResult) -> Table:
    """Float, uniform control and quantized network beside each other."""
    table = Table(title=f"Budget {result.status}", title_justify="left")
    given = [name for name in _DEVICE if result.cost.resource(name) is not None]
    titles = [_DEVICE[name] for name in given]
    for name in ("", "validation", "test", "weights", "scales", "other", "total", "smaller", "BOPs", *titles):
        table.add_column(name, justify="left" if not name else "right")

    def row(title: str, scores: Any, cost: Cost) -> None:
        table.add_row(
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

    row("float32", result.float_scores, result.reference)
    if result.control is not None:
        training = ", same training" if result.trained_examples else ""
        row(f"{_uniform(result.control.plan.weights)}{training}", result.control.scores, result.control.cost)
    if result.control_above is not None:
        above = result.control_above
        row(f"{_uniform(above.plan.weights)}, beyond the budget", above.scores, above.cost)
    row("quantized" if result.returned == "search" else "quantized: the control", result.scores, result.cost)
    notes = [
        f"not met: {name}, {100 * excess:.2f} % off its limit ({result.limits[name]:.6g})"
        for name, excess in result.violations.items()
    ]
    notes += list(result.notes)
    if result.float_operators:
        notes.append(f"{len(result.float_operators)} operators stay in float, the first is {result.float_operators[0]}")
    notes.append(f"took {format_seconds(result.seconds)}")
    table.caption = escape("; ".join(notes))
    table.caption_justify = "left"
    return table


def operating_points(result: QuantizationResult) -> list[Table]:
    """Energy and latency at each operating point of the profile; no table where it has none."""
    if not result.cost.operating_points:
        return []
    table = Table("operating point", title="Operating points", title_justify="left")
    rows = [("quantized", result.cost), *([("control", result.control.cost)] if result.control is not None else [])]
    for who, _ in rows:
        table.add_column(f"energy, {who}", justify="right")
        table.add_column(f"latency, {who}", justify="right")
    for point in result.cost.operating_points:
        costs = [
            _cost(name, cost.resource(f"{name}@{point.name}"))
            for _, cost in rows
            for name in ("energy_pj", "latency_ms")
        ]
        table.add_row(escape(point.name), *costs)
    return [table]


def plans(result: QuantizationResult) -> Table:
    """All plans that share their weights, each beside the same plan for itself."""
    table = Table(title="Plans", title_justify="left")
    tested = result.scores.test is not None
    given = [name for name in _DEVICE if result.cost.resource(name) is not None]
    heads = ["plan", "budget", "validation", "alone"] + (["test", "test alone"] if tested else [])
    for name in (*heads, "weights", "total", "smaller", "BOPs", *(_DEVICE[name] for name in given)):
        table.add_column(name, justify="left" if name in ("plan", "budget") else "right")
    for row in result.plans:
        alone = row.alone
        scores = [_number(row.scores.validation), _number(None if alone is None else alone.validation)]
        if tested:
            scores += [_number(row.scores.test), _number(None if alone is None else alone.test)]
        table.add_row(
            escape(row.name),
            "met" if row.met else "not met",
            *scores,
            format_bytes(row.cost.weight_bytes),
            format_bytes(row.cost.total_bytes),
            f"{result.reference.total_bytes / row.cost.total_bytes:.2f}×",
            "–" if row.cost.bops is None else format_count(row.cost.bops),
            *(_cost(name, row.cost.resource(name)) for name in given),
        )
    table.caption = "alone: the same bitwidths rounded or trained for that plan only"
    table.caption_justify = "left"
    return table


def plan_layers(result: QuantizationResult) -> Table:
    """The coverage table with every plan's bitwidths."""
    table = Table(title="Bitwidths", title_justify="left")
    table.add_column("parameter")
    table.add_column("values", justify="right")
    for row in result.plans:
        table.add_column(escape(row.name), justify="right")
    table.add_column("not quantized because")
    for number, covered in enumerate(result.coverage):
        bits = [row.coverage[number].bits for row in result.plans]
        shown = [str(b or "float") for b in bits]
        table.add_row(escape(covered.parameter), f"{covered.elements:,}", *shown, escape(covered.reason))
    return table


def layers(result: QuantizationResult) -> Table:
    """The coverage table: every parameter with its bitwidth, or why it is not quantized."""
    table = Table(title="Bitwidths", title_justify="left")
    for name, justify in (
        ("parameter", "left"),
        ("values", "right"),
        ("bits", "right"),
        ("not quantized because", "left"),
    ):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for row in result.coverage:
        table.add_row(escape(row.parameter), f"{row.elements:,}", str(row.bits or "float"), escape(row.reason))
    return table


def scores(values: Mapping[str, float], metric: str) -> Table:
    """What `evaluate` found, by the name of the metric."""
    table = Table("network", escape(metric), "examples")
    for name in ("float", "quantized"):
        table.add_row(name, _number(values[name]), f"{values['examples']:.0f}")
    return table


def inspection(report: ModelReport) -> list[Table]:
    """Layers with their statistics and bytes; then what stays in float."""
    table = Table(title=f"{len(report.layers)} layers, fingerprint {report.graph.fingerprint}", title_justify="left")
    for name in ("layer", "kind", "weight", "values", "MACs", "input", "output", "σ"):
        table.add_column(name, justify="left" if name in ("layer", "kind") else "right", overflow="fold")
    for bits in report.bitwidths:
        table.add_column(f"D({bits})", justify="right")
    for bits in report.bitwidths:
        table.add_column(f"bytes at {bits}", justify="right")
    for row in report.layers:
        spec = row.spec
        table.add_row(
            escape(spec.name),
            spec.kind,
            _shape(spec.weight_shape),
            f"{spec.elements:,}",
            format_count(spec.macs),
            _shape(spec.input_shape),
            _shape(spec.output_shape),
            f"{row.sigma:.4f}",
            *(f"{row.divergence[bits]:.4f}" for bits in report.bitwidths),
            *(f"{row.weight_bytes[bits]:,}" for bits in report.bitwidths),
        )
    floats = Table(title="Not quantized", title_justify="left")
    for name in ("parameter", "values", "because"):
        floats.add_column(name, justify="right" if name == "values" else "left")
    for parameter in report.graph.float_parameters:
        floats.add_row(escape(parameter.name), f"{parameter.elements:,}", escape(parameter.reason))
    for place in report.graph.float_places:
        line = f": {place.line}" if place.line else ""
        floats.add_row(escape(str(place)), "", escape(f"operator without an integer form{line}"))
    return [table, *_device_tables(report), floats, *_feasible(report)]


def _feasible(report: ModelReport) -> list[Table]:
    """Which kinds of files can hold the network, and why not."""
    if not report.files:
        return []
    table = Table(title="Files", title_justify="left")
    for name in ("file", "can be written", "because"):
        table.add_column(name)
    for found in report.files:
        table.add_row(found.target, "yes" if found.possible else "no", escape(found.reason))
    return [table]


def _device_tables(report: ModelReport) -> list[Table]:
    """Energy, latency and cycles of every layer at each bitwidth, as far as the profile gives them."""
    if not report.hardware:
        return []
    first = next(iter(report.hardware.values()))
    wanted = {
        name: title
        for name, title in (("energy_pj", "energy"), ("latency_ms", "latency"), ("cycles", "cycles"))
        if getattr(first.total, name) is not None
    }
    table = Table(title=f"On {escape(first.profile)}, activations at 8 bits", title_justify="left")
    table.add_column("layer")
    for title in wanted.values():
        for bits in report.bitwidths:
            table.add_column(f"{title} at {bits}", justify="right")
    for row in report.layers:
        cells = []
        for name in wanted:
            for bits in report.bitwidths:
                cost = row.hardware[bits]
                cells.append(_cost(name, getattr(cost, name)) + (" *" if cost.interpolated else ""))
        table.add_row(escape(row.spec.name), *cells)
    totals = [_cost(name, getattr(report.hardware[b].total, name)) for name in wanted for b in report.bitwidths]
    table.add_row("network", *totals, style="bold")
    marks = (
        "; * interpolated between measured bitwidths" if any(c.interpolated for c in report.hardware.values()) else ""
    )
    table.caption = f"peak activation RAM {format_bytes(float(first.total.ram_bytes or 0))}{marks}"
    table.caption_justify = "left"
    return [table]


def verifications(verdicts: Sequence[Verification]) -> Table:
    """Every exported file: whether it computes what the reference does, its bytes and its speed."""
    table = Table(title="Exported files", title_justify="left")
    integers = verdicts[0].integers if verdicts else None
    memory = any(verdict.ram_bytes is not None for verdict in verdicts)
    for name in (
        "file",
        "verdict",
        "decided alike",
        "as deployed",
        "codes equal",
        "largest",
        "bytes",
        "ideal",
        *(("RAM",) if memory else ()),
        "time / float",
    ):
        table.add_column(name, justify="left" if name in ("file", "verdict") else "right")
    if integers is not None:
        ours = integers.agreement
        table.add_row(
            "(integers beside the network)",
            "verified",
            f"{100 * ours.decisions:.2f} %",
            "–",
            f"{100 * ours.equal:.2f} %",
            f"{ours.largest_steps} steps",
            *("", "", *(("",) if memory else ()), "–"),
        )
    for verdict in verdicts:
        found, deployed = verdict.agreement, verdict.as_deployed
        failed = "FAILED" if verdict.problem else f"FAILED (needs {verdict.demand})"
        table.add_row(
            escape(str(verdict.path)),
            "verified" if verdict.passed else failed,
            "–" if found is None else f"{100 * found.decisions:.2f} %",
            "–" if deployed is None else f"{100 * deployed.decisions:.2f} %",
            "–" if found is None else f"{100 * found.equal:.2f} %",
            "–" if found is None else f"{found.largest_steps} steps",
            f"{verdict.real_bytes:,}",
            f"{verdict.ideal_bytes:,}",
            *(("–" if verdict.ram_bytes is None else f"{verdict.ram_bytes:,}",) if memory else ()),
            "–" if verdict.latency_ratio is None else f"{verdict.latency_ratio:.2f}",
        )
    lines = [v.problem.rstrip(".") for v in verdicts if v.problem]
    lines += [f"{v.path}: {v.first_difference}" for v in verdicts if v.first_difference]
    lines += [f"{v.path}: {note}" for v in verdicts for note in (*v.notes, v.deployment) if note]
    examples = next((v.agreement.examples for v in verdicts if v.agreement is not None), None)
    if examples is not None:
        lines.append(f"{examples} examples against the integer reference")
    if integers is not None:
        lines.append(
            f"{integers.operators} of its operators give what the quantized network rounds, to "
            f"{integers.largest_beyond:.3f} steps on {integers.examples} examples; outputs are "
            f"{integers.agreement.mean_steps:.2f} steps apart in the mean"
        )
    table.caption = escape("; ".join(lines))
    table.caption_justify = "left"
    return table


def profiles(found: Sequence[HardwareProfile]) -> Table:
    """Profiles by name."""
    table = Table("profile", "what it is", "made")
    for item in found:
        table.add_row(escape(item.name), escape(item.description), item.method.date)
    return table


def profile(found: HardwareProfile) -> list[Table]:
    """How a profile was made, and its MACs."""
    facts = Table(title=escape(found.name), title_justify="left", show_header=False)
    facts.add_row("description", escape(found.description))
    if found.technology is not None:
        t = found.technology
        facts.add_row("technology", escape(f"{t.library}, {t.voltage_v:g} V, {t.corner}, {t.layout}"))
        facts.add_row("Liberty SHA-256", t.liberty_sha256)
    if found.compute is not None:
        facts.add_row("clock", f"{found.compute.clock_mhz:g} MHz, {found.compute.parallel_macs} MACs at once")
        unit = found.compute.unit
        if unit is not None:
            facts.add_row(
                "unit",
                escape(unit.name)
                + f" ({unit.organisation.replace('_', ' ')}): {unit.area_um2:,.0f} µm², "
                + f"shortest period {unit.min_period_ps:,.0f} ps, leakage {unit.leakage_nw:,.1f} nW",
            )
    memory = found.memory
    facts.add_row("weights live in", memory.weights_in.replace("_", "-"))
    for macro in memory.on_chip:
        facts.add_row("memory", escape(f"{macro.macro}: read {macro.read_energy_fj_per_bit:.1f} fJ a bit"))
    if memory.dram is not None:
        facts.add_row("DRAM", escape(f"{memory.dram.read_energy_fj_per_bit:,.0f} fJ a bit ({memory.dram.source})"))
    facts.add_row("baseline", escape(found.baseline or "–"))
    facts.add_row("made", escape(f"{found.method.date}: {found.method.command}"))
    for note in found.method.notes:
        facts.add_row("note", escape(note))
    return [facts, *([] if found.compute is None else [_entries(found.compute)])]


def _entries(compute: Compute) -> Table:
    table = Table(title="One MAC", title_justify="left")
    for name in ("layers", "weight bits", "activation bits", "digits", "cycles", "energy fJ", "verified"):
        table.add_column(name, justify="left" if name in ("layers", "verified") else "right")
    for entry in compute.table:
        table.add_row(
            entry.layer or "all",
            str(entry.w_bits),
            str(entry.a_bits),
            "–" if entry.digits_per_mac is None else f"{entry.digits_per_mac:.3f}",
            f"{entry.cycles_per_mac:.3f}",
            "–" if entry.energy_per_mac_fj is None else f"{entry.energy_per_mac_fj:,.1f}",
            f"{entry.vectors:,} vectors" if entry.verified else "–",
        )
    return table


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


def comparison(rows: Sequence[Mapping[str, Any]]) -> list[Table]:
    """Runs side by side, each above its uniform control where there is one: results, then every layer's bitwidth."""
    table = Table(title="Runs", title_justify="left")
    for name in ("run", "strategy", "budget", "status", "validation", "test", "float test", "weights", "total", "time"):
        table.add_column(name, justify="left" if name in ("run", "strategy", "budget", "status") else "right")
    plans: list[tuple[str, Mapping[str, int]]] = []
    for row in rows:
        budget = {k: v for k, v in row["config"]["budget"].items() if k != "size_counts"}
        table.add_row(
            escape(row["run"]),
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
        plans.append((row["run"], row["weights"]))
        control = row.get("control")
        if control is not None:
            table.add_row(
                f"  {_uniform(control['weights'])}",
                *("", "", ""),
                _number(control["scores"]["validation"]),
                _number(control["scores"]["test"]),
                "",
                format_bytes(control["cost"]["weight_bytes"]),
                format_bytes(control["cost"]["total_bytes"]),
            )
            plans.append(("uniform", control["weights"]))
    metrics = {row["run"]: row["config"].get("metric", "top1") for row in rows}
    if len(set(metrics.values())) > 1:
        table.caption = escape("scored by different metrics: " + ", ".join(f"{r} by {m}" for r, m in metrics.items()))
        table.caption_justify = "left"
    bits = Table(title="Weight bits", title_justify="left")
    bits.add_column("layer")
    for title, _ in plans:
        bits.add_column(escape(title), justify="right")
    for name in dict.fromkeys(name for _, weights in plans for name in weights):
        bits.add_row(escape(name), *(str(weights.get(name, "–")) for _, weights in plans))
    return [table, bits]


def frontier(found: Sweep) -> Table:
    """The runs of a sweep, loosest limit first."""
    knee = found.knee
    where = "no knee: fewer than three points on the front, or no bend" if knee is None else f"knee: {knee.budget}"
    strategies = len({point.strategy for point in found.points}) > 1
    if len(found.resources) > 1 or strategies:
        where = "runs that no other one beats in cost and score are not marked as beaten"
    table = Table(title=f"Frontier, {where}", title_justify="left")
    given = [name for name in _DEVICE if any(getattr(point, name) is not None for point in found.points)]
    control = any(point.control_validation is not None for point in found.points)
    titles = (
        *(("strategy",) if strategies else ()),
        "budget",
        "status",
        "validation",
        "test",
        *(("uniform", "uniform test") if control else ()),
    )
    for title in (*titles, "total", "smaller", *(_DEVICE[n] for n in given), "began from", "trained on", "time"):
        left = title in ("strategy", "budget", "status", "began from")
        table.add_column(title, justify="left" if left else "right")
    for point in found.points:
        marks = " (knee)" if point.knee else "" if point.on_front else " (beaten)"
        table.add_row(
            *((escape(point.strategy),) if strategies else ()),
            escape(point.budget),
            point.status + marks,
            _number(point.validation),
            _number(point.test),
            *((_number(point.control_validation), _number(point.control_test)) if control else ()),
            format_bytes(point.total_bytes),
            f"{point.reduction:.2f}×",
            *(_cost(name, getattr(point, name)) for name in given),
            escape(point.started_from) or "–",
            format_count(point.trained_examples),
            format_seconds(point.seconds),
        )
    table.caption = escape("; ".join(f"{run} failed: {why}" for run, why in found.failed.items()))
    table.caption_justify = "left"
    return table


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
