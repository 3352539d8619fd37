"""Raising: operators whose weights belong to a stock module of the user become calls of that very module again."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, fx, nn

from sigmaquant.exported.nodes import arguments, operator, scope, tensor_value

Arguments = Mapping[str, Any]
_NONE = object()
_TENSORS = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
_STOCK: Mapping[str, type[nn.Module]] = {
    "conv1d": nn.Conv1d,
    "conv2d": nn.Conv2d,
    "conv3d": nn.Conv3d,
    "conv_transpose1d": nn.ConvTranspose1d,
    "conv_transpose2d": nn.ConvTranspose2d,
    "conv_transpose3d": nn.ConvTranspose3d,
    "linear": nn.Linear,
}
_BATCH_NORM_DIMS = ((nn.BatchNorm1d, (2, 3)), (nn.BatchNorm2d, (4,)), (nn.BatchNorm3d, (5,)))


def raise_modules_(graph: fx.Graph, model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, nn.Module]:
    """Turn operators into ``call_module`` nodes under the user's names, wherever this changes nothing.

    An operator is raised when its weight is that of a module that computes as a stock class does (that class, or a
    subclass without a forward of its own), the module has no hooks, and the operator's arguments are the module's
    attributes (stride, padding, eps, …). A convolution that pads otherwise than with zeros is two operators, of which
    the module's call takes the place. A subclass of a stock class whose forward does more (padding, an activation, a
    synchronisation) counts as what it computes: a stock module with its tensors and the operator's arguments takes its
    name, and the rest of its forward stays operators. All others stay operators.

    Args:
        graph: exported graph; parameters and buffers are ``get_attr`` nodes.
        model: the user's model.
        tensors: parameter or buffer behind each ``get_attr`` target.

    Returns:
        the raised modules by name, in order of their first call.
    """
    names: dict[int, str] = {id(module): name for name, module in model.named_modules()}
    owners: dict[int, list[nn.Module]] = {}
    for module in model.modules():
        if isinstance(weight := getattr(module, "weight", None), Tensor):
            owners.setdefault(id(weight), []).append(module)
    raised: dict[str, nn.Module] = {}
    twins: dict[str, nn.Module] = {}
    for node in list(graph.nodes):
        rule = _RULES.get(operator(node))
        if rule is None:
            continue
        bound = arguments(node)
        for owner in _candidates(node, bound, model, tensors, owners):
            name = names[id(owner)]
            if name and _has_no_extras(owner) and rule(owner, bound) and _same_tensors(owner, bound, tensors):
                _replace_(graph, node, name, owner, bound)
                raised[name] = owner
                break
        else:
            _raise_subclass_(graph, node, bound, model, tensors, owners, names, twins)
    raised.update(twins)
    graph.eliminate_dead_code()
    return raised


def _raise_subclass_(
    graph: fx.Graph,
    node: fx.Node,
    bound: Arguments,
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    owners: dict[int, list[nn.Module]],
    names: Mapping[int, str],
    twins: dict[str, nn.Module],
) -> None:
    """Call a stock module in place of an operator in the forward of a stock class's subclass."""
    for owner in _candidates(node, bound, model, tensors, owners):
        name = names[id(owner)]
        if not name or not _same_tensors(owner, bound, tensors):
            continue
        twin = _twin(owner, operator(node), bound)
        if twin is None:
            continue
        known = twins.get(name)
        if known is not None and not _RULES[operator(node)](known, bound):
            continue  # a second call with other arguments
        twins.setdefault(name, twin)
        _replace_(graph, node, name, twins[name], bound)
        return


def _twin(owner: nn.Module, name: str, bound: Arguments) -> nn.Module | None:
    """A stock module with a subclass's own tensors and an operator's arguments; None where it would be another."""
    stock: type[nn.Module] | None = _STOCK.get(name)
    if name == "batch_norm":
        value = tensor_value(bound["input"])
        dims = 0 if value is None else value.dim()
        fitting = [kind for kind, allowed in _BATCH_NORM_DIMS if dims in allowed]
        stock = fitting[0] if fitting and isinstance(owner, nn.modules.batchnorm._BatchNorm) else None
    elif stock is not None and not isinstance(owner, stock):
        stock = None
    if stock is None or type(owner) is stock:
        return None
    twin: Any = stock.__new__(stock)
    twin.__dict__.update(owner.__dict__)
    for table in ("_parameters", "_buffers"):
        twin.__dict__[table] = {key: value for key, value in owner.__dict__[table].items() if key in _TENSORS}
    for table in ("_modules", "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"):
        twin.__dict__[table] = type(owner.__dict__[table])()
    twin.__dict__.pop("forward", None)
    dims = twin.weight.dim() - 2 if name.startswith("conv") else 0
    for key in ("stride", "padding", "dilation", "output_padding"):
        if dims and key in bound:
            setattr(twin, key, bound[key] if isinstance(bound[key], str) else _sizes(bound[key], dims))
    if dims:
        twin.padding_mode, twin.groups = "zeros", int(bound["groups"])
    if name == "batch_norm":
        twin.eps, twin.affine, twin.track_running_stats = bound["eps"], twin.weight is not None, True
        if twin.momentum is not None:
            twin.momentum = bound["momentum"]
    return twin if _RULES[name](twin, bound) else None


def _candidates(
    node: fx.Node, bound: Arguments, model: nn.Module, tensors: Mapping[str, Tensor], owners: dict[int, list[nn.Module]]
) -> list[nn.Module]:
    """The module whose forward made the node, then other modules that own its weight."""
    found: list[nn.Module] = []
    with contextlib.suppress(AttributeError):  # a scope that is no module, such as one that torch makes itself
        found.append(model.get_submodule(scope(node)))
    if operator(node) != "batch_norm":  # a BatchNorm used by hand may be given shapes that its module refuses
        found += owners.get(id(_tensor(bound.get("weight"), tensors)), [])
    return found


def _has_no_extras(module: nn.Module) -> bool:
    """Whether calling the module does nothing beyond its class's forward; hooks are in the graph already."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return "forward" not in vars(module) and not any(hooks)


def _computes_as(module: nn.Module, stock: type[nn.Module]) -> bool:
    kind = type(module)
    inner = getattr(kind, "_conv_forward", None) is getattr(stock, "_conv_forward", None)
    own_call = kind.__call__ is not nn.Module.__call__
    return isinstance(module, stock) and kind.forward is stock.forward and inner and not own_call


def _tensor(argument: object, tensors: Mapping[str, Tensor]) -> object:
    """The parameter behind an argument; the argument itself where it is none."""
    if isinstance(argument, fx.Node) and argument.op == "get_attr":
        return tensors.get(str(argument.target), argument)
    return argument


def _same_tensors(owner: nn.Module, bound: Arguments, tensors: Mapping[str, Tensor]) -> bool:
    slots = [slot for slot in ("weight", "bias", "running_mean", "running_var") if slot in bound]
    return all(_tensor(bound[slot], tensors) is getattr(owner, slot, _NONE) for slot in slots)


def _replace_(graph: fx.Graph, node: fx.Node, name: str, owner: nn.Module, bound: Arguments) -> None:
    source = bound["indices"] if "indices" in bound else bound["input"]
    if getattr(owner, "padding_mode", "zeros") != "zeros":
        source = arguments(source)["self"]  # of the padding, which the module does itself
    with graph.inserting_before(node):
        call = graph.create_node("call_module", name, (source,))
    call.meta = dict(node.meta)
    node.replace_all_uses_with(call)
    graph.erase_node(node)


def _sizes(value: Any, dims: int) -> tuple[Any, ...]:
    items = tuple(value) if isinstance(value, list | tuple) else (value,)
    return items * dims if len(items) == 1 else items


def _convolution(kind: type[nn.Module], dims: int) -> Callable[[nn.Module, Arguments], bool]:
    def agrees(owner: Any, bound: Arguments) -> bool:
        if not _computes_as(owner, kind):
            return False
        keys = [k for k in ("stride", "output_padding", "dilation", "groups") if k in bound]
        same = all(_sizes(bound[key], dims) == _sizes(getattr(owner, key), dims) for key in keys)
        padding = _sizes(bound["padding"], dims)
        if owner.padding_mode == "zeros":
            return same and padding == _sizes(owner.padding, dims)
        return same and padding == (0,) * dims and _is_padding_of(owner, bound["input"])

    return agrees


def _is_padding_of(owner: Any, node: object) -> bool:
    """Whether a node pads as a convolution does before it, where it pads otherwise than with zeros."""
    if not isinstance(node, fx.Node) or operator(node) != "pad":
        return False
    bound = arguments(node)
    return (bound["mode"], list(bound["pad"])) == (owner.padding_mode, list(owner._reversed_padding_repeated_twice))


def _linear(owner: Any, bound: Arguments) -> bool:
    return _computes_as(owner, nn.Linear)


def _embedding(owner: Any, bound: Arguments) -> bool:
    if not _computes_as(owner, nn.Embedding) or owner.max_norm is not None:
        return False
    padding = -1 if owner.padding_idx is None else owner.padding_idx
    own = (padding, owner.scale_grad_by_freq, owner.sparse)
    return (bound["padding_idx"], bound["scale_grad_by_freq"], bound["sparse"]) == own


def _batch_norm(owner: Any, bound: Arguments) -> bool:
    value = tensor_value(bound["input"])
    dims = 0 if value is None else value.dim()
    fits = any(_computes_as(owner, stock) and dims in allowed for stock, allowed in _BATCH_NORM_DIMS)
    if not fits or bound["training"] or bound["running_mean"] is None:
        return False
    momentum = 0.0 if owner.momentum is None else owner.momentum  # None: a cumulative average
    return (bound["eps"], bound["momentum"]) == (owner.eps, momentum)


def _layer_norm(owner: Any, bound: Arguments) -> bool:
    same = _computes_as(owner, nn.LayerNorm) and bound["eps"] == owner.eps
    return same and tuple(bound["normalized_shape"]) == owner.normalized_shape


def _group_norm(owner: Any, bound: Arguments) -> bool:
    same = _computes_as(owner, nn.GroupNorm) and bound["eps"] == owner.eps
    return same and bound["num_groups"] == owner.num_groups


_RULES: dict[str, Callable[[nn.Module, Arguments], bool]] = {
    "conv1d": _convolution(nn.Conv1d, 1),
    "conv2d": _convolution(nn.Conv2d, 2),
    "conv3d": _convolution(nn.Conv3d, 3),
    "conv_transpose1d": _convolution(nn.ConvTranspose1d, 1),
    "conv_transpose2d": _convolution(nn.ConvTranspose2d, 2),
    "conv_transpose3d": _convolution(nn.ConvTranspose3d, 3),
    "linear": _linear,
    "embedding": _embedding,
    "batch_norm": _batch_norm,
    "layer_norm": _layer_norm,
    "group_norm": _group_norm,
}
"""Operators that are raised, each with the test that a module computes the same (signatures: ``torch.ops.aten``)."""
