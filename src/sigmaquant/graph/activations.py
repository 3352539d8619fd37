"""Where activations are quantized: at the output of each producer, once, so that the whole graph can run on integers.

A producer is a chain such as conv-bn-relu, a residual add, a concatenation, a pooling average, or the model's input.
What only moves values (max-pool, reshape, slicing, zero padding) passes them on, on the producer's grid.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from torch import fx

from sigmaquant.graph.layers import ActivationSpec, QuantGraph
from sigmaquant.graph.operators import (
    FUSED_ACTIVATIONS,
    PASS_THROUGH,
    called_module,
    example_shape,
    is_float_tensor,
    operator_name,
    producer_kind,
)

_CLIPPABLE = {"layer", "norm", "add", "multiply", "pool", "concatenation"}


def place_activations(graph: QuantGraph) -> QuantGraph:
    """The graph with `activations`, `float_operators` and every layer's `inputs` filled in."""
    specs: list[ActivationSpec] = []
    names: dict[str, int] = {}
    floats: list[str] = []
    quantized: dict[fx.Node, str] = {}
    for node in graph.module.graph.nodes:
        kind = _quantized_kind(node)
        if kind is not None:
            name = _unique(_scope_name(node), names)
            quantized[node] = name
            specs.append(ActivationSpec(name, node.name, example_shape(node), kind))
        elif _stays_float(node):
            floats.append(f"{_scope(node) or 'model'}: {operator_name(node)}")
    feeds = _layer_inputs(graph, quantized)
    layers = tuple(replace(spec, inputs=feeds.get(spec.name, ())) for spec in graph.layers)
    return replace(graph, layers=layers, activations=tuple(specs), float_operators=tuple(floats))


def _quantized_kind(node: fx.Node) -> str | None:
    """The producer's kind if a quantizer follows this node, else None."""
    if not is_float_tensor(node) or not node.users:
        return None
    if node.op == "placeholder":
        return "input"
    kind = producer_kind(node)
    if kind is None or not _depends_on_input(node) or _merges_into_user(node, kind):
        return None
    return kind


def _merges_into_user(node: fx.Node, kind: str) -> bool:
    """Whether the only user continues the chain: BatchNorm after a layer, clipping after a producer, a bias add."""
    if len(node.users) != 1:
        return False
    (user,) = node.users
    if not is_float_tensor(user):
        return False
    if kind == "layer" and (_is_absorbable_norm(user) or _is_bias_add(user)):
        return True
    return kind in _CLIPPABLE and user.op == "call_function" and operator_name(user) in FUSED_ACTIVATIONS


def _is_absorbable_norm(node: fx.Node) -> bool:
    return node.op == "call_module" and "BatchNorm" in type(called_module(node)).__name__


def _is_bias_add(node: fx.Node) -> bool:
    if node.op != "call_function" or operator_name(node) != "add":
        return False
    return any(isinstance(arg, fx.Node) and arg.op == "get_attr" for arg in node.args)


def _depends_on_input(node: fx.Node) -> bool:
    """False for expressions of parameters and constants alone (a computed weight, an expanded class token)."""
    stack, seen = [node], set()
    while stack:
        current = stack.pop()
        if current.op == "placeholder":
            return True
        for source in current.all_input_nodes:
            if source not in seen:
                seen.add(source)
                stack.append(source)
    return False


def _stays_float(node: fx.Node) -> bool:
    if node.op not in ("call_function", "call_module") or not is_float_tensor(node) or not _depends_on_input(node):
        return False
    if node.op == "call_module":
        return producer_kind(node) is None
    name = operator_name(node)
    return producer_kind(node) is None and name not in PASS_THROUGH and name not in FUSED_ACTIVATIONS


def _layer_inputs(graph: QuantGraph, quantized: dict[fx.Node, str]) -> dict[str, tuple[str, ...]]:
    """Names of the activations that feed each layer, over all its calls."""
    owners = {name: spec.name for spec in graph.layers for name in (spec.name, *spec.tied)}
    feeds: dict[str, list[str]] = {}
    for node in graph.module.graph.nodes:
        if node.op != "call_module" or str(node.target) not in owners:
            continue
        # A functional weight is a call without arguments; its consumer holds the input.
        consumers: Iterable[fx.Node] = [node] if node.args else _weight_consumers(node)
        for consumer in consumers:
            source = _source(consumer.args[0], quantized)
            if source is not None and source not in feeds.setdefault(owners[str(node.target)], []):
                feeds[owners[str(node.target)]].append(source)
    return {name: tuple(sources) for name, sources in feeds.items()}


def _weight_consumers(node: fx.Node) -> list[fx.Node]:
    """The operators that multiply by a functional weight, past its splits and transpositions."""
    found: list[fx.Node] = []
    stack = list(node.users)
    while stack:
        user = stack.pop()
        if producer_kind(user) is None and operator_name(user) in PASS_THROUGH:
            stack.extend(user.users)
        elif user.args and user.args[0] is not node:
            found.append(user)
    return found


def _source(value: object, quantized: dict[fx.Node, str]) -> str | None:
    """The quantized activation that a value carries, past operators that only pass values on."""
    while isinstance(value, fx.Node):
        if value in quantized:
            return quantized[value]
        if value.op != "call_function" or operator_name(value) not in PASS_THROUGH or not value.args:
            return None
        value = value.args[0]
    return None


def _scope(node: fx.Node) -> str:
    """The user's module in whose forward the node was made, as a qualified name."""
    if node.op == "call_module":
        return str(node.target)
    stack = node.meta.get("nn_module_stack") or {}
    path = next(reversed(stack.values()))[0] if stack else ""
    return str(path)


def _scope_name(node: fx.Node) -> str:
    if node.op == "placeholder":
        return "input"
    scope = _scope(node)
    if node.op == "call_module":
        return scope
    stack = node.meta.get("nn_module_stack") or {}
    kind = str(next(reversed(stack.values()))[1]) if stack else ""
    if scope and "torch.nn.modules" in kind and "container" not in kind:
        return scope  # an nn.ReLU of the user's: the operator is the module
    return f"{scope}.{operator_name(node)}" if scope else operator_name(node)


def _unique(name: str, seen: dict[str, int]) -> str:
    count = seen.get(name, 0)
    seen[name] = count + 1
    return name if count == 0 else _unique(f"{name}_{count}", seen)
