"""`as_source` takes data in the forms users have them; `split` sets some aside for validation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from sigmaquant.data.batch import ANY_KEYS, check_inputs
from sigmaquant.data.indexed import DatasetSource, IndexedSource, TensorSource
from sigmaquant.data.rng import order_generator
from sigmaquant.data.sources import Augment, DataSource, Transform
from sigmaquant.data.streams import StreamSource
from sigmaquant.data.structure import Keys, all_arrays, leaves, ordered
from sigmaquant.data.tensors import describe, is_array
from sigmaquant.errors import DataError

_ACCEPTED = "Pass a pair (inputs, targets) of tensors or arrays, a torch Dataset, a DataLoader, or a list of batches."


def _is_pair(data: Any) -> bool:
    """Whether it is ``(inputs, targets)`` rather than two batches, each of which would be a pair itself."""
    if not isinstance(data, tuple | list) or len(data) != 2 or not is_array(data[1]):
        return False
    return all_arrays(data[0])


def as_source(
    data: Any,
    *,
    batch_size: int = 128,
    name: str | None = None,
    augment: Augment | None = None,
    transform: Transform | None = None,
    keys: Keys | None = None,
) -> DataSource:
    """The data as a `DataSource`; its first batch is read and checked at once.

    Float64 inputs become float32, and integer targets int64.

    Args:
        data: one of

            - a pair ``(inputs, targets)`` of tensors or NumPy arrays ``[n, …]``; ``inputs`` may be a tuple of them
              for a model with several arguments,
            - a mapping of tensors or arrays ``[n, …]``: the model's arguments by their names, and the targets,
            - a torch ``Dataset`` of ``(input, target)`` pairs or of such mappings,
            - a ``DataLoader``, or a list or any other re-iterable of ``(inputs, targets)`` batches or mappings, which
              keep their own batch size; inputs may be tuples or mappings,
            - a `DataSource`, which is given back with its own batch size and with what else is asked for.
        batch_size: examples in a batch.
        name: for messages, such as ``"training data"``; None: a `DataSource`'s own, else ``"data"``.
        augment: takes the inputs of a batch and a `torch.Generator`; applied only when shuffling, for training.
        transform: takes the inputs of a batch; applied always, after `augment`.
        keys: what the entries of mappings mean; None: the targets are under ``"labels"``, all else are inputs.

    Raises:
        DataError: no data, data of another form, inputs and targets that do not match, a dtype that layers do not take,
            NaN or infinite inputs, or an iterator that can be read only once.

    Example:
        >>> source = as_source((torch.zeros(10, 3), torch.zeros(10, dtype=torch.long)), batch_size=4)
        >>> source.examples, [len(targets) for _, targets in source.batches(shuffle=True, seed=1)]
        (10, [4, 4, 2])
    """
    if name is None:
        name = data.name if isinstance(data, DataSource) else "data"
    options: dict[str, Any] = {"batch_size": batch_size, "name": name, "augment": augment, "transform": transform}
    source: DataSource
    if isinstance(data, DataSource):
        source = data.with_options(name=name, augment=augment, transform=transform, keys=keys)
    elif isinstance(data, Mapping):
        source = TensorSource(*(keys or ANY_KEYS).split(data, f"the {name}"), **options)
    elif _is_pair(data):
        source = TensorSource(data[0], data[1], **options)
    elif isinstance(data, TensorDataset) and len(data.tensors) == 2:
        source = TensorSource(*data.tensors, **options)
    elif isinstance(data, IterableDataset):
        source = StreamSource(DataLoader(data, batch_size=batch_size), **options)
    elif isinstance(data, Dataset) or _is_table(data):
        if not hasattr(data, "__len__"):
            raise DataError(f"the {name} is a {type(data).__name__} without a length. Give it `__len__`.")
        source = DatasetSource(data, **options)
    elif is_array(data):
        raise DataError(f"the {name} is one {describe(data)}, without targets. {_ACCEPTED}")
    elif isinstance(data, str | bytes) or not hasattr(data, "__iter__"):
        raise DataError(f"the {name} is a {describe(data)}. {_ACCEPTED}")
    else:
        source = StreamSource(data, **options)
    source = source.with_options(keys=keys)
    source.example()
    if isinstance(source, TensorSource) and source.transform is None:
        _check_all(source)
    return source


def _is_table(data: Any) -> bool:
    """Whether it has numbered examples by columns, as Hugging Face's data sets, which are no torch ``Dataset``."""
    return all(hasattr(data, name) for name in ("column_names", "__getitem__", "__iter__"))


def _check_all(source: TensorSource, most: int = 2**26) -> None:
    """Check every example where that takes a moment only; one NaN in the middle would show as a NaN loss much later."""
    for tensor in leaves(ordered(source.inputs, source.keys)):
        if tensor.numel() <= most:
            check_inputs(tensor, f"the {source.name}")


def split(
    source: DataSource, fraction: float | None = None, size: int | None = None, seed: int = 0
) -> tuple[DataSource, DataSource]:
    """Training and validation data from one source, disjoint, the same for the same seed.

    The validation part keeps the original order of its examples. A data set's own transforms apply to both parts.

    The parts of a `DataLoader` are loaded as the whole was. A list of batches is split between batches: as few as hold
    that many examples become the validation part. In both cases that part is in a drawn order, always the same, since
    of such data a search looks at the first examples.

    Args:
        source: made of a pair, a torch data set, a `DataLoader` over one, or a list of batches.
        fraction: part of the examples for validation, above 0 and below 1 (default 0.1).
        size: number of examples for validation, instead of `fraction`.
        seed: which examples.

    Raises:
        DataError: the source cannot be split, or a part would be empty.

    Example:
        >>> data = as_source((torch.zeros(10, 3), torch.arange(10)))
        >>> [part.examples for part in split(data, size=3)]
        [7, 3]
    """
    if isinstance(source, IndexedSource):
        sizes = torch.ones(source.examples, dtype=torch.int64)
    elif isinstance(source, StreamSource):
        sizes = source.sizes()
    else:
        raise DataError(
            f"the {source.name} cannot be split, because a {type(source).__name__} has no numbered examples. "
            "Give the validation data on their own."
        )
    if fraction is not None and size is not None:
        raise DataError("the validation data were given as a fraction and as a size. Give one of the two.")
    total = int(sizes.sum())
    count = size if size is not None else round(total * (0.1 if fraction is None else fraction))
    order = torch.randperm(len(sizes), generator=order_generator(seed))
    held = 1 + int((sizes[order].cumsum(0) < count).sum())
    if not 0 < count < total or held == len(sizes):
        raise DataError(
            f"{count} of {total} examples of the {source.name} for validation leaves one part without any. "
            "Both parts need at least one example, or one batch of a list of batches."
        )
    train, drawn = source.select(order[held:].sort().values), order[:held]
    validation: DataSource
    if isinstance(source, IndexedSource):
        validation = source.select(drawn.sort().values)
    else:
        validation = source.select(drawn, in_order=True)
    return train, validation.with_options(name="validation data")
