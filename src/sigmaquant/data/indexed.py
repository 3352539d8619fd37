"""Sources whose examples have numbers, so that they can be shuffled and split: tensors in memory, torch data sets."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils.data import default_collate

from sigmaquant.data.batch import as_batch, examples_in, gather, rows
from sigmaquant.data.rng import OwnRandomness, order_generator
from sigmaquant.data.sources import Augment, DataSource, Transform
from sigmaquant.data.structure import mapped
from sigmaquant.errors import DataError, SigmaQuantError


def bounds(examples: int, batch_size: int) -> list[tuple[int, int]]:
    """First and last-but-one example of each batch.

    A single example left over joins the batch before it: alone, it has no variance for BatchNorm to train on.

    Example:
        >>> bounds(7, 3), bounds(8, 3)
        ([(0, 3), (3, 7)], [(0, 3), (3, 6), (6, 8)])
    """
    starts = list(range(0, examples, batch_size))
    if len(starts) > 1 and batch_size > 1 and examples - starts[-1] == 1:
        starts.pop()
    return list(zip(starts, [*starts[1:], examples], strict=True))


class IndexedSource(DataSource):
    """A source whose examples have numbers, so that it can be shuffled and split."""

    @property
    @abstractmethod
    def examples(self) -> int:
        """Number of examples."""

    @property
    def batch_count(self) -> int:
        """Number of batches of one pass."""
        return len(bounds(self.examples, self.batch_size))

    @abstractmethod
    def select(self, index: Tensor) -> Self:
        """A source of the examples at `index` ``[n]``, in that order."""

    def take(self, count: int) -> Self:
        """The first `count` examples (all, if there are fewer)."""
        return self.select(torch.arange(min(self._checked_count(count), self.examples)))

    def _indices(self, shuffle: bool, seed: int) -> Iterator[Tensor]:
        order = torch.randperm(self.examples, generator=order_generator(seed)) if shuffle else None
        for start, end in bounds(self.examples, self.batch_size):
            yield torch.arange(start, end) if order is None else order[start:end]


class TensorSource(IndexedSource):
    """Inputs and targets in memory: a batch is one `index_select`.

    Args:
        inputs: ``[n, …]``, or several of them in tuples or mappings.
        targets: ``[n, …]``.
        name: see `DataSource`, as the rest.
    """

    def __init__(
        self,
        inputs: Any,
        targets: Any,
        *,
        name: str = "data",
        batch_size: int = 128,
        augment: Augment | None = None,
        transform: Transform | None = None,
    ) -> None:
        super().__init__(name, batch_size, augment, transform)
        self.inputs, self.targets = as_batch((inputs, targets), f"the {name}")

    @property
    def examples(self) -> int:
        """Number of examples."""
        return examples_in(self.inputs)

    @property
    def repeats(self) -> bool:
        """Whether every pass gives the very same examples."""
        return self.augment is None

    def select(self, index: Tensor) -> Self:
        """A copy with the examples at `index`."""
        other = self.with_options()
        other.inputs, other.targets = gather(self.inputs, index), rows(self.targets, index)
        return other

    def take(self, count: int) -> Self:
        """The first `count` examples (all, if there are fewer), without a copy."""
        count = self._checked_count(count)
        other = self.with_options()
        other.inputs = mapped(self.inputs, lambda tensor: tensor[:count])
        other.targets = self.targets[:count]
        return other

    def _batches(self, shuffle: bool, seed: int) -> Iterator[Any]:
        for index in self._indices(shuffle, seed):
            yield gather(self.inputs, index), rows(self.targets, index)


class DatasetSource(IndexedSource):
    """A map-style torch data set, read in this process. For worker processes, pass a `DataLoader` instead.

    Args:
        dataset: ``dataset[i]`` gives ``(input, target)``; ``len(dataset)`` examples.
        name: see `DataSource`, as the rest.
    """

    def __init__(
        self,
        dataset: Any,
        *,
        name: str = "data",
        batch_size: int = 128,
        augment: Augment | None = None,
        transform: Transform | None = None,
    ) -> None:
        super().__init__(name, batch_size, augment, transform)
        self.dataset = dataset
        self._index = torch.arange(len(dataset))
        if not len(self._index):
            raise DataError(f"the {name} is empty.")

    @property
    def examples(self) -> int:
        """Number of examples."""
        return len(self._index)

    def select(self, index: Tensor) -> Self:
        """A copy with the examples at `index`."""
        other = self.with_options()
        other._index = self._index[index]
        return other

    def _batches(self, shuffle: bool, seed: int) -> Iterator[Any]:
        randomness = OwnRandomness(seed)
        for index in self._indices(shuffle, seed):
            with randomness():
                examples = [self._read(number) for number in self._index[index].tolist()]
            for number, example in zip(self._index[index].tolist(), examples, strict=True):
                if not isinstance(example, Mapping) and (not isinstance(example, tuple | list) or len(example) != 2):
                    raise DataError(
                        f"example {number} of the {self.name} is a {type(example).__name__}, not a pair "
                        "(input, target) or a mapping. Wrap the data set so that it gives pairs."
                    )
            try:
                yield default_collate([_collatable(example) for example in examples])
            except (RuntimeError, TypeError, ValueError, KeyError) as error:
                raise DataError(
                    f"examples of the {self.name} cannot be put into one batch ({error}). Give them one shape and "
                    "type, or pass a DataLoader with your own `collate_fn`."
                ) from error

    def _read(self, number: int) -> Any:
        try:
            return self.dataset[number]
        except SigmaQuantError:
            raise
        except Exception as error:
            raise DataError(
                f"example {number} of the {self.name} could not be read: {type(error).__name__}: {error}."
            ) from error


def _collatable(example: Any) -> Any:
    """An example whose lists of numbers, such as a tokenizer's, are arrays, and without what can be none."""
    if not isinstance(example, Mapping):
        return tuple(example)
    found: dict[str, Any] = {}
    for key, value in example.items():
        if isinstance(value, list):
            try:
                value = torch.as_tensor(value)
            except (TypeError, ValueError, RuntimeError):
                continue  # texts, say
        if value is not None:
            found[str(key)] = value
    return found
