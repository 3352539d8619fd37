"""Reconstruction as a part of a run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import tiny
from sigmaquant import Budget
from sigmaquant.search import reconstructing

OPTIONS = {"strategy": "uniform", "post_training": True, "bitwidths": (2, 3, 4, 8), "calibration_examples": 400}


def codes(result):
    return {name: result.network.codes(name) for name in result.network.weight_quantizers}


def test_a_post_training_run_learns_its_rounding(tmp_path: Path) -> None:
    plain = tiny.run(Budget(size="9x"), **OPTIONS)
    learned = tiny.run(Budget(size="9x"), run_dir=tmp_path / "run", reconstruction_steps=60, **OPTIONS)
    assert learned.plan.weights == plain.plan.weights
    assert learned.scores.divergence < plain.scores.divergence
    assert learned.trained_examples == 0
    moves = {line["move"]: line for line in tiny.trajectory(tmp_path / "run")}
    assert moves["reconstruction"]["accepted"]
    assert moves["reconstruction"]["divergence"] < moves["compensated rounding"]["divergence"]
    for name, quantizer in learned.network.weight_quantizers.items():
        weight = learned.network.weight(name).detach()
        assert torch.allclose(quantizer(weight), weight, atol=1e-6)


def test_a_reconstruction_that_does_not_help_is_thrown_away(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = tiny.run(Budget(size="9x"), **OPTIONS)
    distances = iter([1.0, 1.5, 1.7, 2.0])  # before, around the whole network's part, and after
    monkeypatch.setattr(reconstructing, "_moved", lambda *_: next(distances))
    kept = tiny.run(Budget(size="9x"), reconstruction_steps=20, **OPTIONS)
    assert all(torch.equal(mine, codes(plain)[name]) for name, mine in codes(kept).items())
    assert kept.scores.divergence == pytest.approx(plain.scores.divergence, rel=1e-4)


def test_no_time_left_is_no_reconstruction() -> None:
    plain, kept = (tiny.run(Budget(size="9x"), minutes=minutes, **OPTIONS) for minutes in (None, 1e-6))
    assert all(torch.equal(mine, codes(plain)[name]) for name, mine in codes(kept).items())
