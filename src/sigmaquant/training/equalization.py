"""Channels of one activation are brought to like ranges before anything is quantized, where that helps the outputs.

One scale serves all channels of a tensor. Where these have very different ranges, 8 bits leave nothing of the small
ones. The factors of `sigmaquant.graph.rescaling` change the float network by nothing but rounding, so that a wide
channel can be narrowed before the grid is chosen, and widened again by the layers that read it. Their weights then have
columns of other sizes; a depthwise layer's have not, since it has a scale for each channel.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sigmaquant.graph.copying import copied
from sigmaquant.graph.numbers import FIXED
from sigmaquant.graph.rescaling import Channels, Rescaling, find_rescaling
from sigmaquant.graph.specs import QuantGraph
from sigmaquant.plan import BitwidthPlan
from sigmaquant.quant import calibrate_, prepare, set_plan_
from sigmaquant.quant.observers import ExampleObserver, MseObserver, Observer
from sigmaquant.tasks import Outputs, Task, as_float32, counting, joined, leaves, same_form
from sigmaquant.training.calibration import all_counted, movement
from sigmaquant.training.devices import Device
from sigmaquant.training.metrics import call

_log = logging.getLogger("sigmaquant")

_EXPONENTS = ((0.5, 0.5), (0.75, 0.25), (1.0, 0.0), (0.5, 0.0), (0.0, 0.0))
"""Of the activations' ranges and of the weights' columns that read them (SmoothQuant's alpha and 1 - alpha). Channels
that depthwise layers alone read always have the first exponent 1: it costs their weights nothing."""
_WEIGHT_BITS = (8, 4)
_NEGLIGIBLE = 1e-3
"""Nats, or share of the outputs' variance: where 8 bits do no more harm, nothing is changed."""
_GAIN, _LOSS = 0.9, 1.05
_WIDEST = math.log(256.0)
_EXACT = 1e-3
_LEAST_EXAMPLES, _MOST_MACS, _PASSES = 64, 200_000_000_000, 13


@dataclass(frozen=True)
class Equalization:
    """What equalizing channels did.

    Attributes:
        activations: how many tensors have channels with factors.
        activation_bits: the smallest and largest width of the activations, as it was judged.
        before: how far 8-bit weights and the plan's activations moved the outputs: mean KL in nats of class logits,
            else share of the outputs' variance, or what the task calls a distance.
        after: the same with the factors.
        exponents: of the activations' ranges and the weights' columns, see `_EXPONENTS`.
    """

    activations: int
    activation_bits: tuple[int, int]
    before: float
    after: float
    exponents: tuple[float, float]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @property
    def sentence(self) -> str:
        """For the user."""
        low, high = self.activation_bits
        widths = f"{low}" if low == high else f"{low}- to {high}"
        return (
            f"the channels of {self.activations} activations were equalized, which leaves the float network as it is; "
            f"at 8-bit weights and {widths}-bit activations its outputs are off by {self.after:.3g} instead of "
            f"{self.before:.3g}"
        )


@torch.no_grad()
def equalize_(
    graph: QuantGraph, plan: BitwidthPlan, batches: Sequence[Any], device: Device, task: Task, seed: int
) -> Equalization | None:
    """Rescale the float network's channels in place where its quantized outputs then move less; None: nothing changed.

    Several sets of factors are tried, each with 8-bit and with 4-bit weights. One is taken if the outputs move less by
    a tenth over both, and with neither more than before.

    Args:
        graph: the float network; its parameters change, what it computes does not.
        plan: whose activation bitwidths count.
        batches: inputs; the first half gives the ranges, the second is looked at, of a single example both.
        device: where to compute.
        task: what counts of the outputs, and how far they are apart.
        seed: of what a network draws.
    """
    seen, judged = _halves(batches)
    trial = _Trial(graph, plan, seen, judged, device, task, seed)
    before = trial.harm(graph, 8)
    rescaling = find_rescaling(graph) if before > _NEGLIGIBLE else Rescaling(1)
    if not rescaling.activations:
        return None
    harms = {8: before, **{bits: trial.harm(graph, bits) for bits in _WEIGHT_BITS if bits != 8}}
    ranges = _ranges(graph, rescaling, seen, device, task, seed)
    best: tuple[float, Tensor, float, tuple[float, float]] | None = None
    for exponents in _EXPONENTS:
        factors = _factors(graph, rescaling, ranges, *exponents)
        twin = replace(graph, module=copied(graph.module))
        rescaling.apply_(twin.module, factors)
        if not trial.is_same(twin):
            _log.info("equalization %s is not exact in float32 and is left", exponents)
            continue
        ratios: dict[int, float] = {}
        for bits, harm in harms.items():
            ratios[bits] = trial.harm(twin, bits) / max(harm, 1e-30)
            if ratios[bits] > _LOSS:
                break  # it is out, and the rest need not be known
        told = ", ".join(f"{ratio:.3f} at {bits}" for bits, ratio in ratios.items())
        _log.info("equalization %s: the outputs' movement times %s bits", exponents, told)
        mean = math.exp(sum(math.log(max(ratio, 1e-30)) for ratio in ratios.values()) / len(ratios))
        if mean < _GAIN and max(ratios.values()) <= _LOSS and (best is None or mean < best[0]):
            best = mean, factors, ratios[8] * before, exponents
    if best is None:
        return None
    _, factors, after, exponents = best
    rescaling.apply_(graph.module, factors)
    widths = sorted(set(plan.activations.values()))
    return Equalization(len(rescaling.activations), (widths[0], widths[-1]), before, after, exponents)


def examples_for(graph: QuantGraph, most: int) -> int:
    """How many examples to look at, so that large networks do not take minutes."""
    macs = max(1, sum(spec.macs for spec in graph.layers) + graph.weightless_macs)
    return max(min(most, _LEAST_EXAMPLES), min(most, _MOST_MACS // (_PASSES * macs)))


def _halves(batches: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    parts: list[Any] = list(batches)
    if len(parts) == 1:
        (whole,) = parts
        several = whole if isinstance(whole, tuple | list) else (whole,)
        half = (len(several[0]) + 1) // 2
        if half < len(several[0]):
            cut = [tuple(x[part] for x in several) for part in (slice(None, half), slice(half, None))]
            parts = cut if isinstance(whole, tuple | list) else [x for (x,) in cut]
    half = (len(parts) + 1) // 2
    return parts[:half], parts[half:] or parts


class _Trial:
    """Measures how far the outputs of a quantized network move."""

    def __init__(
        self,
        graph: QuantGraph,
        plan: BitwidthPlan,
        seen: Sequence[Any],
        judged: Sequence[Any],
        device: Device,
        task: Task,
        seed: int,
    ) -> None:
        self._plan, self._seen, self._judged = plan, seen, judged
        self._device, self._task, self._seed = device, task, seed
        self._observers: tuple[type[Observer], ...] = (MseObserver, ExampleObserver)
        self._counted = all_counted(graph, judged)
        with _evaluating(graph):
            self._reference = self._run(graph.module)

    def _run(self, network: Any) -> Outputs:
        with self._device.random_state(self._seed):
            return joined([as_float32(call(network, x, self._task)) for x in self._judged], "outputs")

    def is_same(self, graph: QuantGraph) -> bool:
        """Whether a network in float computes what the first one does."""
        with _evaluating(graph):
            found = self._run(graph.module)
        pairs = zip(leaves(found), leaves(self._reference), strict=True)
        return same_form(found, self._reference) and all(_close(x, y) for x, y in pairs if y.is_floating_point())

    def harm(self, graph: QuantGraph, weight_bits: int) -> float:
        """The movement, with the way to choose ranges that was better the first time."""
        twin = prepare(graph)
        self._device.put_module(twin)
        twin.eval()
        set_plan_(twin, replace(self._plan, weights=dict.fromkeys(graph.layer, weight_bits)))
        found: dict[type[Observer], float] = {}
        for observer in self._observers:
            with self._device.random_state(self._seed):
                calibrate_(twin, self._seen, observer)
            result = self._run(twin)
            if not same_form(result, self._reference):
                return 0.0  # it depends on the data what comes out: nothing can be compared
            found[observer] = movement(result, self._reference, counting(self._task, self._counted))
        best = min(found, key=lambda observer: found[observer])
        self._observers = (best,)
        return found[best]


def _close(found: Tensor, reference: Tensor) -> bool:
    return float((found - reference).abs().max()) <= _EXACT * max(float(reference.abs().max()), 1e-30)


@contextmanager
def _evaluating(graph: QuantGraph) -> Iterator[None]:
    training = graph.module.training
    graph.module.eval()
    try:
        yield
    finally:
        graph.module.train(training)


class _Range:
    """The largest magnitude of every class in one activation."""

    def __init__(self, channels: Channels, classes: int) -> None:
        self._channels = channels
        self._classes = channels.classes.reshape(-1)
        self.largest = torch.zeros(classes)
        self.present = torch.zeros(classes, dtype=torch.bool)
        self.present[self._classes] = True

    def __call__(self, x: Tensor) -> None:
        """See one batch."""
        largest = self._channels.rows(x.detach()).abs().amax(0).float().cpu()
        self.largest.scatter_reduce_(0, self._classes, largest, "amax")


def _ranges(
    graph: QuantGraph, rescaling: Rescaling, batches: Sequence[Any], device: Device, task: Task, seed: int
) -> Mapping[str, _Range]:
    twin = prepare(graph)
    device.put_module(twin)
    twin.eval()
    found = {name: _Range(channels, rescaling.classes) for name, channels in rescaling.activations.items()}
    for name, quantizer in twin.activation_quantizers.items():
        quantizer.observer = found.get(name)
    with device.random_state(seed):
        for x in batches:
            call(twin, x, task)
    return found


def _factors(
    graph: QuantGraph, rescaling: Rescaling, ranges: Mapping[str, _Range], activation: float, weight: float
) -> Tensor:
    """The factor of every class: its share of the tensors' ranges and of the weights' columns, to these powers."""
    occupied, tensors = torch.zeros(rescaling.classes), torch.zeros(rescaling.classes)
    for seen in ranges.values():
        share = (seen.largest / seen.largest.max().clamp(min=1e-30)).log().clamp(min=-_WIDEST, max=0)
        share[seen.largest == 0] = 0  # it tells nothing
        occupied[seen.present] += share[seen.present]
        tensors[seen.present] += 1
    columns, layers = torch.zeros(rescaling.classes), torch.zeros(rescaling.classes)
    for reader in rescaling.readers:
        if reader.separate:
            continue
        size = _columns(graph, reader.layer)
        share = (size / size.max().clamp(min=1e-30)).log().clamp(min=-_WIDEST, max=0)
        columns.scatter_add_(0, reader.channels, share)
        layers.scatter_add_(0, reader.channels, torch.ones_like(share))
    occupied, columns = occupied / tensors.clamp(min=1), columns / layers.clamp(min=1)
    logs = torch.where(layers > 0, activation * occupied - weight * columns, occupied)
    logs[tensors == 0] = 0
    logs = _centred(logs, ranges).clamp(-_WIDEST, _WIDEST)
    logs[FIXED] = 0
    return logs.exp()


def _columns(graph: QuantGraph, layer: str) -> Tensor:
    """Largest magnitude of the weights that read each input channel: [C]."""
    module: Any = graph.module.get_submodule(layer)
    weight, groups = graph.weight(layer).detach().float().abs().cpu(), int(getattr(module, "groups", 1))
    if getattr(module, "transposed", False):
        return weight.flatten(1).amax(1)
    return weight.reshape(groups, len(weight) // groups, weight.shape[1], -1).amax((1, 3)).reshape(-1)


def _centred(logs: Tensor, ranges: Mapping[str, _Range]) -> Tensor:
    """Factors that leave the range of whole tensors where it is, in the mean over those that share channels."""
    groups = torch.arange(len(logs))
    for seen in ranges.values():
        own = seen.present.clone()
        own[FIXED] = False
        joined = torch.unique(groups[own])
        groups[torch.isin(groups, joined)] = joined.min()
    shifts, counts = torch.zeros(len(logs)), torch.zeros(len(logs))
    for seen in ranges.values():
        own = seen.present & (seen.largest > 0)
        own[FIXED] = False
        if not bool(own.any()):
            continue
        group = groups[own][0]
        after = (seen.largest[own].log() - logs[own]).max()
        shifts[group] += after - seen.largest[own].log().max()
        counts[group] += 1
    return logs + (shifts / counts.clamp(min=1))[groups]
