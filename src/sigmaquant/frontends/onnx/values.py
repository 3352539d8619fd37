"""What flows in an ONNX graph while it is read: nodes of the network, and values that are known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import fx

from sigmaquant.errors import ModelFileError
from sigmaquant.frontends.building import BATCHES
from sigmaquant.frontends.onnx.file import Array


@dataclass(frozen=True)
class Known:
    """Values that no example changes: a stored tensor, or what was computed from such and from shapes.

    Attributes:
        small, large: at the two batch sizes.
        name: of the stored tensor that they are, or come from; None: of none.
        stored: whether they were stored as weights are.
    """

    small: Array
    large: Array
    name: str | None = None
    stored: bool = False

    @property
    def fixed(self) -> bool:
        """Whether they are the same for every batch size."""
        return self.small is self.large or (
            self.small.shape == self.large.shape and bool(np.array_equal(self.small, self.large))
        )

    @property
    def array(self) -> Array:
        """The values.

        Raises:
            ModelFileError: they depend on the batch size.
        """
        if not self.fixed:
            raise ModelFileError("a value depends on the batch size where it must not.")
        return self.small

    @property
    def numbers(self) -> list[int]:
        """The values as whole numbers."""
        return [int(value) for value in np.atleast_1d(self.array).reshape(-1)]

    def mapped(self, change: Callable[[Array], Array]) -> Known:
        """The values after a change, under the same name."""
        small = change(self.small)
        return replace(self, small=small, large=small if self.fixed else change(self.large))


Value = Known | fx.Node


def known(values: Any, name: str | None = None, stored: bool = False) -> Known:
    """Values that are the same for every batch size."""
    array = np.asarray(values)
    return Known(array, array, name, stored)


def at_batch(small: int, large: int, batch: int) -> int:
    """A size at another batch size: sizes grow with the batch by a constant step."""
    return small + (batch - BATCHES[0]) * (large - small) // (BATCHES[1] - BATCHES[0])
