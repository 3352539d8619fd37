"""PReLU with a slope for each channel; one slope is a function of a single value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from sigmaquant.operators.edge import Edge
from sigmaquant.operators.fixed_point import common_multipliers
from sigmaquant.operators.meaning import (
    Builder,
    Meaning,
    Pending,
    Value,
    Vector,
    code_range,
    declares,
    extent,
    is_codes,
    is_constant,
    is_live,
)
from sigmaquant.operators.node import Operator, Reference, centred, compute, rounded_shift_, written


@dataclass(frozen=True)
class Slopes(Operator):
    """PReLU: ``clamp(z + ((x - z_x) * m + 2**(shift-1)) >> shift, low, high)``, in 32 bits.

    `m` is `multiplier` for ``x > z_x``, else the channel's entry of `slopes`. Channels are the first axis.

    Attributes:
        multiplier: of positive values.
        slopes: int32 [C], of the others; may be negative.
        shift: 1..30.
        low: smallest output code.
        high: largest output code.
    """

    multiplier: int
    slopes: NDArray[np.int32]
    shift: int
    low: int
    high: int


@compute.register
def _(operator: Slopes, reference: Reference, codes: Tensor) -> Tensor:
    x = centred(codes, reference.edges[operator.inputs[0]], torch.int32)
    slopes = torch.from_numpy(operator.slopes).view(-1, *[1] * (x.dim() - 2))
    values = torch.where(x > 0, x * operator.multiplier, x * slopes)
    return written(rounded_shift_(values, operator.shift), operator, reference)


@dataclass(frozen=True)
class Sloped(Pending):
    """An edge under a PReLU."""

    edge: Edge | None = None
    slopes: Vector | None = None

    def finish(self, edge: Edge, name: str) -> Operator:
        source, slopes = self.edge, self.slopes
        assert source is not None, "only the default lacks it"
        assert slopes is not None, "only the default lacks it"
        ratio = source.scale / edge.scale
        multipliers, _, shift = common_multipliers([ratio, *(slopes * ratio).tolist()], 0.0, 21, name)
        below = np.array(multipliers[1:], dtype=np.int32)
        return Slopes(name, (source.name,), edge.name, multipliers[0], below, shift, *code_range(self.clip, edge))


@dataclass(frozen=True)
class ChannelSlopes(Meaning):
    """PReLU.

    Attributes:
        weight: the node of the slopes.
    """

    weight: fx.Node = None  # type: ignore[assignment]

    clippable: ClassVar[bool] = True

    def build(self, values: Sequence[Value], to: Builder) -> Value:
        (edge,) = values
        slopes = to.constant(self.weight).detach().double().cpu().numpy().reshape(-1)
        return Sloped(edge=edge, slopes=slopes) if is_codes(edge) and np.isfinite(slopes).all() else None


@declares("prelu", "_prelu_kernel")
def _(node: fx.Node, given: Mapping[str, Any]) -> Meaning | None:
    source, weight, found = given["self"], given["weight"], extent(node)
    if found is None or not is_live(source) or extent(source) != found or not isinstance(weight, fx.Node):
        return None
    value = weight.meta.get("val")
    if not isinstance(value, Tensor) or not is_constant(weight) or value.numel() != (found.shape or (1,))[0]:
        return None  # one slope for all: a table
    return ChannelSlopes((source,), found.rows, found.shape, weight)
