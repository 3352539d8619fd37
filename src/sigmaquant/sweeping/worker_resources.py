"""What each worker asks of Ray, such that all of them find room: one that finds none would wait for ever."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sigmaquant.errors import SigmaQuantError

_GRAIN = 10_000
"""Ray counts GPUs in parts of this size, and rounds to the nearest: a sixth each would not fit six times."""


@dataclass(frozen=True)
class Share:
    """What one worker gets.

    Attributes:
        threads: processors.
        gpus: GPUs; a part of one where several workers share it.
    """

    threads: int
    gpus: float


def share(
    machines: Iterable[Mapping[str, float]], jobs: int, *, on_gpu: bool = False, threads: int | None = None
) -> Share:
    """The largest equal share: as few workers on a GPU as there must be, then as many threads as there are.

    A worker lies on one machine, and its part of a GPU on one GPU.

    Args:
        machines: each one's resources as Ray names them.
        jobs: how many workers there shall be.
        on_gpu: whether they compute on GPUs.
        threads: of each worker; None: as many as fit.

    Raises:
        SigmaQuantError: so many workers do not fit.

    Example:
        >>> share([{"CPU": 16, "GPU": 2}], 3, on_gpu=True)
        Share(threads=5, gpus=0.5)
        >>> share([{"CPU": 8}, {"CPU": 4}], 3)
        Share(threads=4, gpus=0.0)
    """
    sizes = [(int(machine.get("CPU", 0)), int(machine.get("GPU", 0))) for machine in machines]

    def room(each: int, on_one: int) -> int:
        return sum(min(cpus // each, gpus * on_one) if on_gpu else cpus // each for cpus, gpus in sizes)

    most = max((cpus for cpus, _ in sizes), default=0)
    for on_one in range(1, jobs + 1) if on_gpu else (1,):
        for each in range(most, 0, -1) if threads is None else (threads,):
            if room(each, on_one) >= jobs:
                return Share(each, math.floor(_GRAIN / on_one) / _GRAIN if on_gpu else 0.0)
    if on_gpu and not any(gpus for _, gpus in sizes):
        raise SigmaQuantError("no machine of the Ray cluster offers a GPU. Give it some, or use the device 'cpu'.")
    raise SigmaQuantError(
        f"{jobs} workers do not fit on the Ray cluster, which has room for {room(threads or 1, jobs)}. Use no more "
        "jobs than that, or give it more processors."
    )
