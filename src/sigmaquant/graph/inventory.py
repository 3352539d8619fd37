"""The layers of a raised graph: every quantizable weight with its shapes, multiply-accumulates, calls and ties."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import prod
from operator import attrgetter
from typing import Any

from torch import Tensor, fx, nn

from sigmaquant.exported.nodes import operator, tensor_value
from sigmaquant.exported.shapes import count, example_shape
from sigmaquant.graph.parameters import ParameterFlow, ParameterLayer, WeightUse, channel_axis
from sigmaquant.graph.specs import LayerSpec
from sigmaquant.operators.products import products

_KINDS: tuple[tuple[type[nn.Module], str], ...] = (
    (nn.Conv1d, "conv1d"),
    (nn.Conv2d, "conv2d"),
    (nn.Conv3d, "conv3d"),
    (nn.ConvTranspose1d, "conv_transpose1d"),
    (nn.ConvTranspose2d, "conv_transpose2d"),
    (nn.ConvTranspose3d, "conv_transpose3d"),
    (nn.Linear, "linear"),
    (nn.Embedding, "embedding"),
)
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@dataclass(frozen=True)
class _Call:
    """One use of a weight: the module (or the parameter's future module) that uses it, and what the use costs."""

    target: str
    kind: str
    node: fx.Node
    source: fx.Node
    macs: int
    elements: int
    has_bias: bool
    groups: int
    use: WeightUse | None = None


@dataclass(frozen=True)
class Inventory:
    """The layers of a graph.

    Attributes:
        layers: in order of first use.
        holders: name of the `ParameterLayer` to be made for each ``get_attr`` node that is a weight.
        weightless_macs: multiply-accumulates, for one example, of products without a layer's weight: between
            activations, or with a weight that is computed anew in each inference.
        float_macs: `QuantGraph.float_macs`.
    """

    layers: tuple[LayerSpec, ...]
    holders: Mapping[fx.Node, str]
    weightless_macs: int
    float_macs: int


def layer_kind(module: nn.Module) -> str | None:
    """`LayerSpec.kind` of a raised module; None for a norm."""
    return next((kind for stock, kind in _KINDS if isinstance(module, stock)), None)


def take_inventory(
    graph: fx.Graph,
    raised: Mapping[str, nn.Module],
    flows: Mapping[fx.Node, ParameterFlow],
    tensors: Mapping[str, Tensor],
    names: Mapping[int, str],
    held: Mapping[int, str],
) -> Inventory:
    """List the layers of a raised graph whose direct parameters are still ``get_attr`` nodes.

    Args:
        graph: raised graph.
        raised: the raised modules by name.
        flows: where each parameter's ``get_attr`` node goes.
        tensors: parameter or buffer behind each ``get_attr`` target.
        names: the user's name of each parameter, by identity.
        held: by identity of the weight, the `ParameterLayer` that the model has for it already.
    """
    calls: dict[int, list[_Call]] = {}
    holders: dict[fx.Node, str] = {}
    for node in graph.nodes:
        if node.op == "call_module" and (kind := layer_kind(raised[str(node.target)])) is not None:
            module = raised[str(node.target)]
            calls.setdefault(id(module.weight), []).append(_module_call(node, module, kind))
    for source, flow in flows.items():
        weight = tensors[str(source.target)]
        holder = held.get(id(weight)) or _holder_name(names[id(weight)], raised)
        found = _direct_calls(weight, flow, holder)
        if found:
            calls.setdefault(id(weight), []).extend(found)
            holders[source] = holder
    order = {node: index for index, node in enumerate(graph.nodes)}
    specs: list[tuple[int, LayerSpec]] = []
    for identity, uses in calls.items():
        uses.sort(key=lambda call: order[call.node])
        specs.append((order[uses[0].node], _spec(uses, names[identity], raised, graph)))
    specs.sort(key=lambda item: item[0])
    covered = {call.use.product.node for uses in calls.values() for call in uses if call.use is not None}
    layers = tuple(spec for _, spec in specs)
    return Inventory(layers, holders, _weightless_macs(graph, covered), _float_macs(graph))


def install_parameter_layers_(
    graph: fx.Graph, holders: Mapping[fx.Node, str], tensors: Mapping[str, Tensor]
) -> dict[str, ParameterLayer]:
    """Replace each weight's ``get_attr`` node by a call of a module that holds it; gives the modules by name."""
    order = {node: index for index, node in enumerate(graph.nodes)}
    made: dict[str, ParameterLayer] = {}
    for name in dict.fromkeys(holders.values()):
        sources = [source for source, holder in holders.items() if holder == name]
        weight = tensors[str(sources[0].target)]
        assert isinstance(weight, nn.Parameter)
        made[name] = ParameterLayer(weight)
        first = min((user for source in sources for user in source.users), key=order.__getitem__)
        with graph.inserting_before(first):
            call = graph.create_node("call_module", name)
        call.meta = {"val": sources[0].meta["val"], "nn_module_stack": first.meta.get("nn_module_stack", {})}
        for source in sources:
            source.replace_all_uses_with(call)
            graph.erase_node(source)
    return made


def _holder_name(parameter: str, raised: Mapping[str, nn.Module]) -> str:
    """The parameter's own name, or one with underscores where a raised module already sits on the way to it."""
    parts = parameter.split(".")
    parents = (".".join(parts[:depth]) for depth in range(1, len(parts)))
    return "_".join(parts) if any(parent in raised for parent in parents) else parameter


def _module_call(node: fx.Node, module: nn.Module, kind: str) -> _Call:
    weight = module.weight
    assert isinstance(weight, Tensor)
    source = node.all_input_nodes[0]
    per_position = prod(weight.shape[1:])
    macs = count(source if "transpose" in kind else node) * per_position
    if kind == "embedding":
        macs = 0
    groups = int(getattr(module, "groups", 1))
    has_bias = getattr(module, "bias", None) is not None
    return _Call(str(node.target), kind, node, source, macs, weight.numel(), has_bias, groups)


def _direct_calls(weight: Tensor, flow: ParameterFlow, target: str) -> list[_Call]:
    """The uses of a parameter as a weight; none for vectors and where no axis can carry scales."""
    uses = flow.direct
    if not uses or weight.dim() < 2 or channel_axis(tuple(weight.shape), uses[0]) is None:
        return []
    found = []
    for use in uses:
        product = use.product
        source = next((node for node in product.sources if node is not use.operand.node), product.node)
        kind = "recurrent" if product.recurrent else "parameter"
        elements = min(count(use.operand.node), weight.numel())
        has_bias = bool(product.bias)
        found.append(_Call(target, kind, product.node, source, product.macs, elements, has_bias, product.groups, use))
    return found


def _spec(calls: list[_Call], parameter: str, raised: Mapping[str, nn.Module], graph: fx.Graph) -> LayerSpec:
    first = calls[0]
    if first.use is None:
        weight = raised[first.target].weight
        axis: int | None = 1 if "transpose" in first.kind else 0
        parameter = f"{first.target}.weight"
    else:
        source: Any = first.use.operand.node if not first.use.chain else first.use.chain[0].args[0]
        weight = source.meta["val"]
        axis = channel_axis(tuple(int(size) for size in weight.shape), first.use)
    assert isinstance(weight, Tensor)
    # a packed weight whose pieces are used one by one is used once
    uses = round(sum(call.elements for call in calls) / max(1, weight.numel()))
    return LayerSpec(
        name=first.target,
        kind=first.kind,
        parameter=parameter,
        weight_shape=tuple(int(size) for size in weight.shape),
        channel_axis=axis or 0,
        groups=first.groups,
        has_bias=first.has_bias,
        macs=sum(call.macs for call in calls),
        input_shape=example_shape(tensor_value(first.source)),
        output_shape=example_shape(tensor_value(first.node)),
        calls=max(1, uses),
        tied=tuple(dict.fromkeys(call.target for call in calls if call.target != first.target)),
        batch_norm=_batch_norm(first, raised, graph) if len(calls) == 1 else None,
    )


def _batch_norm(call: _Call, raised: Mapping[str, nn.Module], graph: fx.Graph) -> str | None:
    """The BatchNorm that is the layer's only user, normalises the layer's channels and has no other call."""
    node, name = call.node, call.kind if call.use is None else operator(call.node)
    whole = call.use is None or not call.use.chain
    if not name.startswith(("conv", "linear")) or not whole or len(node.users) != 1:
        return None
    user = next(iter(node.users))
    norm = str(user.target)
    if user.op != "call_module" or not isinstance(raised[norm], _BATCH_NORMS):
        return None
    value = tensor_value(node)
    if name == "linear" and (value is None or value.dim() != 2):  # it would normalise positions, not channels
        return None
    others = [other for other in graph.nodes if other.op == "call_module" and other.target == norm]
    return norm if len(others) == 1 else None


def _weightless_macs(graph: fx.Graph, covered: Collection[fx.Node] = ()) -> int:
    return sum(product.macs for node in graph.nodes if node not in covered for product in products(node))


def _float_macs(graph: fx.Graph) -> int:
    """Multiply-accumulates in the graphs that operators of this one run."""
    owner, total = graph.owning_module, 0
    assert owner is not None, "an exported graph has its modules"
    for node in graph.nodes:
        sources = [source for source in node.all_input_nodes if source.op == "get_attr"]
        values = [attrgetter(str(source.target))(owner) for source in sources]
        inner = [value.graph for value in values if isinstance(value, fx.GraphModule)]
        if node.op == "call_function" and inner:
            costs = [_weightless_macs(region) + _float_macs(region) for region in inner]
            total += max(costs) if operator(node) == "cond" else sum(costs)
    return total
