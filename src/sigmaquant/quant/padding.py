"""Positions that a mask of padding leaves out, which say nothing of the range of an activation.

An example carries such a mask where an input of integers or truth values decides, position by position, which scores a
softmax takes: an attention mask, or the words themselves where one of them is padding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, fx

from sigmaquant.operators.interpretation import Interpretation
from sigmaquant.operators.softmax import Masking


class Padding:
    """Finds an example's padding.

    Args:
        module: a graph, without quantizers.

    Attributes:
        known: whether examples carry a mask.
    """

    def __init__(self, module: fx.GraphModule) -> None:
        placeholders = [node for node in module.graph.nodes if node.op == "placeholder"]
        self._input, self._truth = 0, torch.zeros(0, dtype=torch.bool)
        if any(not node.meta["val"].is_floating_point() for node in placeholders if "val" in node.meta):
            for meaning in Interpretation(module).meaning.values():
                if not isinstance(meaning, Masking) or meaning.truth is None:
                    continue
                source = meaning.sources[1]
                if source.meta["val"].dim() == 2:
                    self._input, self._truth = placeholders.index(source), torch.from_numpy(meaning.truth)
                    break
        self.known = bool(self._truth.numel())

    def counted(self, inputs: Sequence[Any]) -> Tensor | None:
        """Which positions of each example are no padding: bool [N, positions].

        None where no mask is known. Of examples that are padding alone all positions count.

        Args:
            inputs: of a batch, in the order of the network's arguments.
        """
        if not self.known:
            return None
        given = inputs[self._input].to(torch.int64)
        counts: Tensor = self._truth.to(given.device)[given.clamp(0, len(self._truth) - 1)]
        return counts | ~counts.any(1, keepdim=True)

    def stand_ins(self, inputs: Sequence[Any]) -> Tensor | None:
        """For each position of each example one that is no padding, itself where it is none: int64 [N, positions].

        None where no mask is known. Examples that are padding alone keep all positions.
        """
        counts = self.counted(inputs)
        if counts is None:
            return None
        order = counts.to(torch.int8).argsort(dim=1, descending=True, stable=True)  # those that count, in order, first
        places = torch.arange(counts.shape[1], device=counts.device).expand_as(counts)
        return torch.where(counts, places, order.gather(1, places % counts.sum(1, keepdim=True)))


_known: WeakKeyDictionary[fx.GraphModule, Padding] = WeakKeyDictionary()


def padding_of(module: fx.GraphModule) -> Padding:
    """The padding of a graph's examples, found once."""
    if module not in _known:
        _known[module] = Padding(module)
    return _known[module]


def counted_positions(module: fx.GraphModule, inputs: Any) -> Tensor | None:
    """`Padding.counted` of a batch, a tensor or a tuple of tensors."""
    return padding_of(module).counted(inputs if isinstance(inputs, tuple | list) else (inputs,))


def without_padding(x: Tensor, stand_ins: Tensor, attention: bool) -> Tensor:
    """An activation with the values of padding replaced by those of positions that stand for it.

    Positions are the first axis behind the batch that is as long; of products and shares of attention both of the last
    two axes that are.

    Args:
        x: [N, ...]; left as it is where its first axis is another.
        stand_ins: of `Padding`.
        attention: whether it is such a product.
    """
    count, length = stand_ins.shape
    if x.dim() < 2 or len(x) != count:
        return x
    axes = [axis for axis in range(1, x.dim()) if x.shape[axis] == length]
    axes = [axis for axis in axes if axis >= x.dim() - 2] if attention else axes[:1]
    for axis in axes:
        view = [1] * x.dim()
        view[0], view[axis] = count, length
        x = x.gather(axis, stand_ins.view(view).expand_as(x))
    return x


def observing(
    observer: Callable[[Tensor], None], current: Sequence[Tensor], attention: bool
) -> Callable[[Tensor], None]:
    """An observer that sees no padding; `current` holds the stand-ins of the batch that is seen."""
    return lambda x: observer(without_padding(x, current[0], attention))
