"""What operators mean in arithmetic: the small pure functions that lowering is made of."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeGuard

import numpy as np
from torch import Tensor, fx, nn

from sigmaquant.graph.nodes import scope
from sigmaquant.lowering.model import Edge
from sigmaquant.lowering.values import ChannelMap, Clip, Layer, Mean, Pending, Terms, Times, Vector

CLIPS: Mapping[str, Callable[[dict[str, Any]], tuple[float, float]]] = {
    "relu": lambda a: (0.0, math.inf),
    "relu6": lambda a: (0.0, 6.0),
    "hardtanh": lambda a: (float(a["min_val"]), float(a["max_val"])),
    "clamp": lambda a: (_bound(a["min"], -math.inf), _bound(a["max"], math.inf)),
    "clip": lambda a: (_bound(a["min"], -math.inf), _bound(a["max"], math.inf)),
    "clamp_min": lambda a: (float(a["min"]), math.inf),
}
UNARY = {
    "gelu", "silu", "hardswish", "hardsigmoid", "sigmoid", "tanh", "leaky_relu", "elu", "mish", "softplus", "selu",
    "celu", "hardshrink", "softsign", "log_sigmoid", "neg", "square", "pow", "sqrt", "rsqrt", "exp", "abs", "erf",
    "softshrink", "reciprocal",
}  # fmt: skip
"""Functions of a single value: 256 codes, so a table."""
MAX_POOLS = {"max_pool1d", "max_pool2d", "max_pool3d"}
_AVERAGE_POOLS = {"avg_pool1d", "avg_pool2d", "avg_pool3d"}
_ADAPTIVE_POOLS = {"adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d"}
RESHAPES = {"view", "_unsafe_view", "reshape", "flatten", "unsqueeze", "squeeze", "unflatten", "ravel"}
NOTHING = {"dropout", "feature_dropout", "alpha_dropout", "contiguous", "clone", "alias", "detach", "identity", "to"}


def is_codes(value: Any) -> TypeGuard[Edge]:
    """Whether a value is an edge of integers."""
    return isinstance(value, Edge) and not value.is_float


def _bound(value: Any, default: float) -> float:
    return default if value is None else float(value)


def sizes(value: Any, rank: int) -> tuple[int, ...]:
    """A size for each dimension, from one for all or from a list."""
    items = tuple(int(v) for v in value) if isinstance(value, list | tuple) else (int(value),)
    return items * rank if len(items) == 1 else items


def sources_of(value: Any) -> list[fx.Node]:
    """The nodes in nested arguments, each once."""
    found: list[fx.Node] = []
    fx.node.map_arg(value, found.append)
    return list(dict.fromkeys(found))


def attribute(body: nn.Module, target: str) -> Any:
    """What a ``get_attr`` node reads."""
    owner, _, name = target.rpartition(".")
    return getattr(body.get_submodule(owner), name)


def free_name(name: str, taken: Collection[str]) -> str:
    """The name, with a number where it is taken."""
    candidate, count = name, 1
    while candidate in taken:
        candidate, count = f"{name}_{count}", count + 1
    return candidate


def owner_of(node: fx.Node) -> str:
    """The user's module in which the node was made."""
    return str(node.target) if node.op == "call_module" else (scope(node) or node.name)


def evaluate(node: fx.Node, known: Mapping[fx.Node, Any], module: nn.Module | None = None) -> Any:
    """The node's operator, or the module that it calls, on known values of its sources."""
    target: Any = node.target if module is None else module
    return target(*fx.node.map_arg(node.args, known.__getitem__), **fx.node.map_arg(node.kwargs, known.__getitem__))


def call_on(node: fx.Node, x: Tensor) -> Tensor:
    """The node's own operator on another tensor."""

    def swap(argument: fx.Node) -> Tensor:
        return x

    target: Any = node.target
    result: Tensor = target(*fx.node.map_arg(node.args, swap), **fx.node.map_arg(node.kwargs, swap))
    return result


def norm_map(module: Any) -> tuple[Vector, Vector]:
    """Factor and offset of a BatchNorm in evaluation mode."""
    deviation = np.sqrt(module.running_var.double().cpu().numpy() + module.eps)
    gamma = np.ones_like(deviation) if module.weight is None else module.weight.double().cpu().numpy()
    beta = np.zeros_like(deviation) if module.bias is None else module.bias.double().cpu().numpy()
    factor = gamma / deviation
    return factor, beta - factor * module.running_mean.double().cpu().numpy()


def geometry_of(module: Any) -> dict[str, Any]:
    """The fields of a `Convolution` that are not numbers to learn."""
    rank = len(module.kernel_size)
    if module.padding == "same":
        total = [d * (k - 1) for k, d in zip(module.kernel_size, module.dilation, strict=True)]
        padding = tuple((t // 2, t - t // 2) for t in total)
    else:
        sides = (0,) * rank if module.padding == "valid" else module.padding
        padding = tuple((int(p), int(p)) for p in sides)
    return {
        "stride": tuple(module.stride),
        "padding": padding,
        "dilation": tuple(module.dilation),
        "groups": int(module.groups),
        "transposed": bool(module.transposed),
        "output_padding": tuple(module.output_padding),
    }


def arithmetic(name: str, bound: dict[str, Any], known: Mapping[fx.Node, Any]) -> Pending | None:
    """Additions and multiplications of edges, numbers and constants."""
    items = [bound.get("self"), bound.get("other")]
    operands = [known.get(i) if isinstance(i, fx.Node) else i for i in items]
    left, right = operands
    alpha = float(bound.get("alpha") or 1) * (-1 if name in ("sub", "rsub") else 1)
    if name == "rsub":
        left, right = right, left
    if isinstance(left, Layer) and isinstance(right, Tensor) and name == "add" and left.clip == Clip():
        vector = right.double().cpu().numpy().reshape(-1) * alpha  # a bias that is added by hand
        channels = 0 if left.bias is None else len(left.bias)
        if len(vector) in (1, channels) and (len(vector) == 1 or right.dim() == 1 or right.shape[-1] == 1):
            return left.affine(np.ones(channels), np.broadcast_to(vector, (channels,)))
        return None
    constant = _per_channel(left, right)
    if constant is not None and name in ("add", "mul"):
        edge, vector = constant
        ones = np.ones_like(vector)
        maps = (ones, vector * alpha) if name == "add" else (vector, 0 * ones)
        return ChannelMap(edge=edge, factor=maps[0], offset=maps[1])
    if name in ("add", "sub", "rsub"):
        terms: list[tuple[Edge, float]] = []
        offset = 0.0
        for value, coefficient in ((left, 1.0), (right, alpha)):
            if is_codes(value):
                terms.append((value, coefficient))
            elif isinstance(value, int | float):
                offset += coefficient * value
            else:
                return None
        if len(terms) == 2 and terms[0][0].shape != terms[1][0].shape:
            return None
        return Terms(terms=tuple(terms), offset=offset) if terms else None
    if name == "mul" and is_codes(left) and is_codes(right):
        return Times(left=left, right=right)
    if isinstance(right, Tensor) and right.numel() == 1:
        right = float(right)
    if is_codes(left) and isinstance(right, int | float) and right != 0:
        return Terms(terms=((left, float(right) if name == "mul" else 1.0 / float(right)),))
    return None


def _per_channel(left: Any, right: Any) -> tuple[Edge, Vector] | None:
    """An edge and a constant with one value for each of its channels, in either order."""
    for edge, constant in ((left, right), (right, left)):
        if not is_codes(edge) or not isinstance(constant, Tensor) or len(edge.shape) < 1:
            continue
        shape = (1,) * (len(edge.shape) + 1 - constant.dim()) + tuple(constant.shape)
        if len(shape) == len(edge.shape) + 1 and shape == (1, edge.shape[0], *[1] * (len(edge.shape) - 1)):
            return edge, constant.detach().double().cpu().numpy().reshape(-1)
    return None


def mean_of(name: str, bound: dict[str, Any], edge: Edge) -> Mean | None:
    """An average over dimensions or windows; None for any other, or one that counts its padding unevenly."""
    rank = len(edge.shape)
    if name == "mean":
        dims = bound.get("dim")
        if dims is None:
            return None
        axes = sorted(int(d) % (rank + 1) for d in (dims if isinstance(dims, list | tuple) else [dims]))
        if 0 in axes:
            return None
        count = math.prod(edge.shape[a - 1] for a in axes)
        return Mean(edge=edge, dims=tuple(a - 1 for a in axes), keepdim=bool(bound.get("keepdim")), count=count)
    spatial = rank - 1
    if name in _ADAPTIVE_POOLS:
        size = sizes(bound["output_size"], spatial)
        if all(s == 1 for s in size):
            dims = tuple(range(1, rank))
            return Mean(edge=edge, dims=dims, keepdim=True, count=math.prod(edge.shape[1:]))
        if any(n % s for n, s in zip(edge.shape[1:], size, strict=True)):
            return None
        kernel = tuple(n // s for n, s in zip(edge.shape[1:], size, strict=True))
        return Mean(edge=edge, kernel=kernel, stride=kernel, padding=(0,) * spatial, count=math.prod(kernel))
    if name in _AVERAGE_POOLS:
        kernel = sizes(bound["kernel_size"], spatial)
        padding = sizes(bound["padding"], spatial)
        if bound["ceil_mode"] or (any(padding) and not bound["count_include_pad"]):
            return None
        count = int(bound.get("divisor_override") or math.prod(kernel))
        stride = sizes(bound["stride"] or kernel, spatial)
        return Mean(edge=edge, kernel=kernel, stride=stride, padding=padding, count=count)
    return None
