"""How the numbers of channels walk through a graph: see `sigmaquant.graph.rescaling`."""

from __future__ import annotations

import math
import operator as python_operator
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from sigmaquant.exported.nodes import arguments, attribute_of, operator, writes
from sigmaquant.exported.shapes import shape_at_one, size_at_one
from sigmaquant.graph.functional_parameters import FunctionalParameters
from sigmaquant.graph.numbers import FIXED, ZEROS, Numbers, Scaled
from sigmaquant.operators.meaning import is_live, is_number

_SIZES = {"sym_size", "sym_numel", "sym_stride", "size", "numel", "stride"}
_LARGEST = 2**24  # values of one example: what is larger is left alone


@dataclass(frozen=True)
class Reader:
    """A layer that reads channels with factors.

    Attributes:
        layer: its name.
        channels: classes of its input channels, int64 [C].
        separate: each output channel reads one input channel (depthwise), so that factors cost its weights nothing.
    """

    layer: str
    channels: Tensor
    separate: bool


class Walk:
    """Carries numbers through a graph, node by node.

    Attributes:
        numbers: of the channels.
        labels: by node, the number of each of its values at a batch of one; lists of these for several results.
        parameters: where factors go, by number.
        readers: the layers that read channels, by number.
    """

    def __init__(self, module: fx.GraphModule) -> None:
        self.module, self.numbers = module, Numbers()
        self.labels: dict[fx.Node, Any] = {}
        self.parameters: list[Scaled] = []
        self.readers: list[Reader] = []
        self.functional = FunctionalParameters(module)
        calls = [str(node.target) for node in module.graph.nodes if node.op == "call_module"]
        self._uses: Counter[int] = Counter()
        for name in calls:
            self._uses.update(id(p) for p in module.get_submodule(name).parameters(recurse=False))
        for node in module.graph.nodes:
            if node.op == "get_attr" and (held := attribute_of(module, str(node.target), None)) is not None:
                self._uses[id(held)] += 1

    def visit(self, node: fx.Node) -> None:
        """Give a node's values their numbers."""
        if node.op == "output":
            self.fix(node.all_input_nodes)
            return
        if operator(node) in _SIZES:
            return  # it reads no values
        if node.op in ("placeholder", "get_attr") or not is_live(node) or not _yields_floats(node):
            self.fix(source for source in node.all_input_nodes if source in self.labels)
            self.labels[node] = _like(node, _fixed)
            return
        found = None if writes(node) else self._module(node) if node.op == "call_module" else self._function(node)
        if found is None or not _fits(found, node):
            self.fix(node.all_input_nodes)
            found = _like(node, _fixed)
        self.labels[node] = found

    def fix(self, nodes: Iterable[fx.Node]) -> None:
        """Give all values of nodes the factor 1."""
        for node in nodes:
            labels = self.labels.get(node)
            for part in labels if isinstance(labels, list | tuple) else (labels,):
                if isinstance(part, Tensor):
                    self.numbers.unite(torch.unique(part), torch.tensor(FIXED))

    def _function(self, node: fx.Node) -> Any:
        name, given = operator(node).removesuffix("_"), arguments(node)
        rule = _RULES.get(name)
        return None if rule is None or _too_large(node) else rule(self, node, given)

    def known(self, node: object) -> Tensor | None:
        """The numbers of a node's values; None for what is no tensor of values that depend on inputs."""
        labels = self.labels.get(node) if is_live(node) else None
        return labels if isinstance(labels, Tensor) else None

    def moved(self, node: fx.Node, **changed: Any) -> Any:
        """The node's own operator on the numbers of its operands."""
        names = list(arguments(node)) if changed else []

        def value(argument: fx.Node) -> Any:
            held = argument.meta.get("val")
            if isinstance(held, int | torch.SymInt):
                return size_at_one(held)
            labels: Any = self.labels.get(argument)
            return [part.double() for part in labels] if isinstance(labels, list | tuple) else labels.double()

        args = list(fx.node.map_arg(tuple(node.args), value))
        kwargs = dict(fx.node.map_arg(dict(node.kwargs), value))
        for name, new in changed.items():
            place = names.index(name)
            if place < len(args):
                args[place] = new
            else:
                kwargs[name] = new
        assert callable(node.target)
        try:
            result = node.target(*args, **kwargs)
        except (RuntimeError, IndexError, TypeError, NotImplementedError):
            return None  # it has no form for a batch of one, or for whole numbers
        return [part.long() for part in result] if isinstance(result, list | tuple) else result.long()

    def merged(self, labels: Tensor, axes: Iterable[int]) -> Tensor:
        """One number along axes, which are kept with the size 1."""
        dims = sorted({axis % labels.dim() for axis in axes})
        if not dims:
            return labels
        one = labels.amax(dims, keepdim=True)
        self.numbers.unite(labels, one)
        return one

    # -- modules: the layers, and what stands between them ---------------------------------------------------------

    def _module(self, node: fx.Node) -> Tensor | None:
        name = str(node.target)
        module: Any = self.module.get_submodule(name)
        source = self.known(node.args[0]) if node.args else None
        alone = all(self._uses[id(p)] == 1 for p in module.parameters(recurse=False))
        shape = _shape(node)
        if shape is None or not alone or _too_large(node):
            return None
        if isinstance(module, nn.Embedding):
            made = self.numbers.fresh(module.embedding_dim)
            self._scaled(name, "weight", torch.zeros(1, dtype=torch.int64), made)
            return made.expand(shape)
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine:
            return self._norm(node, name, self._by_channel(module.num_features, len(shape)), shape)
        if isinstance(module, nn.GroupNorm) and module.affine:
            return self._norm(node, name, self._by_channel(module.num_channels, len(shape)), shape)
        if isinstance(module, nn.LayerNorm) and module.elementwise_affine:
            size = tuple(module.normalized_shape)
            return self._norm(node, name, self.numbers.fresh(math.prod(size)).view(size), shape)
        if source is None:
            return None
        if isinstance(module, nn.Linear):
            read = self.merged(source, range(source.dim() - 1)).reshape(-1)
            made = self.numbers.fresh(module.out_features)
            self._reader(name, read, separate=module.in_features == 1)
            self._scaled(name, "weight", read.view(1, -1), made.view(-1, 1))
            self._scaled_bias(name, made)
            return made.expand(shape)
        if isinstance(module, nn.modules.conv._ConvNd):
            return self._convolution(name, module, source, shape)
        return None

    def _convolution(self, name: str, module: Any, source: Tensor, shape: tuple[int, ...]) -> Tensor | None:
        rank = len(module.kernel_size)
        if source.dim() != rank + 2:
            return None
        read = self.merged(source, (0, *range(2, rank + 2))).reshape(-1)
        made = self.numbers.fresh(module.out_channels)
        groups, ones = int(module.groups), (1,) * rank
        ins, outs = module.in_channels // groups, module.out_channels // groups
        if module.transposed:  # [in, out / groups, ...]
            of_read = read.view(-1, 1, *ones)
            of_made = made.view(groups, outs).repeat_interleave(ins, 0).view(-1, outs, *ones)
        else:  # [out, in / groups, ...]
            of_read = read.view(groups, ins).repeat_interleave(outs, 0).view(-1, ins, *ones)
            of_made = made.view(-1, 1, *ones)
        self._reader(name, read, separate=ins == 1 and not module.transposed)
        self._scaled(name, "weight", of_read, of_made)
        self._scaled_bias(name, made)
        return made.view(1, -1, *ones).expand(shape)

    def _norm(self, node: fx.Node, name: str, made: Tensor, shape: tuple[int, ...]) -> Tensor:
        self.fix(node.all_input_nodes)
        module: Any = self.module.get_submodule(name)
        flat = made.reshape(module.weight.shape)
        self._scaled(name, "weight", torch.zeros(1, dtype=torch.int64), flat)
        self._scaled_bias(name, flat)
        return made.expand(shape)

    def _by_channel(self, channels: int, rank: int) -> Tensor:
        return self.numbers.fresh(channels).view(-1, *[1] * (rank - 2))

    def _reader(self, name: str, read: Tensor, *, separate: bool) -> None:
        self.readers.append(Reader(name, read.clamp(min=0), separate))

    def _scaled(self, name: str, attribute: str, read: Tensor, made: Tensor) -> None:
        self.parameters.append(Scaled(name, attribute, read.clamp(min=0), made))

    def _scaled_bias(self, name: str, made: Tensor) -> None:
        if getattr(self.module.get_submodule(name), "bias", None) is not None:
            self._scaled(name, "bias", torch.zeros(1, dtype=torch.int64), made)


# -- operators ---------------------------------------------------------------------------------------------------------

Rule = Callable[[Walk, fx.Node, Mapping[str, Any]], Any]
_RULES: dict[str, Rule] = {}


def _rule(*names: str) -> Callable[[Rule], Rule]:
    def register(rule: Rule) -> Rule:
        _RULES.update(dict.fromkeys(names, rule))
        return rule

    return register


@_rule(
    "relu", "leaky_relu", "prelu", "_prelu_kernel", "abs", "neg", "dropout", "alpha_dropout", "feature_dropout",
    "contiguous", "clone", "alias", "detach", "identity", "positive", "to", "_to_copy", "float",
)  # fmt: skip
def _as_it_is(walk: Walk, node: fx.Node, given: Mapping[str, Any]) -> Tensor | None:
    return walk.known(given.get("self", given.get("input")))


@_rule("clamp", "clip", "clamp_min", "clamp_max", "hardtanh")
def _clipped(walk: Walk, node: fx.Node, given: Mapping[str, Any]) -> Tensor | None:
    low, high = given.get("min", given.get("min_val")), given.get("max", given.get("max_val"))
    allowed = all(bound in (None, 0, -math.inf, math.inf) for bound in (low, high) if not isinstance(bound, fx.Node))
    return walk.known(given["self"]) if allowed and not any(isinstance(b, fx.Node) for b in (low, high)) else None


@_rule(
    "view", "_unsafe_view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "expand", "permute", "transpose",
    "t", "numpy_T", "mT", "swapaxes", "swapdims", "movedim", "moveaxis", "slice", "narrow", "select", "split", "chunk",
    "split_with_sizes", "tensor_split", "unbind", "flip", "roll", "repeat", "tile", "repeat_interleave",
    "channel_shuffle", "native_channel_shuffle", "pixel_shuffle", "pixel_unshuffle", "broadcast_to",
)  # fmt: skip
def _moves(walk: Walk, node: fx.Node, given: Mapping[str, Any]) -> Any:
    return walk.moved(node)


@_rule("cat", "concat", "concatenate", "stack", "hstack", "vstack", "dstack")
def _joins(walk: Walk, node: fx.Node, given: Mapping[str, Any]) -> Any:
    return walk.moved(node)


@_rule("getitem")
def _picks(walk: Walk, node: fx.Node, given: Mapping[str, Any]) -> Any:
    source, index = cast("tuple[Any, Any]", node.args)
    labels = walk.labels.get(source) if isinstance(source, fx.Node) else None
    return labels[index] if node.target is python_operator.getitem and isinstance(labels, list | tuple) else None


@_rule("pad", "constant_pad_nd")
def _pads(walk: Walk, node: fx.Node, given: Mapping[str, Any]) -> Any:
    if given.get("mode", "constant") != "constant":
        return walk.moved(node)
    return walk.moved(node, value=float(ZEROS)) if given.get("value") in (None, 0) else None


@_rule(
    "max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d",
    "adaptive_avg_pool2d", "adaptive_avg_pool3d", "adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d",
    "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "_upsample_nearest_exact1d",
    "_upsample_nearest_exact2d", "upsample_linear1d", "upsample_bilinear2d", "upsample_bicubic2d",
)  # fmt: skip
def _windows(walk: Walk, node: fx.Node, given: Mapping[str, Any]) -> Tensor | None:
    labels, shape = walk.known(given.get("self", given.get("input"))), _shape(node)
    if labels is None or shape is None or labels.dim() != len(shape):
        return None
    rank = int(operator(node).rstrip("_")[-2])
    return walk.merged(labels, range(-rank, 0)).expand(shape)


@_rule("mean", "sum", "amax")
def _reduces(walk: Walk, node: fx.Node, given: Mapping[str, Any]) -> Tensor | None:
    labels, shape = walk.known(given["self"]), _shape(node)
    if labels is None or shape is None:
        return None
    dims = given.get("dim")
    every = range(labels.dim()) if dims in (None, []) else dims if isinstance(dims, list | tuple) else [int(dims)]
    return walk.merged(labels, every).reshape(shape)


@_rule("add", "sub", "subtract")
def _adds(walk: Walk, node: fx.Node, given: Mapping[str, Any]) -> Tensor | None:
    one, other = walk.known(given["self"]), walk.known(given["other"])
    if one is None or other is None:
        return None
    walk.numbers.unite(one, other)
    return torch.maximum(one, other)


@_rule("mul", "multiply", "div", "divide", "true_divide")
def _multiplies(walk: Walk, node: fx.Node, given: Mapping[str, Any]) -> Tensor | None:
    """A constant commutes with factors; of two tensors one keeps them, and the smaller one is fixed."""
    first, second, shape = given["self"], given["other"], _shape(node)
    one, other = walk.known(first), walk.known(second)
    division = operator(node).startswith(("div", "true"))
    if shape is None or given.get("rounding_mode") is not None or (division and one is None):
        return None
    if one is None or other is None:
        kept, constant = (one, second) if one is not None else (other, first)
        plain = is_number(constant) or isinstance(constant, fx.Node)
        return kept.expand(shape) if kept is not None and plain else None
    if division or one.numel() >= other.numel():
        walk.numbers.unite(other, torch.tensor(FIXED))
        return one.expand(shape)
    walk.numbers.unite(one, torch.tensor(FIXED))
    return other.expand(shape)


@_rule("linear")
def _functional_linear(walk: Walk, node: fx.Node, given: Mapping[str, Any]) -> Tensor | None:
    """A linear layer on parameters that no stock module owns, maybe parts of them (``nn.MultiheadAttention``)."""
    source, shape, bias = walk.known(given["input"]), _shape(node), given["bias"]
    weight = walk.functional.places(given["weight"])
    offset = None if bias is None else walk.functional.places(bias)
    if source is None or shape is None or weight is None or weight.places.dim() != 2:
        return None
    if bias is not None and offset is None:
        return None
    read = walk.merged(source, range(source.dim() - 1)).reshape(-1).clamp(min=0)
    made = walk.numbers.fresh(shape[-1])
    walk.functional.scale(walk.numbers, weight, read.view(1, -1), made.view(-1, 1))
    if offset is not None:
        walk.functional.scale(walk.numbers, offset, torch.zeros(1, dtype=torch.int64), made)
    whole = walk.module.get_submodule(weight.module).get_parameter(weight.attribute)
    if whole.dim() == 2 and whole.shape[1] == len(read) and weight.attribute == "weight":
        walk._reader(weight.module, read, separate=False)
    return made.expand(shape)


@_rule("matmul", "bmm", "scaled_dot_product_attention")
def _shares(walk: Walk, node: fx.Node, given: Mapping[str, Any]) -> Tensor | None:
    """Of a product of two tensors (attention's shares with its values) the second one's columns keep their factors."""
    second = given.get("value", given.get("other", given.get("mat2")))
    labels, shape = walk.known(second), _shape(node)
    if labels is None or shape is None or labels.dim() < 2 or len(shape) < 2:
        return None
    walk.fix(source for source in node.all_input_nodes if source is not second)
    columns = walk.merged(labels, (-2,))
    return columns.expand(shape) if columns.dim() <= len(shape) else None


def _fixed(shape: tuple[int, ...]) -> Tensor:
    return torch.zeros((), dtype=torch.int64).expand(shape)


def _yields_floats(node: fx.Node) -> bool:
    value = node.meta.get("val")
    items = value if isinstance(value, list | tuple) else (value,)
    return bool(items) and all(isinstance(item, Tensor) and item.is_floating_point() for item in items)


def _shape(node: fx.Node) -> tuple[int, ...] | None:
    value = node.meta.get("val")
    return shape_at_one(value) if isinstance(value, Tensor) else None


def _like(node: fx.Node, make: Callable[[tuple[int, ...]], Tensor]) -> Any:
    value = node.meta.get("val")
    if isinstance(value, list | tuple):
        return [make(shape_at_one(part)) if isinstance(part, Tensor) else None for part in value]
    return make(shape_at_one(value)) if isinstance(value, Tensor) else None


def _too_large(node: fx.Node) -> bool:
    nodes = [node, *node.all_input_nodes]
    return any(math.prod(_shape(n) or ()) > _LARGEST for n in nodes)


def _fits(labels: Any, node: fx.Node) -> bool:
    value = node.meta.get("val")
    if isinstance(value, list | tuple):
        both = isinstance(labels, list | tuple) and len(labels) == len(value)
        return both and all(tuple(a.shape) == shape_at_one(b) for a, b in zip(labels, value, strict=True))
    return isinstance(labels, Tensor) and isinstance(value, Tensor) and tuple(labels.shape) == shape_at_one(value)
