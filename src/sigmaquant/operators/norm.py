"""Normalizations over the values of an example: LayerNorm, RMSNorm, GroupNorm, InstanceNorm."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from sigmaquant.exported.nodes import operator
from sigmaquant.operators.edge import Edge
from sigmaquant.operators.fixed_point import broadcast_multipliers
from sigmaquant.operators.meaning import (
    Builder,
    Extent,
    Meaning,
    Pending,
    Value,
    Vector,
    code_range,
    declares,
    extent,
    in_float,
    is_codes,
    is_constant,
    is_live,
)
from sigmaquant.operators.movement import Returned, Step, Steps, moved
from sigmaquant.operators.node import Operator, Reference, centred, compute, rounded_shift_, written
from sigmaquant.operators.roles import Role, plays
from sigmaquant.operators.unit_length import integer_square_root

FRACTION_BITS = 12
"""Binary places of the normalized value, before its factor and offset."""
_ROOT_LIMIT_BITS = 52


@dataclass(frozen=True)
class Norm(Operator):
    """Values relative to their own mean and deviation, exact in integers.

    With ``q = x - z_x`` of `count` values along `axes`: ``d = count * q - sum(q)`` (or ``d = count * q`` where no mean
    is taken), ``v = sum(d**2) / count``, a whole number, ``r = max(1, isqrt((v << 2 * root_bits) + epsilon))``, and
    ``t = floor((d * 2**(root_bits + 13) + r) / (2 * r))``, the normalized value in units of 2**-12, rounded half
    up. Then ``clamp(z + (t * multiplier + offset + 2**(shift-1)) >> shift, low, high)``, in 64 bits.

    Attributes:
        axes: of an example, the last ones.
        centred: whether the mean is subtracted.
        epsilon: what torch adds to the variance: ``eps * count**2 / scale**2 * 2**(2 * root_bits)``, rounded.
        root_bits: binary places of the root.
        multiplier: int32, of a shape that broadcasts to an example; of factors.
        offset: int32, likewise.
        shift: int64, likewise, 1..30.
        low: smallest output code.
        high: largest output code.
    """

    axes: tuple[int, ...]
    centred: bool
    epsilon: int
    root_bits: int
    multiplier: NDArray[np.int32]
    offset: NDArray[np.int32]
    shift: NDArray[np.int64]
    low: int
    high: int


@compute.register
def _(operator: Norm, reference: Reference, codes: Tensor) -> Tensor:
    q = centred(codes, reference.edges[operator.inputs[0]], torch.int64)
    dims = [axis + 1 for axis in operator.axes]
    count = math.prod(q.shape[d] for d in dims)
    d = count * q - q.sum(dims, keepdim=True) if operator.centred else count * q
    variance = torch.div((d * d).sum(dims, keepdim=True), count, rounding_mode="floor")
    root = integer_square_root((variance << (2 * operator.root_bits)) + operator.epsilon).clamp_(min=1)
    numerator = (d << (operator.root_bits + FRACTION_BITS + 1)) + root
    t = torch.div(numerator, 2 * root, rounding_mode="floor")
    t = t.mul_(torch.from_numpy(operator.multiplier)).add_(torch.from_numpy(operator.offset))
    return written(rounded_shift_(t, torch.from_numpy(operator.shift)), operator, reference)


@dataclass(frozen=True)
class Normed(Pending):
    """An edge that is normalized, then mapped by factors and offsets that broadcast to an example."""

    name: str = ""
    edge: Edge | None = None
    axes: tuple[int, ...] = ()
    centred: bool = True
    eps: float = 0.0
    factor: Vector = field(default_factory=lambda: np.ones(()))
    offset: Vector = field(default_factory=lambda: np.zeros(()))

    def mapped(self, factor: Vector, offset: Vector) -> Normed:
        """After an affine map."""
        return replace(self, factor=self.factor * factor, offset=self.offset * factor + offset)

    def finish(self, edge: Edge, name: str) -> Operator:
        source = self.edge
        assert source is not None, "only the default lacks an edge"
        count = math.prod(source.shape[axis] for axis in self.axes)
        eps = self.eps * count**2 / source.scale**2
        largest = round((510 * count) ** 2 + eps)
        root_bits = max(0, min(8, (_ROOT_LIMIT_BITS - largest.bit_length()) // 2))
        epsilon = round(eps * 4**root_bits)
        factor, offset = self.factor / edge.scale * 2.0**-FRACTION_BITS, self.offset / edge.scale
        arrays = broadcast_multipliers(factor, offset, len(source.shape), name)
        form = (self.axes, self.centred, epsilon, root_bits)
        return Norm(name, (source.name,), edge.name, *form, *arrays, *code_range(self.clip, edge))


@dataclass(frozen=True)
class Normalizing(Meaning):
    """A normalization over axes of an example.

    Attributes:
        node: the call.
        before: moves that make the axes the last ones.
        inner: shape after these moves.
        after: moves back.
        axes: of the inner shape.
        centred: whether the mean is subtracted.
        eps: added to the variance.
        weight: node of the factors; None: the module's, or none.
        bias: node of the offsets; None: the module's, or none.
        affine_shape: of factors and offsets, against the inner shape.
    """

    node: fx.Node = None  # type: ignore[assignment]
    before: tuple[Step, ...] = ()
    inner: tuple[int, ...] = ()
    after: tuple[Step, ...] = ()
    axes: tuple[int, ...] = ()
    centred: bool = True
    eps: float = 0.0
    weight: fx.Node | None = None
    bias: fx.Node | None = None
    affine_shape: tuple[int, ...] = ()

    producer: ClassVar[str] = "norm"
    clippable: ClassVar[bool] = True

    @property
    def affine(self) -> bool:  # type: ignore[override]
        return not self.after

    def build(self, values: Sequence[Value], to: Builder) -> Value:
        (edge,) = values
        if not is_codes(edge):
            return None
        steps = Steps(Extent(edge.rows, edge.shape))
        steps.steps.extend(self.before)
        edge = moved(edge, steps, to)
        module: Any = to.module(self.node) if self.node.op == "call_module" else None
        numbers = []
        for key, node, default in (("weight", self.weight, 1.0), ("bias", self.bias, 0.0)):
            held = getattr(module, key, None) if module is not None else None if node is None else to.constant(node)
            vector = np.full((), default) if held is None else held.detach().double().cpu().numpy()
            numbers.append(vector if vector.ndim == 0 else vector.reshape(self.affine_shape))
        name = str(self.node.target) if module is not None else ""
        result = Normed(
            name=name,
            edge=edge,
            axes=self.axes,
            centred=self.centred,
            eps=self.eps,
            factor=numbers[0],
            offset=numbers[1],
        )
        return Returned(inner=result, shape=self.inner, steps=self.after) if self.after else result


def _constants(*nodes: object) -> bool:
    return all(node is None or (isinstance(node, fx.Node) and is_constant(node)) for node in nodes)


def layer_norm(
    node: fx.Node, source: object, shape: Sequence[int], eps: float, centred: bool, weight: Any = None, bias: Any = None
) -> Meaning | None:
    """The meaning of a normalization over the last axes."""
    found = extent(node, anywhere=True)
    if found is None or not is_live(source) or extent(source, anywhere=True) != found or not _constants(weight, bias):
        return None
    size = tuple(int(n) for n in shape)
    start = len(found.shape) - len(size)
    if start < 0 or found.shape[start:] != size or found.batch_axis > start:
        return None
    over = tuple(range(start, len(found.shape)))
    return Normalizing(
        (source,), found.rows, found.shape, node, (), found.shape, (), over, centred, float(eps), weight, bias, size
    )


def group_norm(
    node: fx.Node, source: object, groups: int, eps: float, weight: Any = None, bias: Any = None
) -> Meaning | None:
    """The meaning of a normalization over groups of channels and all places."""
    found = extent(node)
    if found is None or not is_live(source) or extent(source) != found or not _constants(weight, bias):
        return None
    channels = found.shape[0]
    steps = Steps(found).reshape((groups, channels // groups, math.prod(found.shape[1:])))
    back = Steps(Extent(found.rows, steps.shape)).reshape(found.shape)
    affine = (groups, channels // groups, 1)
    return Normalizing(
        (source,), found.rows, found.shape, node, tuple(steps.steps), steps.shape, tuple(back.steps), (1, 2), True,
        float(eps), weight, bias, affine,
    )  # fmt: skip


@declares("layer_norm", "native_layer_norm", producer="norm")
def _(node: fx.Node, given: Mapping[str, Any]) -> Meaning | None:
    if operator(node) != "layer_norm":
        return None
    return layer_norm(
        node, given["input"], given["normalized_shape"], given["eps"], True, given["weight"], given["bias"]
    )


@declares("rms_norm", producer="norm")
def _(node: fx.Node, given: Mapping[str, Any]) -> Meaning | None:
    eps = given["eps"] if given["eps"] is not None else torch.finfo(torch.float32).eps
    return layer_norm(node, given["input"], given["normalized_shape"], eps, False, given["weight"])


@declares("group_norm", producer="norm")
def _(node: fx.Node, given: Mapping[str, Any]) -> Meaning | None:
    return group_norm(node, given["input"], int(given["num_groups"]), given["eps"], given["weight"], given["bias"])


@declares("instance_norm", producer="norm")
def _(node: fx.Node, given: Mapping[str, Any]) -> Meaning | None:
    found = extent(node)
    if found is None or not given["use_input_stats"]:
        return None
    return group_norm(node, given["input"], found.shape[0], given["eps"], given["weight"], given["bias"])


in_float("batch_norm", "linalg_vector_norm", producer="norm")
plays(Role.MEASURES, "var", "std", "var_mean", "norm", "linalg_vector_norm")


def is_norm(module: Any) -> bool:
    """Whether a stock module normalizes."""
    from torch import nn

    batch_norms, instance_norms = nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm
    return isinstance(module, nn.LayerNorm | nn.GroupNorm | nn.RMSNorm | batch_norms | instance_norms)


def parse_norm(node: fx.Node, module: Any) -> Meaning | None:
    """The meaning of a call of a stock LayerNorm or GroupNorm; None for other modules."""
    from torch import nn

    source = node.args[0] if node.args else None
    if isinstance(module, nn.LayerNorm):
        return layer_norm(node, source, module.normalized_shape, module.eps, True)
    if isinstance(module, nn.GroupNorm):
        return group_norm(node, source, module.num_groups, module.eps)
    return None
