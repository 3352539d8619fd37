"""`Operator`: what every integer operator has, and `compute`, the one meaning of each.

An operator is plain data: numbers, tuples and arrays, so that a network in integers can be compared, printed and saved.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import singledispatch
from typing import Any, Protocol

import torch
from torch import Tensor

from sigmaquant.operators.edge import Edge


@dataclass(frozen=True)
class Operator:
    """What all operators have.

    Attributes:
        name: of the user's module or activation; unique among operators.
        inputs: names of the edges read.
        output: name of the edge written.
    """

    name: str
    inputs: tuple[str, ...]
    output: str


class Reference(Protocol):
    """What an operator's reference may ask for.

    Attributes:
        edges: of the network, by name.
        integer_kernels: whether sums of products must be computed by integer kernels, which are slow.
    """

    edges: Mapping[str, Edge]
    integer_kernels: bool


@singledispatch
def compute(operator: Operator, reference: Reference, *inputs: Tensor) -> Tensor:
    """One operator's output codes, int8 [N * rows, ...], from those of its inputs."""
    raise TypeError(f"no reference knows {type(operator).__name__}")


def free_name(name: str, taken: Collection[str]) -> str:
    """The name, with a number where it is taken."""
    candidate, count = name, 1
    while candidate in taken:
        candidate, count = f"{name}_{count}", count + 1
    return candidate


def written(values: Tensor, operator: Any, reference: Reference) -> Tensor:
    """Codes relative to the zero-point, which are overwritten, as the output edge's codes."""
    edge = reference.edges[operator.output]
    return values.add_(edge.zero_point).clamp_(operator.low, operator.high).to(torch.int8)


def centred(codes: Tensor, edge: Edge, kind: torch.dtype) -> Tensor:
    """Codes relative to the zero-point, in a wider type; a new tensor."""
    return codes.to(kind).sub_(edge.zero_point)


def rounded_shift_(values: Tensor, shift: Tensor | int) -> Tensor:
    """``(values + 2**(shift-1)) >> shift`` in place."""
    half = torch.ones_like(shift) << (shift - 1) if isinstance(shift, Tensor) else 1 << (shift - 1)
    return values.add_(half).bitwise_right_shift_(shift)
