"""`Session`: what is measured once before a search: graph, float accuracy, costs, limits, data, and the student."""

from __future__ import annotations

import copy
import logging
import zlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import fx

from sigmaquant.budget import Budget, Cost, Limits, base_resource, label
from sigmaquant.data import DataSource
from sigmaquant.data.indexed import IndexedSource
from sigmaquant.errors import BudgetError, ModelError, UnreachableBudgetError
from sigmaquant.graph.specs import QuantGraph
from sigmaquant.hardware.costs import CostModel
from sigmaquant.plan import BitwidthPlan, Removed
from sigmaquant.search.activation_widths import choose_activation_widths
from sigmaquant.search.choices import activation_choices, layer_choices
from sigmaquant.search.feasibility import check_reachable, format_cost
from sigmaquant.search.float_network import FloatNetwork
from sigmaquant.search.problem import Bits, SearchProblem, Sensitivity
from sigmaquant.search.settings import Settings
from sigmaquant.search.state import Progression
from sigmaquant.search.uniform import uniform_at
from sigmaquant.statistics import (
    ESTIMATED,
    Drawn,
    QuantizedWeights,
    draw_until_stable,
    sensitivity,
)
from sigmaquant.tasks import Task, all_finite
from sigmaquant.training.devices import Device
from sigmaquant.training.losses import Distillation
from sigmaquant.training.qat import Recipe
from sigmaquant.training.student import Judge, Student
from sigmaquant.training.teacher import make_teacher
from sigmaquant.units import AccuracyTarget

log = logging.getLogger("sigmaquant")


@dataclass
class Statistics:
    """What is known of the float network; computed where it is missing, and the same for every budget.

    Attributes:
        sensitivity: harm by layer and bitwidth under `Settings.sensitivity`; None: not measured yet.
        sensitivity_examples: that it was measured on; 0: none.
        sensitivity_agreement: how far its ranking is the network's and not the examples', see
            `sigmaquant.statistics.drawing`; None: not known.
        float_test: the metric on the test data; None: not measured yet, or there are none.
    """

    sensitivity: dict[str, dict[int, float]] | None = None
    float_test: float | None = None
    sensitivity_examples: int = 0
    sensitivity_agreement: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return dict(self.__dict__)

    def share_sensitivity(self, other: Progression) -> None:
        """Take over what another knows of the sensitivity, where nothing is known here."""
        if self.sensitivity is None and other.sensitivity is not None:
            self.sensitivity = other.sensitivity
            self.sensitivity_examples = other.sensitivity_examples
            self.sensitivity_agreement = other.sensitivity_agreement

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Statistics:
        """Inverse of `to_dict`, from JSON, whose keys are text."""
        table = document["sensitivity"]
        if table is not None:
            table = {name: {int(bits): float(value) for bits, value in row.items()} for name, row in table.items()}
        examples, agreement = document["sensitivity_examples"], document["sensitivity_agreement"]
        return cls(table, document["float_test"], int(examples), agreement)


@dataclass(frozen=True)
class Data:
    """The three data sets of a run; decisions see the first two only."""

    train: DataSource
    validation: DataSource
    test: DataSource | None = None


class Session:
    """Everything a search needs to know, measured once.

    Args:
        graph: the float model, on the device.
        data: training, validation and (for the report only) test data.
        budget: what the user allows.
        settings: how to search.
        costs: the hardware.
        task: what counts.
        device: where to compute.
        statistics: what is known of the float network already; completed in place.
        origin: session of the whole network, where channels have been removed: it teaches and is compared with.
        removed: those channels.

    Raises:
        BudgetError, UnreachableBudgetError, PlanError, DataError, MetricError: see the parts.
        ModelError: the float network's outputs are not finite.
    """

    def __init__(
        self,
        graph: QuantGraph,
        data: Data,
        budget: Budget,
        settings: Settings,
        costs: CostModel,
        task: Task,
        device: Device,
        statistics: Statistics | None = None,
        origin: Session | None = None,
        removed: Removed | None = None,
    ) -> None:
        self.graph, self.data, self.budget, self.settings = graph, data, budget, settings
        self.statistics = statistics or Statistics()
        self.costs, self.task, self.device = costs, task, device
        self.choices = layer_choices(graph, settings)
        self.activation_choices = activation_choices(graph, settings)
        self.activations = self._activations_at(0)
        chosen = settings.midrise_up_to
        self.midrise_up_to: int = costs.midrise_up_to if chosen is None else chosen
        self.removed: Removed = removed or {}
        self.reference: Cost = (origin or self).costs.reference()
        self.check(budget)
        for source in (data.validation, data.test):
            if source is not None and source.batch_count is None:
                _counted(source)  # what never ends is better told now than by a network that never returns
        self.teacher: fx.GraphModule = make_teacher(graph) if origin is None else origin.teacher
        device.put_module(self.teacher)
        self.judge: Judge = Judge.of(self.teacher, data.validation, task, device) if origin is None else origin.judge
        self.task = self.judge.task
        if not all_finite(self.judge.reference):
            raise ModelError(
                "the float network gives NaN or infinite outputs on the validation data. "
                "Check its BatchNorm statistics, and the data's preprocessing for extreme values."
            )
        self.float_accuracy = self.judge.float_accuracy
        equal = self.plan(dict.fromkeys(self.graph.layer, 8))
        self.equalization = self.float_network.equalize_(equal) if settings.equalize else None
        if settings.minutes is None and (settings.final_epochs or settings.final_steps) and not settings.post_training:
            _ = self.train_examples  # likewise, and not after the search
        self.recipe = Recipe(
            lr=settings.lr,
            scale_lr=settings.scale_lr,
            weight_decay=settings.weight_decay,
            loss=Distillation(settings.distill, settings.temperature, self.task),
        )
        self._limit(budget)

    def check(self, budget: Budget) -> None:
        """Tell an impossible budget before anything slow.

        Raises:
            BudgetError, UnreachableBudgetError: as far as it can be known without the float network's accuracy.
        """
        if budget.accuracy is None and self.settings.objective == "smallest":
            raise BudgetError(
                "the objective 'smallest' shrinks the network until its accuracy falls below the floor, but the budget "
                "has no accuracy. Give one, such as accuracy='-1 %', or use the objective 'accurate'."
            )
        if budget.accuracy is not None and self.task.share:
            _check_share(budget.accuracy, self.task.metric_name)
        if budget.accuracy is None:
            check_reachable(self._problem(self._resolved(budget, None)))

    def for_budget(self, budget: Budget) -> Session:
        """The same session for another budget; whatever has been measured is shared.

        Raises:
            BudgetError, UnreachableBudgetError: it cannot be reached.
        """
        twin = copy.copy(self)
        vars(twin)["search_judge"] = self.search_judge  # a cached property: one for all budgets
        twin.activations = self._activations_at(0)
        twin.check(budget)
        twin._limit(budget)
        return twin

    def _limit(self, budget: Budget) -> None:
        self.budget = budget
        self.limits: Limits = self._resolved(budget, self.float_accuracy)
        self.activations = self._chosen_activations()
        self.problem: SearchProblem = self._problem(self.limits)
        check_reachable(self.problem)

    def _resolved(self, budget: Budget, float_accuracy: float | None) -> Limits:
        """The budget in absolute numbers; a size of just b bits a weight admits b bits everywhere, in whole bytes."""
        limits = budget.resolve(self.reference, float_accuracy)
        bits = budget.weight_bits
        if bits is None:
            return limits
        bytes_ = self.costs.cost(self.plan(dict.fromkeys(self.choices, bits))).resource("size_bytes", "weights")
        limit = limits.upper["size_bytes"]
        if bytes_ is None or not limit < bytes_ < limit + len(self.choices):  # less than a byte for each layer
            return limits
        return replace(limits, upper={**limits.upper, "size_bytes": bytes_})

    @property
    def aims(self) -> Limits:
        """What the search is held to: the limits less the costs' reserve, and the floor on the examples that judge it.

        Where those are not all of the validation data, the float network scores otherwise on them, and so does a
        quantized one: the floor moves by that difference.
        """
        floor = self.limits.accuracy_floor
        if floor is not None:
            floor += self.search_judge.float_accuracy - self.float_accuracy
        return replace(self.limits, upper=dict(self.problem.upper), accuracy_floor=floor)

    @cached_property
    def search_judge(self) -> Judge:
        """Scores the steps of the search, on at most `Settings.search_examples` of the validation data."""
        known = self.data.validation.examples
        if known is not None and known <= self.settings.search_examples:
            return self.judge  # all of them: the float network need not run again
        examples = some(self.data.validation, self.settings.search_examples, self.seed("search"))
        return Judge.of(self.teacher, examples, self.task, self.device)

    @cached_property
    def train_examples(self) -> int:
        """Examples of one pass over the training data; read once to count them where that is not known.

        Raises:
            DataError: the data do not end.
        """
        known = self.data.train.examples
        return _counted(self.data.train) if known is None else known

    @property
    def objective(self) -> str:
        """`Settings.objective` with ``"auto"`` resolved."""
        if self.settings.objective != "auto":
            return self.settings.objective
        return "feasible" if self.limits.accuracy_floor is not None else "accurate"

    def _activations_at(self, place: int) -> dict[str, int]:
        """Every activation at its lowest (0) or highest (-1) allowed width."""
        return {name: allowed[place] for name, allowed in self.activation_choices.items()}

    @cached_property
    def float_network(self) -> FloatNetwork:
        """What is measured of the float network's activations."""
        return FloatNetwork(self.graph, self.data.train, self.settings, self.task, self.device, self.seed)

    def _chosen_activations(self) -> dict[str, int]:
        """Widths of the activations: the highest, unless a limited cost depends on them."""
        highest, lowest = self._activations_at(-1), self._activations_at(0)
        weights = {name: allowed[-1] for name, allowed in self.choices.items()}
        plans = [replace(self.plan(weights), activations=table) for table in (lowest, highest)]
        cheap, dear = (self.limits.ratios(self.costs.cost(plan)) for plan in plans)
        if cheap == dear:
            return highest
        table, per_weight = self.sensitivity(self.graph)
        if per_weight:  # a divergence of weights cannot be weighed against the outputs'
            twin = copy.copy(self)
            twin.settings, twin.statistics = replace(self.settings, sensitivity="curvature"), Statistics()
            table, _ = twin.sensitivity(self.graph)
        middle = {name: allowed[len(allowed) // 2] for name, allowed in self.activation_choices.items()}
        harm = self.float_network.activation_harm(replace(plans[0], activations=middle), self.activation_choices)
        found = choose_activation_widths(
            self.costs.cost, self.limits, plans[1], self.choices, self.activation_choices, table, harm
        )
        count = Counter(found.activations.values())
        log.info("activations: %s", ", ".join(f"{n} of {bits} bits" for bits, n in sorted(count.items())))
        return dict(found.activations)

    def student(self) -> Student:
        """A fresh quantized copy of the float model."""
        return Student(
            self.graph,
            self.teacher,
            self.data.train,
            self.device,
            self.recipe,
            calibration_examples=self.settings.calibration_examples,
            seed=self.seed("calibration"),
        )

    def plan(self, bits: Bits) -> BitwidthPlan:
        """A full plan from weight bitwidths."""
        return BitwidthPlan(dict(bits), self.activations, self.graph.fingerprint, self.midrise_up_to, self.removed)

    def seed(self, *what: Any) -> int:
        """A seed for one purpose, the same in an unbroken and in a resumed run."""
        return zlib.crc32(repr((self.settings.seed, *what)).encode())

    def for_control(self, found: Bits) -> Session:
        """The same session for the uniform plan.

        Every bitwidth between the lowest and the highest allowed one is open to it: with 2, 4, 6 and 8 bits alone a
        uniform plan would often stay far below the limit, and compare badly for no merit of the search.

        Where no limited cost depends on bitwidths, as with an accuracy alone, every plan would fit, and the highest
        bitwidth would be no control at all. It is held to the size of what was found then, in total bytes; the lowest
        bitwidths never exceed that.

        Args:
            found: the search's result.
        """
        twin = copy.copy(self)
        widths = range(self.settings.bitwidths[0], self.settings.bitwidths[-1] + 1)
        twin.settings = replace(self.settings, strategy="uniform", control=False, bitwidths=tuple(widths))
        twin.choices = layer_choices(twin.graph, twin.settings)
        twin.statistics = Statistics()  # those of other bitwidths
        twin.problem = twin._problem(twin.limits)
        if not twin.problem.movable:
            size = float(self.costs.cost(self.plan(found)).total_bytes)
            twin.limits = replace(self.limits, upper={**self.limits.upper, "size_bytes": size}, size_counts="total")
            twin.problem = twin._problem(twin.limits)
        return twin

    def narrower_than(self, widest: Bits) -> Session:
        """The same session for a plan whose layers are at most so wide each: a mask over the planes of another plan.

        Raises:
            UnreachableBudgetError: such plans do not fit.
        """
        twin = copy.copy(self)
        twin.choices = {
            name: tuple(bits for bits in allowed if bits <= widest[name]) for name, allowed in self.choices.items()
        }
        twin.problem = twin._problem(twin.limits)
        check_reachable(twin.problem)
        return twin

    def fixed_at(self, bits: Bits) -> Session:
        """The same session where every layer has one bitwidth alone."""
        twin = copy.copy(self)
        twin.choices = {name: (bits[name],) for name in self.choices}
        twin.problem = twin._problem(twin.limits)
        return twin

    def uniform_bits(self, target: int) -> dict[str, int]:
        """One bitwidth for all layers, as far as they allow it."""
        return uniform_at(self.problem, target)

    def without_limits(self, target: int) -> Session:
        """The same session with limits that just admit a uniform plan."""
        twin = copy.copy(self)
        cost = self.costs.cost(self.plan(self.uniform_bits(target)))
        upper = {}
        for name, limit in self.limits.upper.items():
            value = cost.resource(name, self.limits.size_counts)
            upper[name] = limit if value is None else max(limit, value)
        twin.limits = replace(self.limits, upper=upper)
        twin.problem = twin._problem(twin.limits)
        return twin

    def sensitivity(self, graph: QuantGraph) -> tuple[Sensitivity, bool]:
        """The chosen sensitivity of a network's present weights, and whether it is per weight."""
        if graph is not self.graph:
            return self._measure_sensitivity(graph).table, self.settings.sensitivity == "divergence"
        if self.statistics.sensitivity is None:
            drawn = self._measure_sensitivity(graph)
            self.statistics.sensitivity = {name: dict(row) for name, row in drawn.table.items()}
            self.statistics.sensitivity_examples = drawn.examples
            self.statistics.sensitivity_agreement = drawn.agreement
            if drawn.agreement is not None:
                log.info("sensitivity from %d examples, whose ranking agrees to %.3f", drawn.examples, drawn.agreement)
        return self.statistics.sensitivity, self.settings.sensitivity == "divergence"

    def _measure_sensitivity(self, graph: QuantGraph) -> Drawn:
        """Of a trained network on as many examples as the float network's ranking needed."""
        name, settings = self.settings.sensitivity, self.settings
        bitwidths = sorted({bits for allowed in self.choices.values() for bits in allowed})
        quantized = QuantizedWeights(graph, bitwidths, self.midrise_up_to) if name in ESTIMATED else None

        def measure(batches: Any, call: int) -> dict[str, dict[int, float]]:
            seed = self.seed("labels", *([call] if call else []))
            with self.device.random_state(seed):
                return sensitivity(
                    name,
                    graph,
                    bitwidths,
                    batches,
                    seed=seed,
                    midrise_up_to=self.midrise_up_to,
                    task=self.task,
                    quantized=quantized,
                )

        if name == "divergence":
            return Drawn(measure(None, 0), 0, None)
        known = graph is not self.graph and self.statistics.sensitivity_examples
        adaptive = name in ESTIMATED and not known
        most = max(settings.sensitivity_examples, settings.sensitivity_limit) if adaptive else 0
        count = most or known or settings.sensitivity_examples
        source = some(self.data.train, count, self.seed("sensitivity"))
        batches = (
            (self.device.put(x), self.device.put(y))
            for x, y in source.batches(shuffle=True, seed=self.seed("sensitivity"))
        )
        if adaptive:
            elements = {spec.name: spec.elements for spec in self.graph.layers}
            return draw_until_stable(measure, batches, settings.sensitivity_examples, elements)
        kept = list(batches)
        return Drawn(measure(kept, 0), sum(len(y) for _, y in kept), None)

    def _problem(self, limits: Limits) -> SearchProblem:
        base = self.plan({name: allowed[0] for name, allowed in self.choices.items()})
        total = self.costs.cost(base)
        costs: dict[str, dict[str, dict[int, float]]] = {resource: {} for resource in limits.upper}
        for name, allowed in self.choices.items():
            for bits in allowed:
                added = self.costs.layer(name, bits, base, limits.size_counts)
                for resource in limits.upper:
                    costs[resource].setdefault(name, {})[bits] = added.get(resource, 0.0)
        fixed, upper = {}, dict(limits.upper)
        ratios = limits.ratios(total)  # raises where the profile lacks a limited resource
        for resource in limits.upper:
            value = total.resource(resource, limits.size_counts)
            assert value is not None, "ratios has raised otherwise"
            fixed[resource] = value - sum(table[self.choices[name][0]] for name, table in costs[resource].items())
            spared = upper[resource] * (1 - self.costs.reserve.get(base_resource(resource), 0.0))
            least = value * (1 + 1e-9)  # what only just fits may still be asked for
            upper[resource] = max(spared, min(least, upper[resource]))
        elements = {spec.name: spec.elements for spec in self.graph.layers}
        problem = SearchProblem(self.choices, costs, fixed, upper, elements)
        free = any(len(allowed) > 1 for allowed in self.choices.values())  # pins are told by `check_reachable`
        for resource, limit in limits.upper.items():
            if free and resource not in problem.movable and ratios[resource] > 1:
                smallest = format_cost(resource, problem.total(problem.lowest, resource))
                raise UnreachableBudgetError(
                    f"the {label(resource)} is {smallest}, the limit is {format_cost(resource, limit)}, and no "
                    "weight bitwidth changes it. Raise the limit, or lower the activation bitwidths."
                )
        return problem


def _counted(source: DataSource) -> int:
    """Examples of one pass, read.

    Raises:
        DataError: it does not end.
    """
    log.info("the %s have no length: counting their examples", source.name)
    return sum(len(targets) for _, targets in source.batches())


def _check_share(accuracy: AccuracyTarget, metric: str) -> None:
    """Raise for what no share of examples can be: it would be met by all networks, or by none.

    Raises:
        BudgetError: a floor outside 0..1, or a drop to nothing.
    """
    value = accuracy.value
    if accuracy.relative and value >= 1:
        raise BudgetError(
            f"an accuracy of at most {value:g} less than the float network's excludes nothing, since {metric} lies "
            "between 0 and 1. Write '-1 %' or -0.01 for one point."
        )
    if not accuracy.relative and not 0 < value <= 1:
        raise BudgetError(
            f"the accuracy floor {value:g} cannot be: {metric} lies between 0 and 1. Write '90 %' or 0.9, or '-1 %' "
            "for one point less than the float network's."
        )


def some(source: DataSource, count: int, seed: int) -> DataSource:
    """At most `count` examples: drawn, since data are often sorted by class; of a stream, the first ones."""
    if not isinstance(source, IndexedSource) or source.examples <= count:
        return source.take(count)
    drawn = torch.randperm(source.examples, generator=torch.Generator().manual_seed(seed))[:count]
    return source.select(drawn.sort().values)
