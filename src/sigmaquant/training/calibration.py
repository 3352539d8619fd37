"""What a student is calibrated on, and how activation ranges are chosen from it: by what they do to the outputs."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sigmaquant.graph.specs import QuantGraph
from sigmaquant.plan import BitwidthPlan
from sigmaquant.quant import calibrate_, counted_positions, prepare
from sigmaquant.quant.observers import ExampleObserver, MseObserver, Observer
from sigmaquant.tasks import Outputs, Task, as_float32, counting, joined, same_form
from sigmaquant.training.devices import Device
from sigmaquant.training.metrics import call

_FAR = 32.0
"""An example whose largest input is so many times that of half the examples is not like them."""
_FEW = 0.01
_TRIMMED = 0.05

_log = logging.getLogger("sigmaquant")


def without_outliers(batches: Sequence[Any]) -> tuple[list[Any], int]:
    """Batches without the examples whose inputs are out of line, and how many these are.

    At most one in a hundred (of fewer than a hundred, one): if there are more, it is how the data are. Of several
    inputs an example is out of line by any; integers, which are indices, never are.
    """
    parts = [x if isinstance(x, tuple | list) else (x,) for x in batches]
    far: Tensor | None = None
    for index in range(len(parts[0]) if parts else 0):
        if not parts[0][index].is_floating_point():
            continue
        largest = torch.cat([part[index].detach().flatten(1).abs().amax(1).cpu() for part in parts])
        beyond = largest > _FAR * largest.median()
        far = beyond if far is None else far | beyond
    if far is None or not 0 < int(far.sum()) <= max(1, _FEW * len(far)) or len(far) < 16:
        return list(batches), 0
    kept, start = [], 0
    for x, part in zip(batches, parts, strict=True):
        stay = (~far[start : start + len(part[0])]).nonzero()[:, 0]
        start += len(part[0])
        if len(stay):
            chosen = [value[stay.to(value.device)] for value in part]
            kept.append(type(x)(chosen) if isinstance(x, tuple | list) else chosen[0])
    return kept, int(far.sum())


@torch.no_grad()
def choose_observer(
    graph: QuantGraph, plan: BitwidthPlan, batches: Sequence[Any], device: Device, task: Task, seed: int
) -> type[Observer]:
    """The way to choose ranges that moves the float network's outputs less, its activations quantized and nothing else.

    One bad example does not decide, see `movement`.

    Args:
        graph: of the float network.
        plan: whose activation bitwidths count.
        batches: inputs; the first half gives the ranges, the second is looked at, of one batch both.
        device: where to compute.
        task: what the distance is.
        seed: of what a network draws.
    """
    twin = prepare(graph)
    device.put_module(twin)
    twin.eval()
    twin.plan = plan  # for the activations alone: the weights stay in float
    half = (len(batches) + 1) // 2
    seen, judged = batches[:half], batches[half:] or batches
    counted = all_counted(graph, judged)

    def run() -> Outputs:
        with device.random_state(seed):
            return joined([as_float32(call(twin, x, task)) for x in judged], "outputs")

    reference = run()
    moved: dict[type[Observer], float] = {}
    for observer in (MseObserver, ExampleObserver):
        with device.random_state(seed):
            calibrate_(twin, seen, observer)
        found = run()
        if not same_form(found, reference):
            return MseObserver
        moved[observer] = movement(found, reference, counting(task, counted))
    best = min(moved, key=lambda observer: moved[observer])  # the first of equals
    _log.info("activation ranges: %s", ", ".join(f"{kind.__name__} {value:.4g}" for kind, value in moved.items()))
    return best


def all_counted(graph: QuantGraph, batches: Sequence[Any]) -> Tensor | None:
    """Positions that are no padding, of the examples of all batches; None where all count."""
    found = [counted_positions(graph.module, x) for x in batches]
    known = [positions for positions in found if positions is not None]
    return torch.cat(known) if known else None


def movement(found: Outputs, reference: Outputs, task: Task) -> float:
    """How far outputs have moved: the task's distance, its mean over the examples without the largest twentieth."""
    each = task.distance(found, reference).sort().values
    return float(each[: max(1, round((1 - _TRIMMED) * len(each)))].mean())
