"""Numbers of channels, and the parameters that take the factors of these: see `sigmaquant.graph.rescaling`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

FIXED = 0
"""The class of channels whose factor is 1."""
ZEROS = -1
"""The number of values that are zero at any factor."""


@dataclass(frozen=True)
class Scaled:
    """A parameter that takes factors: it is multiplied by those of what it reads, divided by those of what it makes.

    Attributes:
        module: name of its module.
        attribute: its name there.
        read: classes, int64, of a shape that broadcasts to the parameter's.
        made: classes, likewise.
    """

    module: str
    attribute: str
    read: Tensor
    made: Tensor


class Numbers:
    """Numbers that are united until each stands for one factor (disjoint sets)."""

    def __init__(self) -> None:
        self._parent = [FIXED]

    def fresh(self, count: int) -> Tensor:
        """So many new numbers."""
        first = len(self._parent)
        self._parent.extend(range(first, first + count))
        return torch.arange(first, first + count)

    def find(self, number: int) -> int:
        """The smallest number of its set."""
        parent = self._parent
        while parent[number] != number:
            parent[number] = parent[parent[number]]
            number = parent[number]
        return number

    def unite(self, one: Tensor, other: Tensor) -> None:
        """Give pairs of numbers one factor; zeros take any."""
        shape = (one + other).shape
        pairs = torch.stack([part.expand(shape).reshape(-1) for part in (one, other)])
        pairs = pairs[:, (pairs[0] != pairs[1]) & (pairs != ZEROS).all(0)]
        if not pairs.shape[1]:
            return
        for a, b in torch.unique(pairs, dim=1).T.tolist():
            low, high = sorted((self.find(a), self.find(b)))
            self._parent[high] = low

    def roots(self) -> Tensor:
        """The smallest number of every number's set."""
        return torch.tensor([self.find(number) for number in range(len(self._parent))])
