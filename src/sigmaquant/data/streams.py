"""Sources that can only be read from the beginning: a `DataLoader`, or any re-iterable of batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, RandomSampler, SequentialSampler, Subset

from sigmaquant.data.batch import as_batch, examples_in
from sigmaquant.data.indexed import TensorSource
from sigmaquant.data.rng import OwnRandomness, order_generator
from sigmaquant.data.sources import Augment, DataSource, Transform
from sigmaquant.data.structure import Structure, leaves, mapped, ordered
from sigmaquant.errors import DataError, SigmaQuantError

_KEPT = (
    "collate_fn",
    "generator",
    "multiprocessing_context",
    "num_workers",
    "persistent_workers",
    "pin_memory",
    "prefetch_factor",
    "timeout",
    "worker_init_fn",
)
"""Options that a part of a `DataLoader` has from the whole."""

_MOST_BATCHES = 2**16
"""Of one pass over what has no length: CIFAR-10's images one by one are fewer, ImageNet's in batches of 32, too."""


def _takes_all(loader: DataLoader[Any]) -> bool:
    """Whether one pass gives every example of the data set once."""
    sampler = loader.sampler
    if type(sampler) is RandomSampler:
        return not sampler.replacement and sampler.num_samples == len(loader.dataset)  # type: ignore[arg-type]
    return type(sampler) is SequentialSampler


class StreamSource(DataSource):
    """Batches as an iterable gives them; each pass calls ``iter`` anew.

    A list or tuple of batches is shuffled batch-wise. Everything else decides its order itself: pass a `DataLoader`
    with ``shuffle=True`` for training. A `DataLoader`'s order and its data set's random transforms follow the seed,
    since its generators are set for each pass and put back afterwards; workers kept alive by ``persistent_workers`` are
    the exception, because PyTorch seeds them only once.

    Args:
        batches: gives ``(inputs, targets)`` pairs.
        name: see `DataSource`, as the rest; the batch size is the iterable's own.
    """

    def __init__(
        self,
        batches: Any,
        *,
        name: str = "data",
        batch_size: int = 128,
        augment: Augment | None = None,
        transform: Transform | None = None,
    ) -> None:
        own = getattr(batches, "batch_size", None)
        super().__init__(name, own if isinstance(own, int) and own > 0 else batch_size, augment, transform)
        self.iterable = batches
        # `iter` on a DataLoader starts its workers, and it is never its own iterator.
        if not isinstance(batches, DataLoader) and iter(batches) is batches:
            raise DataError(
                f"the {name} is a {type(batches).__name__}, which can be read only once, but the data are needed many "
                "times. Pass a list of batches, a DataLoader, or an object whose __iter__ begins anew."
            )
        if self.batch_count == 0:
            raise DataError(f"the {name} is empty.")

    @property
    def examples(self) -> int | None:
        """Number of examples of a list of batches or of a `DataLoader` over a sized sampler, else None."""
        loader = self.iterable
        if isinstance(loader, list | tuple):
            return sum(examples_in(as_batch(item, f"the {self.name}", self.keys)[0]) for item in loader)
        if not isinstance(loader, DataLoader) or loader.batch_size is None or self.batch_count is None:
            return None
        if loader.drop_last:
            return self.batch_count * loader.batch_size
        try:
            return len(loader.sampler)  # type: ignore[arg-type]  # not every sampler has a length
        except TypeError:
            return None

    @property
    def batch_count(self) -> int | None:
        """The iterable's length, or None when it has none."""
        try:
            return len(self.iterable)
        except TypeError:
            return None

    def _generators(self) -> list[torch.Generator]:
        """The user's generators that decide a `DataLoader`'s order; one that several parts share comes once."""
        holders = [
            self.iterable,
            getattr(self.iterable, "sampler", None),
            getattr(self.iterable, "batch_sampler", None),
        ]
        found = [getattr(holder, "generator", None) for holder in holders]
        unique = {id(generator): generator for generator in found if isinstance(generator, torch.Generator)}
        return [generator for generator in unique.values() if generator.device.type == "cpu"]

    def _batches(self, shuffle: bool, seed: int) -> Iterator[Any]:
        if isinstance(self.iterable, Sequence):
            order = torch.randperm(len(self.iterable), generator=order_generator(seed)) if shuffle else None
            for index in range(len(self.iterable)):
                yield self.iterable[index if order is None else int(order[index])]
            return
        randomness = OwnRandomness(seed, self._generators())
        end = object()
        with randomness():
            iterator = iter(self.iterable)
        for index in range(2**62):
            try:
                with randomness():
                    batch = next(iterator, end)
            except SigmaQuantError:
                raise
            except Exception as error:
                raise DataError(
                    f"batch {index} of the {self.name} could not be read: {type(error).__name__}: {error}."
                ) from error
            if batch is end:
                return
            if index >= _MOST_BATCHES and self.batch_count is None:
                raise DataError(
                    f"the {self.name} gave {index} batches in one pass and did not end. If it is endless, end it, such "
                    "as by itertools.islice in its __iter__; if it is only long, give it a __len__."
                )
            yield batch

    def sizes(self) -> Tensor:
        """Examples in each of those that `select` chooses among: a `DataLoader`'s examples, or whole batches of a list.

        Raises:
            DataError: the data have no such numbered parts.
        """
        if isinstance(self.iterable, Sequence):
            where = f"the {self.name}, batch"
            batches = [as_batch(item, f"{where} {n}", self.keys)[0] for n, item in enumerate(self.iterable)]
            return torch.tensor([examples_in(batch) for batch in batches])
        return torch.ones(len(self._divisible().dataset), dtype=torch.int64)  # type: ignore[arg-type]

    def select(self, index: Tensor, *, in_order: bool = False) -> Self:
        """A copy with the examples or batches at `index` ``[n]``, in that order where nothing is shuffled.

        Args:
            index: their numbers.
            in_order: let a `DataLoader` not shuffle, and give its last batch, too.

        Raises:
            DataError: as for `sizes`.
        """
        other = self.with_options()
        if isinstance(self.iterable, Sequence):
            other.iterable = [self.iterable[number] for number in index.tolist()]
        else:
            loader = self._divisible()
            other.iterable = DataLoader(
                Subset(loader.dataset, index.tolist()),
                batch_size=loader.batch_size,
                shuffle=not in_order and isinstance(loader.sampler, RandomSampler),
                drop_last=not in_order and loader.drop_last,
                **{option: getattr(loader, option) for option in _KEPT},
            )
        if other.batch_count == 0:
            raise DataError(f"{len(index)} examples of the {self.name} make no batch of {self.batch_size}.")
        return other

    def _divisible(self) -> DataLoader[Any]:
        loader, reason = self.iterable, None
        if not isinstance(loader, DataLoader):
            reason = f"a {type(loader).__name__} has no numbered examples"
        elif isinstance(loader.dataset, IterableDataset):
            reason = f"a stream of examples, as of the {type(loader.dataset).__name__}, has no numbers for them"
        elif type(loader) is not DataLoader:
            reason = f"what the {type(loader).__name__} does besides what a DataLoader does is not known"
        elif loader.batch_size is None or type(loader.batch_sampler) is not BatchSampler:
            reason = "the DataLoader leaves it to others what makes a batch"
        elif not _takes_all(loader):
            reason = f"the DataLoader's {type(loader.sampler).__name__} decides which examples come"
        if reason is not None:
            raise DataError(
                f"the {self.name} cannot be split, because {reason}. Pass the data set itself, a DataLoader over it "
                "or a list of batches, or give the validation data on their own."
            )
        return loader  # type: ignore[no-any-return]

    def take(self, count: int) -> TensorSource:
        """The first `count` examples of a pass with seed 0, read into memory, before augmentation and transform.

        Raises:
            DataError: `count` is below one, or batches of different shapes.
        """
        left = self._checked_count(count)
        inputs: list[Structure] = []
        targets: list[Tensor] = []
        for index, raw in enumerate(self._batches(False, 0)):
            batch, target = as_batch(raw, f"the {self.name}, batch {index}", self.keys)
            inputs.append(mapped(ordered(batch, self.keys), lambda item, most=left: item[:most]))  # type: ignore[misc]
            targets.append(target[:left])
            left -= len(targets[-1])
            if left == 0:
                break
        if not targets:
            raise DataError(f"the {self.name} is empty.")
        try:
            columns = iter([torch.cat(column) for column in zip(*map(leaves, inputs), strict=True)])
        except (RuntimeError, ValueError) as error:
            raise DataError(f"batches of the {self.name} do not fit together: {error}") from None
        taken = TensorSource(
            mapped(inputs[0], lambda _: next(columns)),
            torch.cat(targets),
            name=self.name,
            batch_size=self.batch_size,
            augment=self.augment,
            transform=self.transform,
        )
        return taken.with_options(keys=self.keys)
