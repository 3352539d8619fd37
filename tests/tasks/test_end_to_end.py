"""Every shipped task through search, training with its loss, export and verification."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sigmaquant
from sigmaquant.tasks import Embedding, Regression, Segmentation, TokenTagging


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Siamese(nn.Module):
    """Two inputs through the same layers: a pair of vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 8))

    def forward(self, one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        return self.body(one), self.body(other)


def maps(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 12, 3, padding=1), nn.ReLU(), *layers)


def cases() -> dict[str, Any]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = {
            "regression": (Regression(), nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 2)), drawn(60, 6)),
            "segmentation": (Segmentation(), maps(nn.Conv2d(12, 4, 1)), drawn(40, 2, 6, 6)),
            "tagging": (TokenTagging(), nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 5)), drawn(40, 7, 6)),
            "embedding": (Embedding(), Siamese(), (drawn(60, 6), drawn(60, 6, seed=1))),
        }
    return {name: (task, model.eval(), inputs) for name, (task, model, inputs) in made.items()}


def targets_of(name: str, outputs: Any) -> Tensor:
    if name == "embedding":
        return torch.cosine_similarity(*outputs)
    return outputs if name == "regression" else outputs.argmax(1 if name == "segmentation" else 2)


@pytest.mark.parametrize("name", ["regression", "segmentation", "tagging", "embedding"])
def test_from_the_float_network_to_a_verified_file(name: str, tmp_path: Any) -> None:
    task, model, inputs = cases()[name]
    with torch.no_grad():
        targets = targets_of(name, model(*inputs) if isinstance(inputs, tuple) else model(inputs))
    result = sigmaquant.quantize(
        model,
        (inputs, targets),
        task=task,
        budget="3x",
        run_dir=tmp_path,
        distill=0.5,
        batch_size=20,
        cycle_examples=20,
        final_epochs=1,
        max_cycles=1,
        sensitivity_examples=20,
        export=["packed"],
    )
    assert result.float_scores.validation == pytest.approx(1, abs=1e-6)
    assert 0.7 < result.scores.validation <= 1
    assert result.trained_examples + result.discarded_examples > 0
    (verdict,) = result.files
    assert verdict.passed
    assert verdict.agreement.decisions == 1
