"""What a session measures once, and hands to everything else."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from driver_cases import graph, session
from torch import nn

from sigmaquant import Budget, Settings
from sigmaquant.errors import PlanError
from sigmaquant.graph import QuantGraph, trace
from sigmaquant.search import session as session_module
from sigmaquant.search.choices import layer_choices
from sigmaquant.search.uniform import uniform

EIGHT = Budget(size="8x")


@pytest.mark.parametrize(("given", "found"), [("auto", "logits"), ("values", "values")])
def test_what_outputs_mean_reaches_every_part(monkeypatch: pytest.MonkeyPatch, given: str, found: str) -> None:
    seen: list[Any] = []
    real = session_module.sensitivity

    def recorded(*arguments: Any, **options: Any) -> Any:
        seen.append(options["task"].kind)
        return real(*arguments, **options)

    monkeypatch.setattr(session_module, "sensitivity", recorded)
    made = session(EIGHT, outputs=given, search_examples=50, sensitivity="output_kl", sensitivity_examples=20)
    for part in (made, made.for_budget(Budget(size="6x")), made.for_control(made.problem.lowest)):
        assert part.judge.task.kind == part.search_judge.task.kind == part.recipe.loss.task.kind == found
        part.sensitivity(part.graph)
    assert set(seen) == {found}
    assert len(seen) == 2, "once for all budgets, and once for the control's other bitwidths"


@pytest.mark.parametrize(
    ("budget", "bits", "uniform_bits"),
    [
        (Budget(accuracy="-5 %"), (8, 4, 2, 4), 3),
        (Budget(accuracy="-5 %", ram="10 KB"), (4, 4, 4, 4), 4),
        (Budget(accuracy="-5 %"), (2, 2, 2, 2), 2),
        (Budget(size="4x", accuracy="-5 %"), (2, 2, 2, 2), 7),  # as wide as the budget allows
    ],
)
def test_without_a_limited_cost_the_control_is_as_large_as_the_result(
    budget: Budget, bits: tuple[int, ...], uniform_bits: int
) -> None:
    made = session(budget)
    control = made.for_control(dict(zip(made.choices, bits, strict=True)))
    assert set(uniform(control.problem).values()) == {uniform_bits}
    assert made.limits == session(budget).limits, "the run's own limits stay"


@pytest.fixture(scope="module")
def tied() -> QuantGraph:
    """Layers "table" and "mix"; "head" has the table's weight."""

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.mix, self.head = nn.Embedding(7, 4), nn.Linear(4, 4), nn.Linear(4, 7)
            self.head.weight = self.table.weight

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return self.head(self.mix(self.table(tokens)))

    return trace(Tied(), torch.zeros(2, 3, dtype=torch.int64))


@pytest.mark.parametrize(
    ("options", "table"),
    [
        ({"pin": {"head": 8}}, (8,)),
        ({"pin": {"head": 8, "table": 8}}, (8,)),
        ({"allowed": {"head": (6, 4)}}, (4, 6)),
    ],
)
def test_a_shared_weight_goes_by_each_of_its_names(tied: QuantGraph, options: Any, table: tuple[int, ...]) -> None:
    assert layer_choices(tied, Settings(**options)) == {"table": table, "mix": (2, 4, 6, 8)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pin": {"head": 8, "table": 4}}, "gives both 8 and 4 for the one weight that 'table' shares"),
        ({"pin": {"head": 8}, "allowed": {"table": (4,)}}, "layer 'table' is both pinned and restricted"),
        ({"pin": {"haed": 8}}, "names 'haed', which the model does not have. Did you mean 'head'"),
    ],
)
def test_a_shared_weight_has_one_bitwidth(tied: QuantGraph, options: Any, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        layer_choices(tied, Settings(**options))


def test_the_tables_of_a_plan_can_be_pins() -> None:
    plan = session(EIGHT).plan(dict.fromkeys(graph().layer, 4))
    settings = Settings(pin=plan.weights, activation_pin=plan.activations)
    assert settings.to_dict()["pin"] == dict(plan.weights)
    assert json.loads(json.dumps(settings.to_dict()))["activation_pin"] == dict(plan.activations)
