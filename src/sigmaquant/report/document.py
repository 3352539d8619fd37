"""The report as plain values: what is read from run directories, and what stands in ``report.json``.

`Config`, `Result`, `Step` and `Artifacts` are the parts of a run's own files that a report shows; `RunReport` is one
run in the report, `Report` the whole.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from sigmaquant.report.histogram import Histogram

SCHEMA = "sigmaquant.report"
SCHEMA_VERSION = 1

MEASURES = ("bytes", "weight_bytes", "bops", "energy_pj", "cycles", "latency_ms")
"""Costs of a layer that are shown: everything stored for it, its packed codes alone, and what the device spends."""

Number = float | None


class _Read(BaseModel):
    """Part of a file of the run: what a report does not show is ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Settings(_Read):
    """As `sigmaquant.search.settings.Settings`."""

    strategy: str
    objective: str = ""
    post_training: bool = False
    seed: int | None = None
    search_examples: int | None = None
    sigma: str = "raw"
    sensitivity: str = ""


class TaskIdentity(_Read):
    """Part of `sigmaquant.tasks.identity`."""

    name: str
    share: bool = False


class Config(_Read):
    """``config.json``, without its schema."""

    settings: Settings
    budget: dict[str, Any]
    hardware: str | dict[str, Any] = "ideal"
    metric: str = "top1"
    task: TaskIdentity | None = None
    float_sha256: str = ""
    validation_examples: int | None = None


class Scores(_Read):
    """As `sigmaquant.workflow.results.Scores`."""

    validation: Number = None
    test: Number = None
    divergence: Number = None


class FinalScores(Scores):
    """Those of a finished run."""

    validation: float


class PointCosts(_Read):
    """As `sigmaquant.budget.PointCost`."""

    name: str
    energy_pj: Number = None
    latency_ms: Number = None


class Costs(_Read):
    """As `sigmaquant.budget.Cost`."""

    weight_bytes: int
    scale_bytes: int
    other_bytes: int
    total_bytes: int
    bops: Number = None
    ram_bytes: int | None = None
    energy_pj: Number = None
    latency_ms: Number = None
    cycles: Number = None
    operating_points: tuple[PointCosts, ...] = ()
    flash_bytes: int | None = None
    file_bytes: int | None = None
    macs: int | None = None


class Uniform(_Read):
    """The uniform control."""

    weights: dict[str, int]
    cost: Costs
    scores: Scores


class Coverage(_Read):
    """One parameter: its bitwidth, or why it is not quantized."""

    parameter: str
    elements: int
    bits: int | None = None
    reason: str = ""


class Shown(_Read):
    """A box in a picture, as `sigmaquant.tasks.Box`."""

    x1: float
    y1: float
    x2: float
    y2: float
    label: str
    score: Number = None


class Picture(_Read):
    """As `sigmaquant.tasks.Picture`; the image is a JPEG in base64, and nothing else."""

    image: str = Field(pattern=r"^data:image/jpeg;base64,[A-Za-z0-9+/]*=*$")
    width: int
    height: int
    truth: tuple[Shown, ...] = ()
    before: tuple[Shown, ...] = ()
    after: tuple[Shown, ...] = ()


class Pictures(_Read):
    """``pictures.json``."""

    pictures: tuple[Picture, ...]


class Plan(_Read):
    """One of several plans that share their weights.

    Attributes:
        alone: of the same bitwidths for themselves.
        mean_bits: over all weights, as the report adds it.
        front: measures by which no other plan of the run costs less at no lower validation score, likewise.
    """

    name: str
    status: str
    weights: dict[str, int]
    cost: Costs
    scores: Scores
    alone: Scores | None = None
    mean_bits: Number = None
    front: tuple[str, ...] = ()


class Result(_Read):
    """``result.json``."""

    sigmaquant: str = ""
    torch: str = ""
    status: str
    violations: dict[str, float] = {}
    limits: dict[str, float] = {}
    scores: FinalScores
    float_scores: FinalScores
    cost: Costs
    reference: Costs
    weights: dict[str, int]
    control: Uniform | None = None
    noise: dict[str, float] = {}
    coverage: tuple[Coverage, ...] = ()
    float_operators: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    trained_examples: int = 0
    plans: tuple[Plan, ...] = ()


class Zones(_Read):
    """Buffer zones of phase 1: above a cost's limit, below the accuracy's floor, as parts of these."""

    cost: float
    accuracy: float


class Step(_Read):
    """One line of ``trajectory.jsonl``."""

    step: int
    stage: str
    move: str
    accepted: bool
    changes: dict[str, Any] = {}
    weights: dict[str, int] = {}
    mean_bits: Number = None
    cost: Costs
    accuracy: Number = None
    divergence: Number = None
    violations: dict[str, Number] = {}
    seconds: Number = None
    limits: dict[str, float] = {}
    zones: Zones | None = None


class Agreement(_Read):
    """As `sigmaquant.export.verification.Agreement`."""

    examples: int
    decisions: float
    largest_steps: int
    median_steps: float
    equal: float
    mean_steps: Number = None


class Fidelity(_Read):
    """As `sigmaquant.export.fidelity.Fidelity`."""

    agreement: Agreement
    operators: int
    examples: int
    largest_beyond: float
    mean_beyond: float


class Artifact(_Read):
    """One verified file.

    Attributes:
        agreement: None: it could not be run.
        problem: why it was not run.
        stale: it was made from another checkpoint than the run has now.
    """

    target: str
    path: str
    required: float
    passed: bool
    demand: str
    agreement: Agreement | None = None
    as_deployed: Agreement | None = None
    ideal_bytes: int
    real_bytes: int
    ram_bytes: int | None = None
    limits: dict[str, tuple[float, float]] = {}
    over: str = ""
    latency_ratio: Number = None
    first_difference: str = ""
    notes: tuple[str, ...] = ()
    problem: str = ""
    plan: str = ""
    stale: bool = False


class Artifacts(_Read):
    """``export/verification.json``."""

    artifacts: tuple[Artifact, ...]
    integers: Fidelity | None = None


class StepRow(_Read):
    """One step of the search, as the report shows it.

    Attributes:
        changed: number of layers whose bitwidth the move changed.
    """

    step: int
    stage: str
    move: str
    accepted: bool
    changed: int
    accuracy: Number
    divergence: Number
    mean_bits: Number
    seconds: Number
    cost: Costs
    violations: dict[str, Number]


class LayerRow(_Read):
    """One layer, as the report shows it; None: the run's files do not say.

    Attributes:
        uniform_bits: in the uniform control.
        divergence: D by bitwidth.
        sensitivity: harm by bitwidth that the search went by.
        before: `MEASURES` of the float layer, or at `RunReport.reference_bits` where a float layer has none.
        after: `MEASURES` at the plan.
    """

    name: str
    bits: int
    uniform_bits: int | None = None
    kind: str | None = None
    weight_shape: tuple[int, ...] | None = None
    input_shape: tuple[int, ...] | None = None
    output_shape: tuple[int, ...] | None = None
    elements: int | None = None
    macs: int | None = None
    calls: int | None = None
    midrise: bool | None = None
    activation_bits: int | None = None
    sigma: Number = None
    divergence: dict[int, float] | None = None
    sensitivity: dict[int, float] | None = None
    before: dict[str, Number] = {}
    after: dict[str, Number] = {}
    energy_parts: dict[str, Number] = {}
    interpolated: bool = False
    histogram: Histogram | None = None


class Noise(_Read):
    """Standard errors of scores: a network whose score is within two of them of the float network's is as good.

    Of the data that the verdict is of, that of the difference to the float network; of other data, that of one share.
    """

    validation: Number = None
    test: Number = None


class RunReport(_Read):
    """One run.

    Attributes:
        label: its directory's name, with as many parent folders as tell it from the others.
        finished: whether it has a result.
        status: ``"met"``, ``"not met"`` or ``"unfinished"``.
        met: of a finished run.
        percent: whether the metric is a share, shown in percent.
        limits: absolute, by resource; ``"accuracy"`` is a floor.
        size_counts: which bytes a size limit counts.
        zones: of phase 1; None where the run did not record them.
        reference_bits: of the comparison in energy, cycles and latency.
        reference_cost: the whole network at these.
        outside: what is in no layer, by measure: scales of activations, unquantized parameters, overheads.
        integers: the integer model that the files hold, beside the quantized network; None: not compared, or not with
            the network that the run has now.
        front: measures by which no other run of the report costs less at no lower validation score.
        plans: all plans of the run, from the largest to the smallest, where it has several; all else is of the first.
        missing: what the report lacks, and why.
    """

    label: str
    finished: bool
    status: str
    strategy: str
    objective: str
    post_training: bool
    budget: dict[str, Any]
    size_counts: str
    hardware: str
    metric: str
    percent: bool
    float_sha256: str
    seed: int | None
    validation_examples: int | None
    search_examples: int | None
    sigma_variant: str
    sensitivity: str
    limits: dict[str, float] = {}
    violations: dict[str, float] = {}
    zones: Zones | None = None
    scores: Scores = Scores()
    float_scores: Scores = Scores()
    noise: Noise = Noise()
    cost: Costs | None = None
    reference: Costs | None = None
    reference_bits: int | None = None
    reference_cost: Costs | None = None
    control: Uniform | None = None
    mean_bits: Number = None
    layers: tuple[LayerRow, ...] = ()
    outside: dict[str, float] = {}
    steps: tuple[StepRow, ...] = ()
    artifacts: tuple[Artifact, ...] = ()
    integers: Fidelity | None = None
    pictures: tuple[Picture, ...] = ()
    coverage: tuple[Coverage, ...] = ()
    float_operators: tuple[str, ...] = ()
    front: tuple[str, ...] = ()
    plans: tuple[Plan, ...] = ()
    notes: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    seconds: Number = None
    sigmaquant: str = ""
    torch: str = ""

    @property
    def met(self) -> bool:
        """Whether the budget is met."""
        return self.status == "met"


class Report(_Read):
    """The whole report: ``report.json``."""

    runs: tuple[RunReport, ...] = Field(min_length=1)
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"schema": SCHEMA, "version": SCHEMA_VERSION, **self.model_dump(mode="json")}
