"""Whether a file computes what the reference computes: every artifact is run on data against the integer executor."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from sigmaquant.errors import ArtifactError, ExportError
from sigmaquant.export.codes import CodesFound
from sigmaquant.export.comparison import VALUE_STEPS, Agreement, Measure, Tally, decision_axis
from sigmaquant.export.decisions import Decisions
from sigmaquant.export.fidelity import Fidelity
from sigmaquant.json_text import path_text
from sigmaquant.lowering import IntegerExecutor, IntegerModel
from sigmaquant.operators import Edge
from sigmaquant.outputs import OutputKind


class Runner(Protocol):
    """Runs an artifact: a float batch in, float outputs out."""

    def __call__(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Outputs [N, ...] of inputs [N, ...]."""
        ...


Watch = Callable[..., Mapping[str, Tensor]]
"""A batch in, the codes of every edge that the artifact can show out, in the order of execution."""


@dataclass(frozen=True)
class Verification:
    """The verdict on one artifact.

    Attributes:
        target: ``"onnx"``, ``"litert"``, ``"tflm"``, ``"c"`` or ``"packed"``.
        path: the file or folder.
        required: least share of examples that are decided alike.
        agreement: of the file as it is verified (ONNX: with the runtime's fusions off).
        as_deployed: the same at the runtime's default settings, where those differ.
        ideal_bytes: packed weights, scales and biases.
        real_bytes: the file, or all weight tables of a C folder.
        latency_ratio: time of one example on this machine, relative to the float network in PyTorch; None: not run.
        first_difference: layer, index, and both codes where the reference and the artifact first differ.
        notes: what else the user should know.
        exact: whether every single code must be the reference's.
        integers: the integer model, which the file is compared with, beside the quantized network; None: not compared.
        sha256: of the file, or of a C folder's list of files, when it was written; None: not known.
        codes: what its inner activations show; only looked at where `sha256` is not known, or the task is lenient.
        ram_bytes: memory that it needs where it is deployed: the arena of an interpreter, or arena, inputs and outputs
            of a C program; None: not known.
        limits: by limited resource what it takes and what the run's budget allows, in bytes.
        over: which limit of the run's budget it exceeds, and by how much; empty: none.
        problem: why it was not run, or does not run: it was changed, is damaged, or crashes; empty: nothing.
        plan: which one of several plans of the network was run; empty: there is one.
    """

    target: str
    path: Path
    required: float
    agreement: Agreement | None
    as_deployed: Agreement | None
    ideal_bytes: int
    real_bytes: int
    latency_ratio: float | None = None
    first_difference: str = ""
    notes: tuple[str, ...] = field(default=())
    exact: bool = False
    integers: Fidelity | None = None
    sha256: str | None = None
    codes: CodesFound | None = None
    ram_bytes: int | None = None
    limits: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    over: str = ""
    problem: str = ""
    plan: str = ""

    @property
    def passed(self) -> bool:
        """Whether enough examples agree, or all codes where they must.

        Of a file that is run in two ways, one may have fewer examples alike where the other has enough, as long as
        none of its outputs is more than `VALUE_STEPS` steps off: these are roundings.
        """
        if self.problem or self.agreement is None or (self.codes is not None and self.codes.difference):
            return False
        if self.exact:
            return self.agreement.decisions >= self.required and self.agreement.equal == 1
        few = [run for run in self._runs if run.decisions < self.required]
        return len(few) < len(self._runs) and all(run.largest_steps <= VALUE_STEPS for run in few)

    @property
    def accepted(self) -> bool:
        """Whether it computes what it should and holds the run's limits."""
        return self.passed and not self.over

    @property
    def _runs(self) -> list[Agreement]:
        return [run for run in (self.agreement, self.as_deployed) if run is not None]

    @property
    def deployment(self) -> str:
        """In words, where the file does not compute alike as it is verified and as it is deployed; else empty."""
        if self.agreement is None or self.as_deployed is None:
            return ""
        plain, deployed = (run.decisions >= self.required for run in (self.agreement, self.as_deployed))
        if plain == deployed:
            return ""
        good, bad = ("with fusions off", "as deployed") if plain else ("as deployed", "with fusions off")
        found = self.as_deployed if plain else self.agreement
        counts = "which counts as roundings" if self.passed else f"more than the {VALUE_STEPS} of roundings"
        return (
            f"{good} it has enough examples alike, {bad} only {100 * found.decisions:.2f} %, with outputs up to "
            f"{found.largest_steps} steps off, {counts}"
        )

    @property
    def demand(self) -> str:
        """What it takes to pass, for people."""
        return "every code equal" if self.exact else f"{100 * self.required:g} % decided alike"

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        notes = (*self.notes, *([self.deployment] if self.deployment else []))
        texts = {"path": path_text(self.path), "problem": path_text(self.problem)}
        return {**asdict(self), "notes": notes, **texts, "passed": self.passed, "demand": self.demand}


class Reference:
    """The reference's outputs on data, computed once for all artifacts.

    Args:
        model: the integer model.
        batches: inputs, each one tensor [N, ...] or a tuple of them in the order of the model's inputs.
        outputs: what the first output means; ``"auto"`` goes by the targets, or else by the output's shape.
        targets: of the first batch, if known.
        decisions: what is decided, in place of these two.

    Raises:
        ExportError: there are no data.
    """

    def __init__(
        self,
        model: IntegerModel,
        batches: Iterable[Tensor | tuple[Tensor, ...]],
        outputs: OutputKind = "auto",
        targets: Tensor | None = None,
        decisions: Decisions | None = None,
    ) -> None:
        self.model = model
        self.executor = IntegerExecutor(model)
        self.edges = tuple(model.edges[name] for name in model.outputs)
        given = (batch if isinstance(batch, tuple) else (batch,) for batch in batches)
        self.batches = [tuple(x.detach().cpu() for x in batch) for batch in given]
        if not self.batches or not self.examples:
            raise ExportError("verification needs data, but there are none.")
        with torch.no_grad():
            self.codes = [self.executor.run_codes(*self.executor.quantize_inputs(*x)) for x in self.batches]
        if decisions is None:
            first, *others = self.codes[0]
            axes = (decision_axis(first, targets, outputs), *(decision_axis(y, None) for y in others))
            decisions = Decisions(axes)
        self.decisions = decisions
        columns = zip(*self.codes, strict=True)
        self._measures = [
            Measure.of(e, c, axis) for e, c, axis in zip(self.edges, columns, decisions.axes, strict=True)
        ]

    @property
    def outputs(self) -> OutputKind:
        """What the output that counts means, as far as its axis tells."""
        return "values" if self.decisions.axes[self.decisions.scored] is None else "logits"

    @property
    def examples(self) -> int:
        """How many."""
        return sum(len(batch[0]) for batch in self.batches)

    @property
    def one(self) -> tuple[Tensor, ...]:
        """The inputs of the first example."""
        return tuple(x[:1] for x in self.batches[0])

    def like(self, model: IntegerModel, decisions: Decisions | None = None) -> Reference:
        """The same data and outputs, as another form of the model computes them; with other decisions, if given."""
        other = Reference(model, self.batches, decisions=decisions or self.decisions)
        other._measures = [replace(m, edge=e) for m, e in zip(self._measures, other.edges, strict=True)]
        return other

    def agreement(self, runner: Runner) -> Agreement:
        """Run an artifact on all data.

        Raises:
            ArtifactError: it gives another number of outputs, or of values in one.
        """
        tally = Tally(self._measures, self.decisions.rule)
        for x, expected in zip(self.batches, self.codes, strict=True):
            tally.add(self.shaped(runner(*x), expected), expected)
        return tally.agreement()

    def shaped(self, outputs: Tensor | tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> list[Tensor]:
        """A runner's float outputs as the reference has them: codes, or floats where an output is in float.

        Raises:
            ArtifactError: another number of outputs, or of values in one.
        """
        found = outputs if isinstance(outputs, tuple) else (outputs,)
        if [y.numel() for y in found] != [y.numel() for y in expected]:
            shapes = [[list(y.shape) for y in ys] for ys in (found, expected)]
            raise ArtifactError(f"the file gives outputs of the shapes {shapes[0]}, the network has {shapes[1]}.")
        return [m.shaped(y, wanted) for m, y, wanted in zip(self._measures, found, expected, strict=True)]

    def first_difference(self, watch: Watch) -> str:
        """Where an artifact first leaves the reference, on the first batch that shows it; empty where it does not."""
        for x in self.batches:
            found = watch(*x)
            report: list[str] = []

            def see(edge: Edge, codes: Tensor, found: Mapping[str, Tensor] = found, report: list[str] = report) -> None:
                theirs = found.get(edge.name)
                if report or theirs is None:
                    return
                if theirs.numel() != codes.numel():
                    report.append(f"activation {edge.name!r} has {theirs.numel()} values, not {codes.numel()}")
                    return
                theirs = theirs.reshape(codes.shape)
                measure = Measure.of(edge, [codes], None)
                differs = measure.steps(theirs, codes).nonzero()
                if len(differs):
                    index = tuple(differs[0].tolist())
                    values = f"{float(codes[index]):g} expected, {float(theirs[index]):g} found"
                    report.append(f"activation {edge.name!r} at index {index}: {values}")

            self.executor.run_codes(*self.executor.quantize_inputs(*x), watch=see)
            if report:
                return report[0]
        return ""


def latency_ms(runner: Callable[..., Any], x: Tensor | tuple[Tensor, ...], seconds: float = 1.0) -> float:
    """Best time of one call, over about so many seconds."""
    inputs = x if isinstance(x, tuple) else (x,)
    runner(*inputs)
    best, end = float("inf"), time.perf_counter() + seconds
    while True:
        begin = time.perf_counter()
        runner(*inputs)
        now = time.perf_counter()
        best = min(best, now - begin)
        if now >= end:
            return 1e3 * best
