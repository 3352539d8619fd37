"""Random numbers of the user's own data code, made repeatable without touching anybody else's."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

_AUGMENT = 0x5DEECE66D  # order and augmentation of one seed must not be the same stream


def order_generator(seed: int) -> torch.Generator:
    """The generator that shuffles."""
    return torch.Generator().manual_seed(seed)


def augment_generator(seed: int) -> torch.Generator:
    """The generator that augments."""
    return torch.Generator().manual_seed(seed ^ _AUGMENT)


class OwnRandomness:
    """Streams of random numbers that are put in place while the user's code runs, and only then.

    Between two batches the program trains and draws numbers too; without this, a data set's random transforms would
    depend on what the program does, and the program on the data set. Covers Python's `random`, NumPy's global state,
    PyTorch's CPU generator and the given generators; not a GPU's.

    Args:
        seed: where the streams begin.
        generators: the user's own generators, such as a `DataLoader`'s.
    """

    def __init__(self, seed: int, generators: Sequence[torch.Generator] = ()) -> None:
        self._generators = list(generators)
        outside = self._read()
        try:
            random.seed(seed)
            np.random.seed(seed % 2**32)
            for generator in (torch.default_generator, *self._generators):
                generator.manual_seed(seed)
            self._inside = self._read()
        finally:
            self._write(outside)

    def _read(self) -> tuple[Any, ...]:
        states = [generator.get_state() for generator in (torch.default_generator, *self._generators)]
        return random.getstate(), np.random.get_state(), states

    def _write(self, state: tuple[Any, ...]) -> None:
        random.setstate(state[0])
        np.random.set_state(state[1])
        for generator, value in zip((torch.default_generator, *self._generators), state[2], strict=True):
            generator.set_state(value)

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        """While active, random numbers come from these streams; afterwards everything is as it was before."""
        outside = self._read()
        self._write(self._inside)
        try:
            yield
        finally:
            self._inside = self._read()
            self._write(outside)
