"""How many examples a sensitivity needs: portions are drawn until their two halves rank the layers alike.

The examples are dealt out to two tables. The rank correlation r of these (Spearman's, over the layers, of the harm per
weight, at each bitwidth) says how much of one half's ranking is the network's and not the examples'; that of both
together is ``2 r / (1 + r)`` (Spearman and Brown, British Journal of Psychology 3, 1910). Portions double the
examples until it is `STABLE` at every bitwidth, or no more may be drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from sigmaquant.statistics.divergence import Sensitivity

STABLE = 0.95

Pair = tuple[Any, Any]
"""Inputs (a tensor or several) and targets of a batch."""


@dataclass(frozen=True)
class Drawn:
    """A sensitivity with its evidence.

    Attributes:
        table: harm by layer and bitwidth.
        examples: that it is the mean of.
        agreement: see the module's text, of the worst bitwidth; None where it cannot be told: fewer than three layers.
    """

    table: Sensitivity
    examples: int
    agreement: float | None


def draw_until_stable(
    measure: Callable[[Sequence[Pair], int], Sensitivity],
    batches: Iterable[Pair],
    first: int,
    elements: Mapping[str, int],
) -> Drawn:
    """Draw until the ranking is stable, see the module's text.

    Args:
        measure: the mean harm over batches; the number tells its calls apart, for what is random in it.
        batches: as many as may be drawn at most; read only as far as needed.
        first: examples of the first portion.
        elements: number of weights by layer.
    """
    halves: list[Sensitivity] = [{}, {}]
    seen = [0, 0]
    source, wanted, call = iter(batches), first, 0
    agreement: float | None = None
    while True:
        portion = list(_portion(source, wanted - sum(seen)))
        if not portion:
            break
        for half, dealt in enumerate(zip(*map(_dealt, portion), strict=True)):
            part = [batch for batch in dealt if batch is not None]
            count = sum(len(targets) for _, targets in part)
            if count:
                _add(halves[half], measure(part, call), seen[half], count)
                seen[half] += count
            call += 1
        agreement = _agreement(halves[0], halves[1], elements) if all(seen) else None
        if agreement is None or agreement >= STABLE:
            break
        wanted = 2 * sum(seen)
    table: Sensitivity = {}
    _add(table, halves[0], 0, seen[0])
    _add(table, halves[1], seen[0], seen[1])
    return Drawn(table, sum(seen), agreement)


def _portion(source: Iterator[Pair], examples: int) -> Iterator[Pair]:
    count = 0
    while count < examples:
        batch = next(source, None)
        if batch is None:
            return
        count += len(batch[1])
        yield batch


def _dealt(batch: Pair) -> tuple[Pair | None, Pair | None]:
    """Every other example to one half, the rest to the other; of a batch of one, the second is None."""
    inputs, targets = batch

    def part(start: int) -> Pair | None:
        if len(targets) <= start:
            return None
        every = slice(start, None, 2)
        chosen = inputs[every] if isinstance(inputs, Tensor) else tuple(x[every] for x in inputs)
        return chosen, targets[every]

    return part(0), part(1)


def _add(table: Sensitivity, other: Sensitivity, before: int, count: int) -> None:
    """Make a mean over `before` examples one over `count` more, in place."""
    for name, row in other.items():
        mine = table.setdefault(name, dict.fromkeys(row, 0.0))
        for bits, value in row.items():
            mine[bits] = (mine[bits] * before + value * count) / (before + count)


def _agreement(one: Sensitivity, other: Sensitivity, elements: Mapping[str, int]) -> float | None:
    names = list(one)
    if len(names) < 3:
        return None
    size = np.array([elements[name] for name in names], dtype=float)
    found = []
    for bits in one[names[0]]:
        ranks = [np.argsort(np.argsort([table[name][bits] for name in names] / size)) for table in (one, other)]
        correlation = float(np.corrcoef(ranks[0], ranks[1])[0, 1])
        found.append(2 * correlation / (1 + correlation) if correlation > 0 else 0.0)
    return min(found)
