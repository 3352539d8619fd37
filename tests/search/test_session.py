"""What a session measures once, and hands to everything else."""

from __future__ import annotations

import json
from typing import Any

import pytest
from driver_cases import graph, session

from sigmaquant import Budget, Settings
from sigmaquant.search import session as session_module

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
    for part in (made, made.for_budget(Budget(size="6x")), made.for_control()):
        assert part.judge.outputs == part.search_judge.outputs == part.recipe.loss.outputs == found
        part.sensitivity(part.graph)
    assert set(seen) == {found}
    assert len(seen) == 2, "once for all budgets, and once for the control's other bitwidths"


def test_the_tables_of_a_plan_can_be_pins() -> None:
    plan = session(EIGHT).plan(dict.fromkeys(graph().layer, 4))
    settings = Settings(pin=plan.weights, activation_pin=plan.activations)
    assert settings.to_dict()["pin"] == dict(plan.weights)
    assert json.loads(json.dumps(settings.to_dict()))["activation_pin"] == dict(plan.activations)
