"""Which channels of a network can be rescaled exactly, and where their factors go.

A channel divided by a positive number comes out right again where what made it (a layer's rows and bias, a norm's
factors and offsets) is divided and every layer that reads it has its column multiplied, as long as all between them
commutes with positive factors: ReLU, LeakyReLU, PReLU, maxima, averages, moves, concatenations, sums of channels that
have the same factor, shares of attention (Nagel et al., arXiv 1906.04721; Xiao et al., arXiv 2211.10438).

Every channel of every producer has a number. The numbers walk through the graph as a tensor does: moves are carried out
on them, sums and windows unite them, and whatever does not commute gives them the factor 1 for good.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from sigmaquant.graph.channel_walk import Reader, Walk
from sigmaquant.graph.numbers import FIXED, Scaled
from sigmaquant.graph.specs import QuantGraph


@dataclass(frozen=True)
class Channels:
    """Which channel every value of an activation belongs to.

    Attributes:
        classes: int64, of the activation's shape at a batch of one, the batch axis first.
        batch_axis: of the activation; None where it does not depend on the batch.
    """

    classes: Tensor
    batch_axis: int | None

    def rows(self, x: Tensor) -> Tensor:
        """An activation as [examples, values], in the order of `classes`."""
        first = x if self.batch_axis is None else x.movedim(self.batch_axis, 0)
        return first.reshape(-1, self.classes.numel())


@dataclass(frozen=True)
class Rescaling:
    """What can be rescaled.

    Attributes:
        classes: how many there are; class 0 has the factor 1, and classes that were united share one number.
        parameters: where factors go.
        readers: the layers that read channels.
        activations: the channels of each quantized activation that has some with factors.
    """

    classes: int
    parameters: tuple[Scaled, ...] = ()
    readers: tuple[Reader, ...] = ()
    activations: Mapping[str, Channels] = field(default_factory=dict)

    @torch.no_grad()
    def apply_(self, module: nn.Module, factors: Tensor) -> None:
        """Divide every channel by its factor; the outputs stay as they are, to rounding.

        Args:
            module: the graph's module or a copy.
            factors: positive, [classes]; that of class 0 is 1.
        """
        assert bool((factors > 0).all()), "factors are positive"
        assert float(factors[FIXED]) == 1.0, "the factor of what is fixed"
        exact = factors.double()
        for place in self.parameters:
            value = module.get_submodule(place.module).get_parameter(place.attribute)
            factor = (exact[place.read] / exact[place.made]).to(value.device)
            value.copy_((value.double() * factor).to(value.dtype))


def find_rescaling(graph: QuantGraph) -> Rescaling:
    """Read off a graph which channels can be rescaled."""
    walk = Walk(graph.module)
    for node in graph.module.graph.nodes:
        walk.visit(node)
    roots = walk.numbers.roots()
    places = [
        Scaled(place.module, place.attribute, roots[place.read], roots[place.made])
        for place in (*walk.parameters, *walk.functional.scaled)
    ]
    readers = [Reader(reader.layer, roots[reader.channels], reader.separate) for reader in walk.readers]
    nodes = {node.name: node for node in graph.module.graph.nodes}
    activations = {}
    for spec in graph.activations:
        labels = walk.labels.get(nodes[spec.node])
        if isinstance(labels, Tensor):
            known = roots[labels.clamp(min=0)]
            if bool((known != FIXED).any()):
                axis = _batch_axis(nodes[spec.node])
                activations[spec.name] = Channels(known if axis is None else known.movedim(axis, 0), axis)
    moving = tuple(p for p in places if bool((p.read != FIXED).any()) or bool((p.made != FIXED).any()))
    live = tuple(reader for reader in readers if bool((reader.channels != FIXED).any()))
    return Rescaling(len(roots), moving, live, activations)


def _batch_axis(node: fx.Node) -> int | None:
    sizes: list[Any] = list(node.meta["val"].shape)
    dynamic = [axis for axis, size in enumerate(sizes) if not isinstance(size, int)]
    return dynamic[0] if dynamic else None
