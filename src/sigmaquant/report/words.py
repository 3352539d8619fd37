"""The report's words: the verdict, the lead, the facts at the top, and which columns its tables have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sigmaquant.budget import FILES, base_resource, label
from sigmaquant.report.document import Artifact, Costs, LayerRow, RunReport, Scores
from sigmaquant.report.gather import cost_of

NOTHING = "–"


@dataclass(frozen=True)
class Measure:
    """A cost that is shown.

    Attributes:
        name: as in `MEASURES`, or a field of `Costs`.
        title: for people.
        resource: how it is written, see `cost_text`.
        device: whether it comes from a hardware profile, so that no float network has it.
        before: what it is compared with.
    """

    name: str
    title: str
    resource: str
    device: bool = False
    before: str = "float32"


_COUNTED = (Measure("bops", "bit operations", "bops"), Measure("ram_bytes", "peak activations", "ram_bytes"))
_DEVICE = (
    Measure("energy_pj", "energy", "energy_pj", device=True),
    Measure("latency_ms", "latency", "latency_ms", device=True),
    Measure("cycles", "cycles", "cycles", device=True),
)
_BYTES = ((1e9, "GB"), (1e6, "MB"), (1e3, "KB"), (1.0, "B"))
_COUNTS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""))
_UNITS = {
    "size_bytes": _BYTES,
    "ram_bytes": _BYTES,
    "flash_bytes": _BYTES,
    "energy_pj": ((1e12, "J"), (1e9, "mJ"), (1e6, "µJ"), (1e3, "nJ"), (1.0, "pJ")),
    "latency_ms": ((1e3, "s"), (1.0, "ms"), (1e-3, "µs"), (1e-6, "ns")),
}
"""Units of each resource, as in the page's own ``format.js``."""


def cost_text(value: float | None, resource: str) -> str:
    """A cost for people, with four significant digits in its own unit, on one line.

    Example:
        >>> cost_text(1076136, "size_bytes"), cost_text(193_400_000.0, "energy_pj"), cost_text(None, "cycles")
        ('1.076\xa0MB', '193.4\xa0µJ', '–')
    """
    if value is None:
        return NOTHING
    scale = _UNITS.get(resource, _COUNTS)
    factor, unit = next((entry for entry in scale if abs(value) >= entry[0]), scale[-1])
    return f"{float(f'{value / factor:.4g}'):g}\xa0{unit}".strip()


def score_text(value: float | None, run: RunReport) -> str:
    """A score for people: in percent where the metric is a share."""
    if value is None:
        return NOTHING
    return f"{100 * value:.2f}\xa0%" if run.percent else f"{value:.4f}"


def difference_text(after: float, before: float, run: RunReport) -> str:
    """How far a score moved.

    Example:
        >>> from types import SimpleNamespace
        >>> difference_text(0.9, 0.91, SimpleNamespace(percent=True))
        '−1.00 points'
    """
    text = f"{100 * (after - before):+.2f} points" if run.percent else f"{after - before:+.4f}"
    return text.replace("-", "−")


def verdict_text(run: RunReport) -> str:
    """The verdict in two or three words."""
    return {"met": "✓ budget met", "not met": "✕ budget not met"}.get(run.status, run.status)


def lead(run: RunReport) -> str:
    """The answer in a sentence or two."""
    if not run.finished or run.cost is None or run.reference is None:
        steps = len(run.steps)
        return f"This run has not finished: {steps} step{'' if steps == 1 else 's'} so far."
    parts = [
        f"{cost_text(run.reference.total_bytes, 'size_bytes')} become {cost_text(run.cost.total_bytes, 'size_bytes')}: "
        f"{run.reference.total_bytes / run.cost.total_bytes:.1f}× smaller"
    ]
    kind, after, before = shown_scores(run)
    if after is not None and before is not None:
        parts.append(
            f"{score_text(after, run)} in place of {score_text(before, run)} on the {kind} data "
            f"({difference_text(after, before, run)})"
        )
    text = ", ".join(parts) + "."
    for name, excess in run.violations.items():
        side = "below its floor" if name == "accuracy" else "over its limit"
        text += f" The {label(name)} is {100 * excess:.2f} % {side}."
    return text


def shown_scores(run: RunReport) -> tuple[str, float | None, float | None]:
    """Which data the headline's score is of, this network's, and the float network's."""
    if run.scores.test is not None:
        return "test", run.scores.test, run.float_scores.test
    return "validation", run.scores.validation, run.float_scores.validation


@dataclass(frozen=True)
class Fact:
    """One card at the top."""

    title: str
    before: str
    after: str
    lines: tuple[str, ...] = ()
    limit: str = ""
    ok: bool = True
    uniform: str = ""


_LIMITED_ALONE = (
    ("bops", "Bit operations"),
    ("macs", "MACs"),
    ("ram_bytes", "Activation memory"),
    ("flash_bytes", "Flash"),
)
"""Costs that have a card where they are limited."""


def facts(run: RunReport) -> list[Fact]:
    """The cards at the top of a finished run."""
    if run.cost is None or run.reference is None:
        return []
    found = [_size(run, run.cost, run.reference), _score(run)]
    found += [
        _device_fact(run, run.cost, measure) for measure in _DEVICE if getattr(run.cost, measure.name) is not None
    ]
    for resource, title in _LIMITED_ALONE:
        value = getattr(run.cost, resource)
        if resource in run.limits and value is not None:
            before = getattr(run.reference, resource)
            limit, ok = _limit(run, resource)
            found.append(
                Fact(
                    title,
                    "" if before is None else cost_text(before, resource),
                    cost_text(value, resource),
                    limit=limit,
                    ok=ok,
                )
            )
    for point in run.cost.operating_points:
        for resource in ("latency_ms", "energy_pj"):
            value = getattr(point, resource)
            if value is not None:
                name = f"{resource}@{point.name}"
                limit, ok = _limit(run, name)
                found.append(Fact(label(name).capitalize(), "", cost_text(value, resource), limit=limit, ok=ok))
    if run.mean_bits is not None:
        bits = [layer.bits for layer in run.layers]
        span = f"{min(bits)} bits in every layer" if min(bits) == max(bits) else f"{min(bits)} to {max(bits)} bits"
        found.append(Fact("Bits for a weight", "32", f"{run.mean_bits:.2f}", (f"{span}, {len(bits)} layers",)))
    return found


def _limit(run: RunReport, resource: str) -> tuple[str, bool]:
    """What was asked of a resource, and whether it holds."""
    if resource not in run.limits:
        return "", True
    ok = resource not in run.violations
    if resource == "accuracy":
        return f"floor {score_text(run.limits[resource], run)} on the validation data", ok
    limit = cost_text(run.limits[resource], base_resource(resource))
    if resource == "size_bytes" and run.size_counts == "weights":
        return f"limit {limit} of packed weights", ok
    if resource == "size_bytes" and run.size_counts in FILES:
        found = "" if run.cost is None or run.cost.file_bytes is None else cost_text(run.cost.file_bytes, resource)
        return f"limit {limit} of the {run.size_counts} file, which takes {found}", ok
    return f"limit {limit}", ok


def _size(run: RunReport, cost: Costs, reference: Costs) -> Fact:
    limit, ok = _limit(run, "size_bytes")
    lines = [f"{reference.total_bytes / cost.total_bytes:.2f}× smaller"]
    if run.size_counts == "weights" or limit == "":
        lines.append(
            f"packed weights {cost_text(cost.weight_bytes, 'size_bytes')}, "
            f"{reference.weight_bytes / cost.weight_bytes:.2f}×"
        )
    uniform = "" if run.control is None else _uniform(run, cost_text(run.control.cost.total_bytes, "size_bytes"))
    return Fact(
        "Size",
        cost_text(reference.total_bytes, "size_bytes"),
        cost_text(cost.total_bytes, "size_bytes"),
        tuple(lines),
        limit,
        ok,
        uniform,
    )


def _score(run: RunReport) -> Fact:
    kind, after, before = shown_scores(run)
    lines = []
    if after is not None and before is not None:
        lines.append(difference_text(after, before, run) + f" on the {kind} data")
    if kind == "test" and run.scores.validation is not None:
        lines.append(
            f"validation: {score_text(run.float_scores.validation, run)} → {score_text(run.scores.validation, run)}"
        )
    limit, ok = _limit(run, "accuracy")
    title = f"Accuracy ({run.metric})" if run.percent else f"Score ({run.metric})"
    uniform = ""
    if run.control is not None:
        theirs = run.control.scores.test if kind == "test" else run.control.scores.validation
        uniform = _uniform(run, score_text(theirs, run))
    return Fact(title, score_text(before, run), score_text(after, run), tuple(lines), limit, ok, uniform)


def _device_fact(run: RunReport, cost: Costs, measure: Measure) -> Fact:
    after, before = cost_of(cost, measure.name), cost_of(run.reference_cost, measure.name)
    lines = []
    if after and before:
        # Where few bits have to be unpacked first, they may cost more.
        ratio = f"{before / after:.2f}× less" if before >= after else f"{after / before:.2f}× more"
        lines.append(f"{ratio} than {run.reference_bits}-bit weights and activations")
    limit, ok = _limit(run, measure.name)
    uniform = ""
    if run.control is not None:
        uniform = _uniform(run, cost_text(cost_of(run.control.cost, measure.name), measure.resource))
    return Fact(
        measure.title.capitalize(),
        "" if before is None else cost_text(before, measure.resource),
        cost_text(after, measure.resource),
        tuple(lines),
        limit,
        ok,
        uniform,
    )


def _uniform(run: RunReport, text: str) -> str:
    return f"uniform {uniform_bits(run)}: {text}"


def uniform_bits(run: RunReport) -> str:
    """The control's bitwidths."""
    if run.control is None:
        return NOTHING
    return "/".join(str(bits) for bits in sorted(set(run.control.weights.values()))) + " bits"


@dataclass(frozen=True)
class Network:
    """A row of the comparison."""

    title: str
    scores: Scores
    cost: Costs
    this: bool = False


def comparison(run: RunReport) -> list[Network]:
    """Float network, 8 bits, uniform control, this network."""
    if run.cost is None or run.reference is None:
        return []
    rows = [Network("float32", run.float_scores, run.reference)]
    if run.reference_cost is not None:
        rows.append(Network(f"{run.reference_bits} bits, costs only", Scores(), run.reference_cost))
    if run.control is not None:
        training = "" if run.post_training else ", same training"
        rows.append(Network(f"uniform {uniform_bits(run)}{training}", run.control.scores, run.control.cost))
    rows.append(Network("this network", run.scores, run.cost, this=True))
    return rows


def device_columns(run: RunReport) -> list[Measure]:
    """Costs besides bytes that the comparison shows."""
    return [measure for measure in (*_COUNTED, *_DEVICE) if cost_of(run.cost, measure.name) is not None]


def run_columns(runs: Sequence[RunReport]) -> list[Measure]:
    """Costs besides bytes that the table of runs shows."""
    found = {measure.name: measure for run in runs for measure in device_columns(run)}
    return list(found.values())


def layer_measures(run: RunReport) -> list[Measure]:
    """Costs that the table of layers shows."""
    eight = "" if run.reference_bits is None else f"{run.reference_bits} bits"
    stored = Measure("bytes", "bytes", "size_bytes") if _known(run.layers, "bytes") else None
    wanted = [
        stored or Measure("weight_bytes", "packed weights", "size_bytes"),
        Measure("bops", "bit operations", "bops"),
        *(Measure(item.name, item.title, item.resource, device=True, before=eight) for item in _DEVICE),
    ]
    return [measure for measure in wanted if _known(run.layers, measure.name)]


def _known(layers: Sequence[LayerRow], measure: str) -> bool:
    return any(layer.after.get(measure) is not None for layer in layers)


def has_statistics(run: RunReport) -> bool:
    """Whether the layers' σ, divergence and histograms are known."""
    return any(layer.sigma is not None for layer in run.layers)


def has_sensitivities(run: RunReport) -> bool:
    """Whether the search went by sensitivities of the layers, and they are known."""
    return any(layer.sensitivity for layer in run.layers)


def file_limits(file: Artifact) -> list[str]:
    """What a file takes of each limited resource, beside the limit.

    Example:
        >>> from types import SimpleNamespace
        >>> file_limits(SimpleNamespace(limits={"size_bytes": (31_200.0, 40_000.0)}))
        ['31,200 of 40,000 bytes of size, 78 %']
    """
    names = {"ram_bytes": "RAM"}
    return [
        f"{found:,.0f} of {limit:,.0f} bytes of {names.get(name, label(name))}, {100 * found / limit:.0f} %"
        for name, (found, limit) in file.limits.items()
        if limit
    ]


def has_costs(run: RunReport) -> bool:
    """Whether any cost of the layers is known."""
    return bool(layer_measures(run))


def stage_title(stage: str) -> str:
    """A stage of the search for people.

    Example:
        >>> stage_title("phase1"), stage_title("ilp")
        ('phase 1', 'ilp')
    """
    return {"phase1": "phase 1", "phase2": "phase 2", "final": "final training"}.get(stage, stage)


def judged(run: RunReport) -> str:
    """On which examples the search was judged, in a sentence."""
    known, most = run.validation_examples, run.search_examples
    if known is None or most is None:
        return "The search was judged on validation data."
    if most >= known:
        return f"The search was judged on all {known:,} validation examples, as the verdict is."
    return f"The search was judged on {most:,} of {known:,} validation examples, the rest on all of them."


def runs_lead(runs: Sequence[RunReport]) -> str:
    """One sentence about several runs."""
    met = sum(run.met for run in runs)
    unfinished = sum(not run.finished for run in runs)
    text = f"{met} of {len(runs)} meet their budget"
    if unfinished:
        text += f", {unfinished} {'has' if unfinished == 1 else 'have'} not finished"
    return text + "."
