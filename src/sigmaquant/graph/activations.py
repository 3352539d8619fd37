"""Where activations are quantized: at the output of each producer, once, so that the whole graph can run on integers.

A producer is a chain such as conv-bn-relu, a residual add, a concatenation, a pooling average, or the model's input.
What only moves values (max-pool, reshape, slicing, zero padding) passes them on, on the producer's grid. What each
operator is, `sigmaquant.operators` says.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from torch import Tensor, fx

from sigmaquant.exported.nodes import arguments, operator, scope, tensor_value, user_line
from sigmaquant.exported.shapes import example_shape
from sigmaquant.graph.specs import ActivationSpec, FloatPlace, QuantGraph
from sigmaquant.operators.floats import Ending
from sigmaquant.operators.interpretation import Interpretation, is_weight, picked_from, readers
from sigmaquant.operators.meaning import Meaning, extent, is_live
from sigmaquant.operators.movement import IntegerInput
from sigmaquant.operators.products import products
from sigmaquant.operators.roles import moves_weight


def place_activations(graph: QuantGraph) -> QuantGraph:
    """The graph with `activations`, `float_places` and every layer's `inputs` filled in."""
    found = Placement(graph.module)
    specs: list[ActivationSpec] = []
    names: dict[str, int] = {}
    quantized: dict[fx.Node, str] = {}
    parents = _parents(list(graph.module.graph.nodes))
    for node, kind in found.quantized.items():
        name = _unique(_readable_name(node, parents, found.interpretation.meaning.get(node)), names)
        quantized[node] = name
        meaning = found.interpretation.meaning.get(node)
        known = (float(meaning.low), float(meaning.high)) if isinstance(meaning, IntegerInput) else None
        specs.append(ActivationSpec(name, node.name, example_shape(tensor_value(node)), kind, known))
    places = tuple(
        FloatPlace(_owner(node) or "model", _operator_name(node, graph.module), user_line(node))
        for node in found.floats
    )
    feeds = _layer_inputs(graph, quantized, found)
    layers = tuple(replace(spec, inputs=feeds.get(spec.name, ())) for spec in graph.layers)
    return replace(graph, layers=layers, activations=tuple(specs), float_places=places)


class Placement:
    """Where quantizers go.

    Args:
        module: a raised graph without quantizers.

    Attributes:
        interpretation: what its nodes mean.
        quantized: the nodes that a quantizer follows, with the kind of their producer.
        floats: operators without an integer form, in order.
        on_grid: nodes whose values lie on a grid, and inputs of integers.
    """

    def __init__(self, module: fx.GraphModule) -> None:
        self.interpretation = Interpretation(module)
        self.quantized: dict[fx.Node, str] = {}
        self.floats: list[fx.Node] = []
        self.on_grid: set[fx.Node] = set(self.interpretation.integers)
        self._chains: dict[fx.Node, tuple[Meaning, ...]] = {}  # of producers that wait for their reader
        self._integer_chains: set[fx.Node] = set()
        for node in module.graph.nodes:
            if _is_float(node) and is_live(node) and not is_weight(node):
                self._place(node)

    def holds_float(self, node: fx.Node) -> bool:
        """Whether a value lies in memory in float: it is on no grid, and its producer does not wait for its reader."""
        return is_live(node) and _is_float(node) and node not in self.on_grid and node not in self._chains

    def _place(self, node: fx.Node) -> None:
        value, meaning = tensor_value(node), self.interpretation.meaning.get(node)
        scalar = value is None or value.dim() == 0
        if node.op == "placeholder":
            if scalar or not readers(node):
                return
            if extent(node) is None:
                self.floats.append(node)
            self._quantize(node, "input")
        elif isinstance(meaning, Ending) or node in self.interpretation.absorbed:
            return
        elif meaning is None or scalar:
            self.floats.append(node)
        elif meaning.passes:
            waiting = self._chains.get(meaning.sources[0])
            if waiting is not None and meaning.extends(waiting):
                self._chains[node] = waiting
                if meaning.sources[0] in self._integer_chains:
                    self._integer_chains.add(node)
            elif all(source in self.on_grid for source in meaning.sources):
                self.on_grid.add(node)
                if not meaning.integer:
                    self.floats.append(node)
        else:
            self._produce(node, meaning)

    def _produce(self, node: fx.Node, meaning: Meaning) -> None:
        chain: tuple[Meaning, ...] = (meaning,)
        whole = all(source in self.on_grid for source in meaning.sources)
        first, *others = meaning.sources or (None,)
        waiting = self._chains.get(first) if first is not None else None
        if waiting and all(source in self.on_grid for source in others) and meaning.extends(waiting):
            chain, whole = (*waiting, meaning), first in self._integer_chains
        if not meaning.integer or not whole:
            self.floats.append(node)
        if node in self.interpretation.inner or self._merges(node, chain):
            self._chains[node] = chain
            if meaning.integer and whole:
                self._integer_chains.add(node)
        else:
            self._quantize(node, meaning.producer)

    def _merges(self, node: fx.Node, chain: tuple[Meaning, ...]) -> bool:
        """Whether the only reader continues the chain: BatchNorm after a layer, clipping after a producer, …"""
        users = readers(node)
        if len(users) != 1 or users[0].op == "output":
            return False
        reader = self.interpretation.meaning.get(users[0])
        if reader is None or users[0] in self.interpretation.inner or reader.sources != (node,):
            return False
        return reader.extends(chain)

    def _quantize(self, node: fx.Node, kind: str) -> None:
        if readers(node):
            self.quantized[node] = kind
            self.on_grid.add(node)


def _is_float(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return node.op != "output" and isinstance(value, Tensor) and value.is_floating_point()


def _layer_inputs(graph: QuantGraph, quantized: dict[fx.Node, str], found: Placement) -> dict[str, tuple[str, ...]]:
    """Names of the activations that feed each layer, over all its calls; none where a call reads a float tensor."""
    owners = {name: spec.name for spec in graph.layers for name in (spec.name, *spec.tied)}
    feeds: dict[str, dict[str | None, None]] = {}
    for node in graph.module.graph.nodes:
        if node.op != "call_module" or str(node.target) not in owners:
            continue
        known = feeds.setdefault(owners[str(node.target)], {})
        # A functional weight is a call without arguments; its consumers hold the inputs.
        for value in [node.args[0]] if node.args else _multiplied_with(node):
            if value is None or _is_float(value):
                known[_source(value, quantized, found)] = None
    return {name: () if None in found else tuple(str(source) for source in found) for name, found in feeds.items()}


def _multiplied_with(weight: fx.Node) -> list[fx.Node | None]:
    """What a functional weight is multiplied with, past its splits and transpositions; None: a float inside."""
    found: list[fx.Node | None] = []
    stack = [(user, weight) for user in weight.users]
    while stack:
        user, operand = stack.pop()
        if moves_weight(user):
            stack.extend((following, user) for following in user.users)
        elif "hx" in arguments(user):
            found.append(_recurrent_input(user, operand))
        else:
            found.extend(source for product in products(user) for source in product.sources if source is not operand)
    return found


def _recurrent_input(node: fx.Node, matrix: fx.Node) -> fx.Node | None:
    """What a recurrent layer's matrix reads: the layer's input, or its own outputs, a step before."""
    bound = arguments(node)
    plain = "params" in bound and bound.get("num_layers") == 1 and not bound["bidirectional"]
    if not plain or "batch_sizes" in bound:
        return None
    if matrix is bound["params"][0]:
        source = bound["input"]
        return source if isinstance(source, fx.Node) else None
    return next((user for user in node.users if operator(user) == "getitem" and user.args[1] == 0), None)


def _source(value: object, quantized: dict[fx.Node, str], found: Placement) -> str | None:
    """The quantized activation that a value carries, past operators that only pass values on."""
    while isinstance(value, fx.Node):
        if value in quantized:
            return quantized[value]
        meaning = found.interpretation.meaning.get(value)
        if meaning is None or not meaning.passes:
            return None
        value = meaning.sources[0]
    return None


def _owner(node: fx.Node) -> str:
    """The user's module in whose forward the node was made, as a qualified name."""
    return str(node.target) if node.op == "call_module" else scope(node)


def _operator_name(node: fx.Node, module: fx.GraphModule) -> str:
    """The operator without its in-place underscore, the class of the module that is called, or ``input``."""
    if node.op == "call_module":
        return type(module.get_submodule(str(node.target))).__name__
    return "input" if node.op == "placeholder" else operator(picked_from(node)).removesuffix("_")


def _parents(nodes: Sequence[fx.Node]) -> set[str]:
    """Names of the modules that contain a module of the graph."""
    names = [str(node.target).split(".") for node in nodes if node.op == "call_module"]
    return {".".join(parts[:depth]) for parts in names for depth in range(1, len(parts))}


def _readable_name(node: fx.Node, parents: Collection[str], meaning: Meaning | None) -> str:
    """The module's name where the operator is the module (an ``nn.ReLU``), else the scope and the operator."""
    if node.op == "placeholder" or isinstance(meaning, IntegerInput):
        return "input"
    owner = _owner(node)
    if node.op == "call_module":
        return owner
    stack = node.meta.get("nn_module_stack") or {}
    kind = str(next(reversed(stack.values()))[1]) if stack else ""
    if owner and owner not in parents and "torch.nn.modules" in kind and "container" not in kind:
        return owner
    name = operator(picked_from(node)).removesuffix("_")
    return owner if owner.split(".")[-1] == name else f"{owner}.{name}".removeprefix(".")


def _unique(name: str, seen: dict[str, int]) -> str:
    count = seen.get(name, 0)
    seen[name] = count + 1
    return name if count == 0 else _unique(f"{name}_{count}", seen)
