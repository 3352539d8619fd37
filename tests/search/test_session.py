"""What a session measures once, and hands to everything else."""

from __future__ import annotations

import json
from typing import Any

import pytest
from driver_cases import graph, session

from sigmaquant import Budget, Settings
from sigmaquant.search import session as session_module
from sigmaquant.search.uniform import uniform

EIGHT = Budget(size="8x")


@pytest.mark.parametrize(("given", "found"), [("auto", "logits"), ("values", "values")])
def test_what_outputs_mean_reaches_every_part(monkeypatch: pytest.MonkeyPatch, given: str, found: str) -> None:
    seen: list[Any] = []
    real = session_module.sensitivity

    def recorded(*arguments: Any, **options: Any) -> Any:
        seen.append(options["outputs"])
        return real(*arguments, **options)

    monkeypatch.setattr(session_module, "sensitivity", recorded)
    made = session(EIGHT, outputs=given, search_examples=50, sensitivity="output_kl", sensitivity_examples=20)
    for part in (made, made.for_budget(Budget(size="6x")), made.for_control(made.problem.lowest)):
        assert part.judge.outputs == part.search_judge.outputs == part.recipe.loss.outputs == found
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


def test_the_tables_of_a_plan_can_be_pins() -> None:
    plan = session(EIGHT).plan(dict.fromkeys(graph().layer, 4))
    settings = Settings(pin=plan.weights, activation_pin=plan.activations)
    assert settings.to_dict()["pin"] == dict(plan.weights)
    assert json.loads(json.dumps(settings.to_dict()))["activation_pin"] == dict(plan.activations)
