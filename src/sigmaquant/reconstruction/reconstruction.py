"""`Reconstruction`: a quantized network's blocks, learned one after the other from what flows through both networks.

AdaRound (arXiv 2004.10568), BRECQ (arXiv 2102.05426) and QDrop (arXiv 2203.05740) learn rounding block by block from a
few hundred examples without labels. Here every block begins at rounding with error compensation, sees the inputs that
the quantized network gives it, and is to give what the float network gives. After its blocks the whole network is
learned as one, so that each layer knows what all the others did to the outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from sigmaquant.quant import counted_positions
from sigmaquant.quant.network import QuantizedNetwork, prepare
from sigmaquant.reconstruction.blocks import Block, Values, find_blocks, left_alone, run_block, whole_network
from sigmaquant.reconstruction.learning import COUNTED, Distance, learn_
from sigmaquant.reconstruction.schedule import Profile, Schedule, clock, deal
from sigmaquant.tasks import Task

BATCH = 32
"""Examples of a step."""
SMALL_BATCH = 4
"""Likewise, at least, where the time allows few steps."""
WHOLE_BATCH = 16
"""Examples of a step of the whole network, which keeps the values of all layers at once."""
_MOST_BYTES = 1 << 31
"""Of the values between two blocks, of both networks and all batches."""


class Reconstruction:
    """Learns a network's blocks in order.

    Args:
        network: at its plan and calibrated; its weights are best left where error compensation rounded them
            (``settle=False``).
        batches: inputs only, each a tensor or a tuple of tensors, on the network's device.
        task: what counts of the network's outputs, and their distance.
        seed: of the batches' order.

    Attributes:
        blocks: all of them, in order; where there are several, the whole network is the last one.
        whole: that one.
        left_alone: names of the layers that are not learned.
        done: number of the blocks that are behind.
    """

    def __init__(self, network: QuantizedNetwork, batches: Sequence[Any], task: Task, seed: int) -> None:
        self.network, self.seed, self._task = network, seed, task
        parts = find_blocks(network)
        self.whole = whole_network(network) if len(parts) > 1 else None
        self.blocks = parts if self.whole is None else (*parts, self.whole)
        self.left_alone = left_alone(network.graph, self.blocks)
        self.done = 0
        self._inputs = [node.name for node in network.body.graph.nodes if node.op == "placeholder"]
        self._float = prepare(network.graph).eval()  # without a plan: the float network, with the same names
        self._batches = in_batches(batches, BATCH)
        self._device = str(next(network.parameters()).device)
        self._used: list[Any] = []
        self._known: list[Values] = []
        self._wanted: list[Values] = []

    def schedule(self, seconds: float) -> Schedule:
        """What can be done in a time; measured on one batch, so that it is another on another machine or day."""
        if not self._batches:
            return Schedule(0, (0,) * len(self.blocks))
        with self._evaluating():
            profiles, largest = [], 0
            known = self._begun(self._batches[0])
            wanted = dict(known)
            for index, block in enumerate(self.blocks):
                if block is self.whole:
                    known = self._begun(in_batches(self._batches[:1], WHOLE_BATCH)[0])
                    wanted = dict(known)
                wanted = self._passed(index, wanted, self._float_values(block, wanted))
                found, profile = self._profile(block, known, wanted)
                profiles.append(profile)
                known = self._passed(index, known, found)
                largest = max(largest, _bytes(known) + _bytes(wanted))
        fitting = max(1, _MOST_BYTES // max(1, largest))
        most = min(len(self._batches), fitting)
        parts, whole = (profiles, None) if self.whole is None else (profiles[:-1], profiles[-1])
        dealt = deal(parts, seconds, most, whole, BATCH // WHOLE_BATCH)
        return dealt.in_parts(BATCH // SMALL_BATCH, len(parts))

    def fixed(self, steps: int) -> Schedule:
        """The same number of steps for every block, on all batches."""
        return Schedule(len(self._batches), tuple(steps if block.layers else 0 for block in self.blocks))

    def begin(self, batches: int, done: int = 0, parts: int = 1) -> None:
        """Go to a block: its inputs come from the network as it is, whose blocks before it have been learned.

        Args:
            batches: that are looked at.
            done: blocks that have been learned.
            parts: into which each batch is cut.
        """
        self._used = self._batches[:batches]
        self._known = [self._begun(x) for x in in_batches(self._used, BATCH // parts)]
        self._wanted = [dict(x) for x in self._known]
        self.done = 0
        while self.done < done:
            self.learn(0)

    def learn(self, steps: int, progress: Callable[[float], None] | None = None) -> tuple[float, float]:
        """Learn the next block, and go behind it.

        Args:
            steps: 0 leaves the block as it is.
            progress: called after every step with its distance.

        Returns:
            Mean distance of the block's outputs before and after; zeros where nothing was learned.
        """
        index, block, result = self.done, self.blocks[self.done], (0.0, 0.0)
        if block is self.whole:  # from the inputs again, in batches of its own
            self._known = [self._begun(x) for x in in_batches(self._used, WHOLE_BATCH)]
            self._wanted = [dict(x) for x in self._known]
        with self._evaluating():
            wanted = [self._passed(index, y, self._float_values(block, y)) for y in self._wanted]
            if steps and block.layers and self._known:
                distance = Distance(self.network, block, self._task)
                seed = self.seed + 7919 * index
                result = learn_(self.network, block, distance, self._known, wanted, steps, seed, progress)
            with torch.no_grad():
                body = self.network.body
                self._known = [self._passed(index, x, run_block(block, body, x)) for x in self._known]
        self._wanted = wanted
        self.done += 1
        return result

    def _profile(self, block: Block, known: Values, wanted: Values) -> tuple[Values, Profile]:
        distance, body = Distance(self.network, block, self._task), self.network.body
        weights = [self.network.weight(name) for name in block.layers]
        times = []
        value = 0.0
        for _ in range(2):  # the first one also allocates
            start = clock(self._device)
            found = run_block(block, body, known)
            if weights:
                loss = distance({**known, **found}, wanted)
                value = float(loss.detach())
                torch.autograd.grad(loss, weights, allow_unused=True)
            times.append(clock(self._device) - start)
        detached = {name: v.detach() if isinstance(v, Tensor) else v for name, v in found.items()}
        return detached, Profile(min(times), value)

    @torch.no_grad()
    def _float_values(self, block: Block, known: Values) -> Values:
        return run_block(block, self._float.body, known)

    @cached_property
    def _needed(self) -> list[set[str]]:
        """Names of the values that are needed behind each block."""
        output = self.network.body.graph.output_node()
        returned = {node.name for node in output.all_input_nodes}
        blocks = [block for block in self.blocks if block is not self.whole]
        needed = [returned] * (1 + len(self.blocks) - len(blocks))
        for block in reversed(blocks[1:]):
            needed.append(needed[-1] | {node.name for node in block.inputs})
        return needed[::-1]

    def _passed(self, index: int, known: Values, found: Values) -> Values:
        values = {**known, **found}
        return {name: value for name, value in values.items() if name == COUNTED or name in self._needed[index]}

    def _begun(self, batch: Any) -> Values:
        given = batch if isinstance(batch, tuple | list) else (batch,)
        found = dict(zip(self._inputs, given, strict=False))
        counted = counted_positions(self.network.graph.module, given)
        return found if counted is None else {**found, COUNTED: counted}

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """The network in evaluation mode; the float one always is."""
        training = self.network.training
        self.network.eval()
        try:
            yield
        finally:
            self.network.train(training)


def in_batches(batches: Sequence[Any], size: int) -> list[Any]:
    """The same examples in batches of one size; those left over at the end of a given batch are a batch of their own.

    Args:
        batches: tensors or tuples of tensors.
        size: of a batch, at most.
    """
    result: list[Any] = []
    for batch in batches:
        several = isinstance(batch, tuple | list)
        count = len(batch[0] if several else batch)
        for start in range(0, count, size):
            part = slice(start, start + size)
            result.append(type(batch)(x[part] for x in batch) if several else batch[part])
    return result


def _bytes(values: Values) -> int:
    return sum(v.numel() * v.element_size() for v in values.values() if isinstance(v, Tensor))
