"""Whether a network can be written as a kind of file, known before any training.

The network is lowered with grids that mean nothing and written to a place that vanishes. So the answer is the
exporter's own, whatever an operator's arguments are, and costs no data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sigmaquant.errors import ExportError, LoweringError, MissingExtraError, near_matches
from sigmaquant.export.targets import TARGETS, ExportOptions
from sigmaquant.graph.specs import FloatPlace, QuantGraph
from sigmaquant.lowering import lower
from sigmaquant.plan import BitwidthPlan
from sigmaquant.quant import prepare, set_plan_
from sigmaquant.runs.scratch import ScratchFolder

_SCALE = 0.05
_SHOWN = 5
IN_FLOAT = ("packed",)
"""Kinds of files that hold weights alone, so that operators in float do not matter."""


@dataclass(frozen=True)
class Feasibility:
    """Whether one kind of file can hold a network.

    Attributes:
        target: ``"onnx"``, ``"litert"``, ``"tflm"``, ``"c"`` or ``"packed"``.
        reason: why not, with the remedy; empty where it can.
    """

    target: str
    reason: str = ""

    @property
    def possible(self) -> bool:
        """Whether it can."""
        return not self.reason


def feasibilities(
    graph: QuantGraph, targets: Sequence[str] = tuple(TARGETS), options: ExportOptions | None = None
) -> tuple[Feasibility, ...]:
    """The verdict for each kind of file.

    Args:
        graph: from `sigmaquant.graph.trace`; it is not changed.
        targets: keys of `TARGETS`.
        options: how files would be written.
    """
    wanted, chosen = known_targets(targets), options or ExportOptions()
    in_float = f"{describe(graph.float_places)}" if graph.float_places else ""
    if in_float:
        return tuple(Feasibility(name, "" if name in IN_FLOAT else in_float) for name in wanted)
    network = prepare(graph)
    plan = BitwidthPlan(dict.fromkeys(graph.layer, 8), dict.fromkeys(graph.activation_names, 8), graph.fingerprint)
    set_plan_(network, plan)
    for quantizer in network.activation_quantizers.values():
        quantizer.set_grid_(_SCALE, 0, 8)
    try:
        model = lower(network)
    except LoweringError:
        return tuple(map(Feasibility, wanted))  # these grids do not fit the weights; those of data may
    found = []
    for name in wanted:
        with ScratchFolder() as folder:
            try:
                TARGETS[name].write(network, chosen.held(model), folder / TARGETS[name].file, chosen)
            except (ExportError, LoweringError, MissingExtraError) as error:
                found.append(Feasibility(name, str(error)))
            else:
                found.append(Feasibility(name))
    return tuple(found)


def known_targets(targets: Sequence[str]) -> tuple[str, ...]:
    """The kinds of files, each once.

    Raises:
        ExportError: one that there is not, or none at all.
    """
    names = tuple(dict.fromkeys(targets))
    for name in names:
        if name not in TARGETS:
            raise ExportError(f"there is no kind of file {name!r}. {near_matches(name, TARGETS)}")
    if not names:
        raise ExportError(f"no kind of file was asked for. Give at least one of {', '.join(TARGETS)}.")
    return names


def describe(places: Sequence[FloatPlace]) -> str:
    """Operators without an integer form in one sentence, with the user's lines, and the remedy."""
    counts: Mapping[FloatPlace, int] = dict.fromkeys(places, 0)
    shown = [place.described for place in list(counts)[:_SHOWN]]
    more = len(counts) - len(shown)
    rest = f", and {more} more" if more > 0 else ""
    return (
        f"{len(places)} operators have no integer form: {'; '.join(shown)}{rest}. Write them with operators that have "
        "one (docs: Operators), or move them out of the network that is exported."
    )


def check_feasible(graph: QuantGraph, targets: Sequence[str], options: ExportOptions | None = None) -> None:
    """Raise unless all kinds of files can hold the network.

    Raises:
        ExportError: one cannot; the message says why, and what to do.
    """
    refused = [found for found in feasibilities(graph, targets, options) if not found.possible]
    if refused:
        raise ExportError(
            "nothing was trained, since the network cannot be written as asked: "
            + " ".join(f"[{found.target}] {found.reason}" for found in refused)
        )
