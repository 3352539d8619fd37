"""What is measured of the float network's activations before and after a search, on a few calibration examples."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sigmaquant.data import DataSource
from sigmaquant.errors import SigmaQuantError
from sigmaquant.graph.specs import QuantGraph
from sigmaquant.plan import BitwidthPlan
from sigmaquant.quant.observers import MseObserver, Observer
from sigmaquant.search.settings import Settings
from sigmaquant.statistics import activation_sensitivities
from sigmaquant.tasks import Task
from sigmaquant.training.calibration import choose_observer, without_outliers
from sigmaquant.training.devices import Device
from sigmaquant.training.equalization import Equalization, equalize_, examples_for
from sigmaquant.training.student import stream

log = logging.getLogger("sigmaquant")

_EXAMPLES, _REPORTED_EXAMPLES = 256, 64
Harm = Mapping[str, Mapping[int, float]]


@dataclass
class FloatNetwork:
    """The float network on calibration data.

    Attributes:
        graph: the network.
        train: where calibration examples are from.
        settings: how many.
        task: what counts.
        device: where to compute.
        seed: a seed for one purpose.
    """

    graph: QuantGraph
    train: DataSource
    settings: Settings
    task: Task
    device: Device
    seed: Callable[..., int]
    _harm: dict[tuple[int, ...], Harm] = field(default_factory=dict)

    def equalize_(self, plan: BitwidthPlan) -> Equalization | None:
        """Rescale channels where that helps; what the network computes stays as it is."""
        return equalize_(self.graph, plan, self._inputs(_EXAMPLES), self.device, self.task, self.seed("calibration"))

    def activation_harm(self, plan: BitwidthPlan, choices: Mapping[str, tuple[int, ...]]) -> Harm:
        """What each activation's grid does to the outputs, by width; measured once.

        Args:
            plan: whose activations decide how ranges are chosen.
            choices: the widths asked for.

        Raises:
            DataError: see `sigmaquant.statistics.activation_sensitivities`.
        """
        widths = tuple(sorted({bits for allowed in choices.values() for bits in allowed}))
        if widths not in self._harm:
            batches, seed = self._inputs(_EXAMPLES), self.seed("activations")
            observer = choose_observer(self.graph, plan, batches, self.device, self.task, seed)
            self._harm[widths] = self._measured(widths, batches, observer)
        return self._harm[widths]

    def harm_at(self, plan: BitwidthPlan, observer: type[Observer] | None) -> dict[str, float]:
        """What a plan's grid of each activation does to the outputs, alone; the largest first.

        Empty where the outputs have no gradients.
        """
        widths = tuple(sorted(set(plan.activations.values())))
        try:
            table = self._measured(widths, self._inputs(_REPORTED_EXAMPLES), observer or MseObserver)
        except (RuntimeError, SigmaQuantError) as error:  # a user's operator may have no derivative
            log.info("what single activations cost is not known: %s", str(error).partition("\n")[0])
            return {}
        harm = {name: table[name][bits] for name, bits in plan.activations.items()}
        return dict(sorted(harm.items(), key=lambda item: -item[1]))

    def _measured(self, widths: tuple[int, ...], batches: list[Any], observer: type[Observer]) -> Harm:
        seed = self.seed("activations")
        inputs = ((x, None) for x in batches)
        with self.device.random_state(seed):
            return activation_sensitivities(self.graph, widths, inputs, seed=seed, task=self.task, observer=observer)

    def _inputs(self, most: int) -> list[Any]:
        """Calibration inputs, fewer of a large network."""
        examples = examples_for(self.graph, min(self.settings.calibration_examples, most))
        if self.train.repeats and self.train.examples is not None:
            examples = min(examples, self.train.examples)
        batches = [self.device.put(x) for x, _ in stream(self.train, examples, self.seed("calibration"))]
        return without_outliers(batches)[0]
