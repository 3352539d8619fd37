"""The processes of a run, and what they tell each other.

Every process runs the same program on the same data and takes the same decisions. Parts of a batch, or some of the
batches, are computed in one process each; what comes of them is added up or gathered, so that all go on from the same
numbers. Whatever may differ between processes, above all the time, is the first one's word.

Without a group, or within `alone`, there is one process, and every function here gives back what it was given.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from sigmaquant.errors import DistributedError

_BUCKET = 16 * 1024 * 1024
"""Values that are added up at once: gradients never lie in memory twice as a whole."""

_on = False


def switch(on: bool) -> bool:
    """Take part in the group of processes or not; returns what held before."""
    global _on
    before, _on = _on, on
    return before


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """While active, this process computes for itself: for what the others do not take part in."""
    before = switch(False)
    try:
        yield
    finally:
        switch(before)


def world_size() -> int:
    """How many processes compute together."""
    return dist.get_world_size() if _on else 1


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if _on else 0


def is_main() -> bool:
    """Whether this is the process that writes files and talks to the user."""
    return rank() == 0


def mine(number: int) -> bool:
    """Whether the piece of work of this number is this process's."""
    return number % world_size() == rank()


@contextlib.contextmanager
def _together() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # torch.distributed has no narrower class for a connection that is gone
        raise DistributedError(
            f"process {rank()} of {world_size()} has lost the others: one of them ended, see its own message "
            f"({str(error).partition(chr(10))[0][:200]}). Continue the run with resume."
        ) from error


def agreed(value: Any) -> Any:
    """The first process's value, which is pickled."""
    if world_size() == 1:
        return value
    found = [value if is_main() else None]
    with _together():
        dist.broadcast_object_list(found, src=0)
    return found[0]


def gathered(value: Any) -> list[Any]:
    """The values of all processes, in their order."""
    if world_size() == 1:
        return [value]
    found: list[Any] = [None] * world_size()
    with _together():
        dist.all_gather_object(found, value)
    return found


def same_everywhere(value: Any, what: str) -> None:
    """Raise where processes do not do the same.

    Args:
        value: to be compared.
        what: for the message, such as ``"training batches"``.

    Raises:
        DistributedError: it differs.
    """
    found = gathered(value)
    if any(other != found[0] for other in found):
        raise DistributedError(
            f"the processes have different {what}. All must read the same data in the same order: give data loaders "
            "and augmentations a seed, and let every process see the same files."
        )


def share_tensors_(tensors: Iterable[Tensor]) -> None:
    """Give every process the first one's values, in place."""
    if world_size() == 1:
        return
    with _together(), torch.no_grad():
        for tensor in tensors:
            dense = tensor.detach().clone(memory_format=torch.contiguous_format)
            dist.broadcast(dense, src=0)
            tensor.copy_(dense)


def sum_tensors_(tensors: list[Tensor]) -> None:
    """Replace tensors of one type by their sums over all processes, in place; the same bits everywhere."""
    if world_size() == 1:
        return
    bucket: list[Tensor] = []
    for tensor in [*tensors, None]:
        if bucket and (tensor is None or sum(x.numel() for x in bucket) + tensor.numel() > _BUCKET):
            flat = torch.cat([x.reshape(-1) for x in bucket])
            with _together():
                dist.all_reduce(flat)
            for x, part in zip(bucket, torch.split(flat, [x.numel() for x in bucket]), strict=True):
                x.copy_(part.view(x.shape))
            bucket = []
        if tensor is not None:
            bucket.append(tensor)


State = tuple[int, dict[str, Tensor], dict[str, Any]]


def agreed_state(load: Callable[[], State | None]) -> State | None:
    """The state that the first process loads; the others need not see its files.

    Tensors travel one by one.
    """
    saved = load() if is_main() else None
    if world_size() == 1:
        return saved
    outline = None
    if saved is not None:
        outline = saved[0], {key: (value.shape, value.dtype) for key, value in saved[1].items()}, saved[2]
    outline = agreed(outline)
    if outline is None:
        return None
    step, shapes, meta = outline
    tensors = (
        saved[1] if saved is not None else {k: torch.empty(shape, dtype=kind) for k, (shape, kind) in shapes.items()}
    )
    share_tensors_(tensors.values())
    return step, tensors, meta
