"""Whether a file computes what the reference computes: every artifact is run on data against the integer executor."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from sigmaquant.errors import ExportError
from sigmaquant.lowering import IntegerExecutor, IntegerModel
from sigmaquant.lowering.executor import encode
from sigmaquant.outputs import OutputKind, output_kind

VALUE_STEPS = 4
"""How far an output that is a value may be off, of the 255 steps of an 8-bit grid."""


class Runner(Protocol):
    """Runs an artifact: a float batch in, float outputs out."""

    def __call__(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Outputs [N, ...] of inputs [N, ...]."""
        ...


Watch = Callable[[Tensor], Mapping[str, Tensor]]
"""A batch in, the codes of every edge that the artifact can show out, in the order of execution."""


@dataclass(frozen=True)
class Agreement:
    """How close an artifact's outputs are to the reference's.

    Attributes:
        examples: how many were run.
        decisions: share of examples that are decided alike: the same largest output, or for outputs that are values,
            none of them more than `VALUE_STEPS` off.
        largest_steps: largest difference, in steps of the output's grid.
        median_steps: median difference over the outputs that differ; 0 where none does.
        equal: share of outputs that are the same code.
    """

    examples: int
    decisions: float
    largest_steps: int
    median_steps: float
    equal: float


@dataclass(frozen=True)
class Verification:
    """The verdict on one artifact.

    Attributes:
        target: ``"onnx"``, ``"litert"``, ``"c"`` or ``"packed"``.
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
    """

    target: str
    path: Path
    required: float
    agreement: Agreement
    as_deployed: Agreement | None
    ideal_bytes: int
    real_bytes: int
    latency_ratio: float | None = None
    first_difference: str = ""
    notes: tuple[str, ...] = field(default=())
    exact: bool = False

    @property
    def passed(self) -> bool:
        """Whether enough examples agree, or all codes where they must."""
        return self.agreement.decisions >= self.required and (self.agreement.equal == 1 or not self.exact)

    @property
    def demand(self) -> str:
        """What it takes to pass, for people."""
        return "every code equal" if self.exact else f"{100 * self.required:g} % decided alike"

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "path": str(self.path), "passed": self.passed, "demand": self.demand}


class Reference:
    """The reference's outputs on data, computed once for all artifacts.

    Args:
        model: the integer model.
        batches: inputs, each one tensor [N, ...].
        outputs: what the outputs mean; ``"auto"`` goes by the targets, or else by the outputs' shape.
        targets: of the first batch, if known.

    Raises:
        ExportError: the model has several outputs or inputs, or a float output; no data.
    """

    def __init__(
        self,
        model: IntegerModel,
        batches: Iterable[Tensor],
        outputs: OutputKind = "auto",
        targets: Tensor | None = None,
    ) -> None:
        if len(model.outputs) != 1 or len(model.inputs) != 1 or model.edges[model.outputs[0]].is_float:
            raise ExportError("only models with one input and one quantized output can be verified.")
        self.model = model
        self.executor = IntegerExecutor(model)
        self.edge = model.edges[model.outputs[0]]
        self.batches = [batch.detach().cpu() for batch in batches]
        if not self.batches or not sum(map(len, self.batches)):
            raise ExportError("verification needs data, but there are none.")
        with torch.no_grad():
            self.codes = [self.executor.run_codes(*self.executor.quantize_inputs(x))[0] for x in self.batches]
        self.outputs = output_kind(self.codes[0], targets, outputs)

    @property
    def examples(self) -> int:
        """How many."""
        return sum(map(len, self.batches))

    def agreement(self, runner: Runner) -> Agreement:
        """Run an artifact on all data."""
        same, equal, total, largest = 0, 0, 0, 0
        distances: list[Tensor] = []
        for x, expected in zip(self.batches, self.codes, strict=True):
            outputs = runner(x)
            found = encode((outputs[0] if isinstance(outputs, tuple) else outputs).reshape(expected.shape), self.edge)
            steps = (found.to(torch.int64) - expected.to(torch.int64)).abs().reshape(len(x), -1)
            logits = self.outputs == "logits"
            same += int((found.argmax(1) == expected.argmax(1) if logits else steps.amax(1) <= VALUE_STEPS).sum())
            equal += int((steps == 0).sum())
            total += steps.numel()
            largest = max(largest, int(steps.max()))
            distances.append(steps[steps > 0])
        differing = torch.cat(distances)
        median = float(differing.double().median()) if differing.numel() else 0.0
        return Agreement(self.examples, same / self.examples, largest, median, equal / total)

    def first_difference(self, watch: Watch) -> str:
        """Where an artifact first leaves the reference, on the first batch that shows it; empty where it does not."""
        for x in self.batches:
            found = watch(x)
            report: list[str] = []

            def see(edge: Any, codes: Tensor, found: Mapping[str, Tensor] = found, report: list[str] = report) -> None:
                theirs = found.get(edge.name)
                if report or theirs is None:
                    return
                differs = (theirs.reshape(codes.shape) != codes).nonzero()
                if len(differs):
                    index = tuple(differs[0].tolist())
                    values = f"{int(codes[index])} expected, {int(theirs.reshape(codes.shape)[index])} found"
                    report.append(f"activation {edge.name!r} at index {index}: {values}")

            self.executor.run_codes(*self.executor.quantize_inputs(x), watch=see)
            if report:
                return report[0]
        return ""


def latency_ms(runner: Callable[[Tensor], Any], x: Tensor, seconds: float = 1.0) -> float:
    """Best time of one call, over about so many seconds."""
    runner(x)
    best, end = float("inf"), time.perf_counter() + seconds
    while True:
        begin = time.perf_counter()
        runner(x)
        now = time.perf_counter()
        best = min(best, now - begin)
        if now >= end:
            return 1e3 * best
