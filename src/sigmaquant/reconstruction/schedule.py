"""How many steps each block is learned for: a time becomes numbers of steps once, which a resumed run keeps."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

_EVEN = 0.3
"""Share of the time that is dealt out by a step's cost alone, the rest by cost and error."""
_MOST_STEPS = 4000
_WHOLE = 0.4
"""Share of the time for the whole network, after its blocks, at most."""
_WHOLE_PASSES = 3
"""Over the examples, at most: all layers together fit a few hundred of them fast, and no others."""
_PASSES = 0.25
"""Largest share of the time for the passes over the examples that are no steps."""
_FEW_STEPS = 40
"""For a block: with fewer, smaller steps bring more than their noise costs, and with a handful nothing is learned."""
LEAST_BATCHES = 4


@dataclass(frozen=True)
class Profile:
    """What one step of a block takes, and how far off the block is to begin with.

    Attributes:
        seconds: of a step.
        distance: of its outputs from the float network's; 0 where it has no layers.
    """

    seconds: float
    distance: float


@dataclass(frozen=True)
class Schedule:
    """What is done in a reconstruction.

    Attributes:
        batches: that are looked at.
        steps: of each block.
        parts: into which each batch is cut for the blocks; a step is one of them.
    """

    batches: int
    steps: tuple[int, ...]
    parts: int = 1

    def in_parts(self, most: int, blocks: int) -> Schedule:
        """The same time in more and smaller steps, where blocks have few.

        Args:
            most: into which a batch may be cut, a power of two.
            blocks: the first so many; the rest are as they were.
        """
        learned = [steps for steps in self.steps[:blocks] if steps]
        parts = 1
        while parts < most and parts * sum(learned) < _FEW_STEPS * len(learned):
            parts *= 2
        return Schedule(self.batches, (*(parts * n for n in self.steps[:blocks]), *self.steps[blocks:]), parts)


def deal(
    profiles: Sequence[Profile], seconds: float, batches: int, whole: Profile | None = None, parts: int = 1
) -> Schedule:
    """Steps for all blocks, in a given time; none where it does not suffice.

    The time of a block goes with the square root of its error, since twice the steps help less than twice as much.

    Args:
        profiles: of the blocks, in order.
        seconds: for everything, the passes over the examples included.
        batches: at most.
        whole: of the whole network, which is learned after its blocks: the last one of the schedule.
        parts: of a batch, each of which is a step of the whole network.
    """
    if whole is not None:
        share = min(_WHOLE * seconds, (1 + _WHOLE_PASSES) * parts * batches * whole.seconds)
        begun = deal(profiles, seconds - share, batches)
        steps_of_pass = parts * begun.batches
        last = int(share / whole.seconds) - steps_of_pass if any(begun.steps) else 0
        if last < _FEW_STEPS:
            alone = deal(profiles, seconds, batches)
            return Schedule(alone.batches, (*alone.steps, 0))
        return Schedule(begun.batches, (*begun.steps, max(0, min(last, _WHOLE_PASSES * steps_of_pass))))
    step = sum(profile.seconds for profile in profiles)  # one of every block; a pass over a batch takes as long
    if not step > 0 or not math.isfinite(seconds):
        return Schedule(batches, (0,) * len(profiles))
    used = min(batches, max(LEAST_BATCHES, int(_PASSES * seconds / step)))
    left = seconds - used * step
    weights = [p.seconds * math.sqrt(p.distance) if math.isfinite(p.distance) else 0.0 for p in profiles]
    even, uneven = step, sum(weights)
    steps = []
    for profile, weight in zip(profiles, weights, strict=True):
        share = _EVEN * profile.seconds / even + ((1 - _EVEN) * weight / uneven if uneven else 0.0)
        possible = left * share / profile.seconds if weight and left > 0 else 0.0
        steps.append(min(_MOST_STEPS, int(possible)))
    return Schedule(used, tuple(steps))


def clock(device: str) -> float:
    """Seconds of computing: on a CPU the process's own, by thread, which other programs do not lengthen."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
        return time.perf_counter()
    return time.process_time() / torch.get_num_threads()
