"""How many examples a sensitivity is drawn from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from sigmaquant.statistics import draw_until_stable
from sigmaquant.statistics.drawing import STABLE, Drawn

LAYERS = [f"layer{number}" for number in range(12)]
ELEMENTS = {name: 10 * (number + 1) for number, name in enumerate(LAYERS)}


class Noisy:
    """A harm per weight of 1, 2, 3, … with noise that falls with the number of examples."""

    def __init__(self, noise: float) -> None:
        self.noise = noise
        self.calls: list[int] = []
        self.seen: list[Tensor] = []

    def __call__(self, batches: Sequence[Any], call: int) -> dict[str, dict[int, float]]:
        self.calls.append(call)
        inputs = torch.cat([x[0] if isinstance(x, tuple) else x for x, _ in batches])
        self.seen.append(inputs)
        generator = torch.Generator().manual_seed(call)
        scale = self.noise / len(inputs) ** 0.5
        noise = scale * torch.randn(len(LAYERS), 2, generator=generator)
        return {
            name: {bits: ELEMENTS[name] * (number + 1 + float(noise[number, k])) for k, bits in enumerate((2, 4))}
            for number, name in enumerate(LAYERS)
        }


def batches(examples: int, size: int = 8) -> list[tuple[Tensor, Tensor]]:
    x = torch.arange(examples)
    return [(x[i : i + size], x[i : i + size]) for i in range(0, examples, size)]


def test_a_clear_ranking_needs_the_first_portion_only() -> None:
    measure = Noisy(0.1)
    found = draw_until_stable(measure, batches(1000), 32, ELEMENTS)
    assert found.examples == 32
    assert found.agreement == pytest.approx(1)
    assert measure.calls == [0, 1]
    assert sorted(torch.cat(measure.seen).tolist()) == list(range(32)), "each example once, in one of the halves"


def test_a_noisy_one_is_drawn_on_until_its_halves_agree() -> None:
    measure = Noisy(30.0)
    found = draw_until_stable(measure, batches(100_000), 32, ELEMENTS)
    assert found.examples > 64
    assert found.agreement is not None
    assert found.agreement >= STABLE
    less = draw_until_stable(Noisy(30.0), batches(found.examples // 2), 32, ELEMENTS)
    assert less.agreement is not None
    assert less.agreement < STABLE, "it would have stopped"
    assert sorted(torch.cat(measure.seen).tolist()) == list(range(found.examples))
    worst = max(abs(found.table[name][2] / ELEMENTS[name] - number - 1) for number, name in enumerate(LAYERS))
    assert worst < 4 * 30 / found.examples**0.5


def test_it_ends_with_the_data() -> None:
    found = draw_until_stable(Noisy(1e4), batches(100), 32, ELEMENTS)
    assert found.examples == 100
    assert found.agreement is not None
    assert found.agreement < STABLE


def test_the_table_is_the_mean_over_all_examples() -> None:
    def measure(part: Sequence[Any], call: int) -> dict[str, dict[int, float]]:
        x = torch.cat([x[0] for x, _ in part]).double()
        return {"a": {4: float(x.mean())}}

    pairs = [((x, x), y) for x, y in batches(11, size=5)]  # several inputs, and batches of odd numbers
    assert draw_until_stable(measure, pairs, 100, {"a": 1}) == Drawn({"a": {4: 5.0}}, 11, None)
    single = [(torch.tensor([3]), torch.tensor([3]))]
    assert draw_until_stable(lambda part, _: measure([((x,), y) for x, y in part], 0), single, 1, {"a": 1}) == Drawn(
        {"a": {4: 3.0}}, 1, None
    )
