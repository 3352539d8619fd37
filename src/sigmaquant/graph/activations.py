"""Where activations are quantized: at the output of each producer, once, so that the whole graph can run on integers.

A producer is a chain such as conv-bn-relu, a residual add, a concatenation, a pooling average, or the model's input.
What only moves values (max-pool, reshape, slicing, zero padding) passes them on, on the producer's grid.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from torch import fx

from sigmaquant.graph.layers import ActivationSpec, QuantGraph
from sigmaquant.graph.nodes import arguments, scope, tensor_value, writes, yields_tensor
from sigmaquant.graph.operators import (
    FUSED_ACTIVATIONS,
    called_module,
    is_float_tensor,
    operator_name,
    passes_on,
    picked_from,
    producer_kind,
)
from sigmaquant.graph.products import products
from sigmaquant.graph.shapes import example_shape

_CLIPPABLE = {"layer", "norm", "add", "multiply", "pool", "concatenation", "maximum"}
_MASKING = {"add", "baddbmm"}


def place_activations(graph: QuantGraph) -> QuantGraph:
    """The graph with `activations`, `float_operators` and every layer's `inputs` filled in."""
    specs: list[ActivationSpec] = []
    names: dict[str, int] = {}
    floats: list[str] = []
    quantized: dict[fx.Node, str] = {}
    nodes = list(graph.module.graph.nodes)
    live, parents = _live_nodes(nodes), _parents(nodes)
    for node in nodes:
        kind = _quantized_kind(node) if node in live else None
        if kind is not None:
            name = _unique(_readable_name(node, parents), names)
            quantized[node] = name
            specs.append(ActivationSpec(name, node.name, example_shape(tensor_value(node)), kind))
        elif node in live and stays_float(node):
            floats.append(f"{_owner(node) or 'model'}: {operator_name(picked_from(node))}")
    feeds = _layer_inputs(graph, quantized)
    layers = tuple(replace(spec, inputs=feeds.get(spec.name, ())) for spec in graph.layers)
    return replace(graph, layers=layers, activations=tuple(specs), float_operators=tuple(floats))


def _live_nodes(nodes: Sequence[fx.Node]) -> set[fx.Node]:
    """The nodes that depend on an input's values, not on parameters, constants and sizes alone (a class token)."""
    live: set[fx.Node] = set()
    for node in nodes:
        if node.op == "placeholder" or any(source in live for source in node.all_input_nodes if yields_tensor(source)):
            live.add(node)
    return live


def _readers(node: fx.Node) -> list[fx.Node]:
    """The users that read the values, not only the size."""
    return [user for user in node.users if user.op == "output" or yields_tensor(user)]


def _quantized_kind(node: fx.Node) -> str | None:
    """The producer's kind if a quantizer follows this node, else None."""
    value = tensor_value(node)
    if not is_float_tensor(node) or value is None or value.dim() == 0 or not _readers(node):
        return None
    if node.op == "placeholder":
        return "input"
    kind = producer_kind(node)
    if kind is None or _merges_into_user(node, kind) or _is_masked_score(node):
        return None
    return kind


def _is_masked_score(node: fx.Node) -> bool:
    """Whether a mask is added for a softmax: its huge negative values would leave no grid for the scores."""
    readers = _readers(node)
    return operator_name(node) in _MASKING and bool(readers) and all("softmax" in operator_name(r) for r in readers)


def _merges_into_user(node: fx.Node, kind: str) -> bool:
    """Whether the only reader continues the chain: BatchNorm after a layer, clipping after a producer, a bias add."""
    readers = _readers(node)
    if len(readers) != 1 or not is_float_tensor(readers[0]):
        return False
    user = readers[0]
    if kind == "layer" and (_is_absorbable_norm(user) or _is_bias_add(user)):
        return True
    if user.op != "call_function" or writes(user):
        return False
    return kind in _CLIPPABLE and operator_name(user) in FUSED_ACTIVATIONS


def _is_absorbable_norm(node: fx.Node) -> bool:
    return node.op == "call_module" and "BatchNorm" in type(called_module(node)).__name__


def _is_bias_add(node: fx.Node) -> bool:
    if node.op != "call_function" or operator_name(node) != "add":
        return False
    return any(isinstance(arg, fx.Node) and arg.op == "get_attr" for arg in node.args)


def stays_float(node: fx.Node) -> bool:
    """Whether the node yields a floating-point tensor that is on no activation's grid."""
    if node.op not in ("call_function", "call_module") or not is_float_tensor(node):
        return False
    if _is_masked_score(node):
        return True
    if producer_kind(node) is not None:
        value = tensor_value(node)
        return value is not None and value.dim() == 0
    # What passes integers on as floating-point numbers (a mask's type conversion) has no grid to pass on.
    return not passes_on(node) or not any(_is_float(source) for source in node.all_input_nodes)


def _is_float(node: fx.Node) -> bool:
    value = tensor_value(node)
    return value is not None and value.is_floating_point()


def _layer_inputs(graph: QuantGraph, quantized: dict[fx.Node, str]) -> dict[str, tuple[str, ...]]:
    """Names of the activations that feed each layer, over all its calls; none where a call reads a float tensor."""
    owners = {name: spec.name for spec in graph.layers for name in (spec.name, *spec.tied)}
    feeds: dict[str, dict[str | None, None]] = {}
    for node in graph.module.graph.nodes:
        if node.op != "call_module" or str(node.target) not in owners:
            continue
        found = feeds.setdefault(owners[str(node.target)], {})
        # A functional weight is a call without arguments; its consumers hold the inputs.
        for value in [node.args[0]] if node.args else _multiplied_with(node):
            if value is None or _is_float(value):
                found[_source(value, quantized)] = None
    return {name: () if None in found else tuple(str(source) for source in found) for name, found in feeds.items()}


def _multiplied_with(weight: fx.Node) -> list[fx.Node | None]:
    """What a functional weight is multiplied with, past its splits and transpositions; None: a float inside."""
    found: list[fx.Node | None] = []
    stack = [(user, weight) for user in weight.users]
    while stack:
        user, operand = stack.pop()
        if passes_on(user):
            stack.extend((following, user) for following in user.users)
        elif "hx" in arguments(user):
            found.append(_recurrent_input(user, operand))
        else:
            found.extend(source for product in products(user) for source in product.sources if source is not operand)
    return found


def _recurrent_input(node: fx.Node, matrix: fx.Node) -> fx.Node | None:
    """What a recurrent layer's matrix reads: the layer's input, or a hidden state, which stays float inside."""
    bound = arguments(node)
    if "params" not in bound:  # a single cell
        state = bound["hx"][0] if isinstance(bound["hx"], list | tuple) else bound["hx"]
        source = bound["input"] if matrix is bound["w_ih"] else state
    else:
        directions = 2 if bound["bidirectional"] else 1
        per_direction = len(bound["params"]) // (bound["num_layers"] * directions)
        place = list(bound["params"]).index(matrix)
        reads_input = place % per_direction == 0 and place < per_direction * directions
        source = bound.get("input", bound.get("data")) if reads_input else None
    return source if isinstance(source, fx.Node) else None


def _source(value: object, quantized: dict[fx.Node, str]) -> str | None:
    """The quantized activation that a value carries, past operators that only pass values on."""
    while isinstance(value, fx.Node):
        if value in quantized:
            return quantized[value]
        if not passes_on(value) or not value.args:
            return None
        value = value.args[0]
    return None


def _owner(node: fx.Node) -> str:
    """The user's module in whose forward the node was made, as a qualified name."""
    return str(node.target) if node.op == "call_module" else scope(node)


def _parents(nodes: Sequence[fx.Node]) -> set[str]:
    """Names of the modules that contain a module of the graph."""
    names = [str(node.target).split(".") for node in nodes if node.op == "call_module"]
    return {".".join(parts[:depth]) for parts in names for depth in range(1, len(parts))}


def _readable_name(node: fx.Node, parents: Collection[str]) -> str:
    """The module's name where the operator is the module (an ``nn.ReLU``), else the scope and the operator."""
    if node.op == "placeholder":
        return "input"
    owner = _owner(node)
    if node.op == "call_module":
        return owner
    stack = node.meta.get("nn_module_stack") or {}
    kind = str(next(reversed(stack.values()))[1]) if stack else ""
    if owner and owner not in parents and "torch.nn.modules" in kind and "container" not in kind:
        return owner
    name = operator_name(picked_from(node))
    return owner if owner.split(".")[-1] == name else f"{owner}.{name}".removeprefix(".")


def _unique(name: str, seen: dict[str, int]) -> str:
    count = seen.get(name, 0)
    seen[name] = count + 1
    return name if count == 0 else _unique(f"{name}_{count}", seen)
