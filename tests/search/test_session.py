"""What a session measures once, and hands to everything else."""

from __future__ import annotations

from typing import Any

import pytest
from driver_cases import session

from sigmaquant import Budget
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
