"""`DataSource`: batches from whatever the user has, in an order that depends on the seed alone."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Self

import torch
from torch import Tensor

from sigmaquant.data.batch import ANY_KEYS, Batch, Inputs, as_batch, check_inputs, example_shapes, in_float32
from sigmaquant.data.rng import augment_generator
from sigmaquant.data.structure import Keys, Structure, flat, ordered, outline, read_structure
from sigmaquant.errors import DataError

Augment = Callable[[Any, torch.Generator], Any]
"""Random change of a batch's inputs: takes them and a generator, gives inputs of the same form. A mapping comes as a
dict, several inputs as a tuple."""

Transform = Callable[[Any], Any]
"""Fixed change of a batch's inputs, such as a normalisation."""

_CHECKED_BATCHES = 4  # per pass; enough for a wrong pipeline, cheap enough to never matter


class DataSource(ABC):
    """Inputs and targets in batches, as often as wanted.

    Args:
        name: for messages, such as ``"training data"``.
        batch_size: examples in a batch.
        augment: applied to the inputs of every batch when shuffling, and only then.
        transform: applied to the inputs of every batch, after `augment`.

    Attributes:
        keys: what the entries of batches that are mappings mean.
        left_out: entries of the last batch that the model does not take.
    """

    def __init__(self, name: str, batch_size: int, augment: Augment | None, transform: Transform | None) -> None:
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise DataError(f"the batch size of the {name} is {batch_size!r}. It must be a whole number above zero.")
        self.name = name
        self.batch_size = batch_size
        self.augment = augment
        self.transform = transform
        self.keys = ANY_KEYS
        self.left_out: tuple[str, ...] = ()

    @property
    @abstractmethod
    def examples(self) -> int | None:
        """Number of examples, or None when unknown."""

    @property
    @abstractmethod
    def batch_count(self) -> int | None:
        """Number of batches of one pass, or None when unknown."""

    @property
    def repeats(self) -> bool:
        """Whether every pass is known to give the very same examples: nothing random changes them."""
        return False

    @abstractmethod
    def _batches(self, shuffle: bool, seed: int) -> Iterator[Any]:
        """Raw batches of one pass."""

    @abstractmethod
    def take(self, count: int) -> DataSource:
        """The first `count` examples (all, if there are fewer), in their own order.

        Raises:
            DataError: `count` is below one.
        """

    def __len__(self) -> int:
        """Number of batches of one pass.

        Raises:
            TypeError: unknown; see `batch_count`.
        """
        if self.batch_count is None:
            raise TypeError(f"the {self.name} does not know its number of batches")
        return self.batch_count

    def __bool__(self) -> bool:
        return True  # an unknown length is not an empty source

    def batches(self, shuffle: bool = False, seed: int = 0) -> Iterator[Batch]:
        """One pass over the data, the same for the same arguments. Global random states are left alone.

        Floating inputs come as float32, integers as they are; of several, in tuples or mappings, the tensors come in
        the order of the model's arguments.

        Args:
            shuffle: another order (where the source can), and augmentation: for training.
            seed: of order, augmentation, and random transforms in the user's own data set.

        Raises:
            DataError: no batches, a malformed batch, examples of several shapes, or NaN in one of the first batches.
        """
        for structure, targets in self.structures(shuffle, seed):
            yield flat(structure), targets

    def structures(self, shuffle: bool = False, seed: int = 0) -> Iterator[tuple[Structure, Tensor]]:
        """As `batches`, the inputs in the tuples and dicts that the model is called with.

        Raises:
            DataError: as `batches`.
        """
        generator = augment_generator(seed)
        index, first = -1, None
        for index, raw in enumerate(self._batches(shuffle, seed)):
            where = f"the {self.name}, batch {index}"
            inputs, targets = as_batch(raw, where, self.keys)
            changed = False
            if shuffle and self.augment is not None:
                inputs, changed = self.augment(inputs, generator), True
            if self.transform is not None:
                inputs, changed = self.transform(inputs), True
            given = read_structure(inputs, where) if changed else inputs
            inputs = ordered(given, self.keys)
            if isinstance(given, Mapping):
                self.left_out = tuple(sorted(set(given) - set(inputs)))
            inputs = in_float32(inputs)  # here, not in memory, where whole data sets may be kept as float16
            if index < _CHECKED_BATCHES:
                check_inputs(inputs, where)
            shapes, form = example_shapes(inputs), outline(inputs)
            first = first or (shapes, form)
            if form != first[1]:
                raise DataError(f"{where}: the inputs are {form}, in batch 0 {first[1]}. Give them in one form.")
            if shapes != first[0]:
                raise DataError(
                    f"{where}: an example has the shape {_listed(shapes)}, in batch 0 "
                    f"{_listed(first[0])}. The network becomes a graph for one shape: crop, pad or resize to it."
                )
            yield inputs, targets
        if index < 0:
            raise DataError(
                f"the {self.name} gave no batch. If it did before, it can be read only once: pass something that "
                "begins anew each time, such as a list of batches or a DataLoader."
            )

    def example(self) -> Inputs:
        """The inputs of the first batch, without augmentation."""
        return flat(self.example_structure())

    def example_structure(self) -> Structure:
        """As `example`, in the tuples and dicts that the model is called with; for tracing it."""
        batches = self.structures()
        try:
            return next(batches)[0]
        finally:
            if hasattr(batches, "close"):
                batches.close()  # lets the workers of a DataLoader go

    def with_options(
        self,
        *,
        name: str | None = None,
        augment: Augment | None = None,
        transform: Transform | None = None,
        keys: Keys | None = None,
    ) -> Self:
        """A copy over the same data with another name, augmentation, transform or keys; None keeps what is there."""
        other = copy.copy(self)
        other.name = self.name if name is None else name
        other.augment = self.augment if augment is None else augment
        other.transform = self.transform if transform is None else transform
        other.keys = self.keys if keys is None else keys
        return other

    def _checked_count(self, count: int) -> int:
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise DataError(f"{count!r} examples of the {self.name} were asked for. Ask for a whole number above zero.")
        return count


def _listed(shapes: Iterable[tuple[int, ...]]) -> str:
    return " and ".join(map(str, shapes))
