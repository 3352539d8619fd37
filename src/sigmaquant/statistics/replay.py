"""Re-run only what lies downstream of one layer, with another weight in it; everything upstream is computed once.

A sweep through the graph keeps the float values that later nodes still need, and no others: memory is that of ordinary
inference plus one suffix of the network.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, fx
from torch.func import functional_call

from sigmaquant.graph.layers import QuantGraph


class LayerPlace:
    """Where a layer's weight acts in a graph.

    Attributes:
        users: parameter names to replace by node; an empty tuple where the node itself is the weight.
        first: position of the first node that uses the weight (the number of nodes when none does).
        affected: the nodes that use the weight and everything downstream, in order.
        shared: nodes after `first` that are not downstream but feed one that is, in order.
    """

    def __init__(self, graph: QuantGraph, name: str) -> None:
        nodes = list(graph.module.graph.nodes)
        weight = graph.weight(name)
        self.users: dict[fx.Node, tuple[str, ...]] = {}
        for node in nodes:
            keys = _weight_keys(graph.module, node, weight)
            if keys is not None:
                self.users[node] = keys
        affected = set(self.users)
        for node in nodes:
            if any(source in affected for source in node.all_input_nodes):
                affected.add(node)
        self.affected = tuple(node for node in nodes if node in affected)
        self.first = nodes.index(self.affected[0]) if affected else len(nodes)
        needed = {source for node in affected for source in node.all_input_nodes}
        shared = []
        for node in reversed(nodes[self.first :]):
            if node in needed and node not in affected:
                shared.append(node)
                needed.update(node.all_input_nodes)
        self.shared = tuple(reversed(shared))


def _weight_keys(module: fx.GraphModule, node: fx.Node, weight: Tensor) -> tuple[str, ...] | None:
    # By identity, not by name, so that a tied weight changes wherever it is used.
    if node.op == "get_attr":
        return () if _attribute(module, node) is weight else None
    if node.op == "call_module":
        named = module.get_submodule(str(node.target)).named_parameters(remove_duplicate=False)
        return tuple(key for key, value in named if value is weight) or None
    return None


def _attribute(module: fx.GraphModule, node: fx.Node) -> Any:
    value: Any = module
    for part in str(node.target).split("."):
        value = getattr(value, part)
    return value


class Sweep:
    """One batch on its way through a graph. Visit layers in the order of `LayerPlace.first`.

    Attributes:
        reference: what the float network returns.
    """

    def __init__(self, module: fx.GraphModule, inputs: tuple[Tensor, ...]) -> None:
        self._module = module
        self._nodes = list(module.graph.nodes)
        place = {node: position for position, node in enumerate(self._nodes)}
        self._last_user = {node: max(node.users, key=place.__getitem__, default=None) for node in self._nodes}
        self._inputs = inputs
        self._mutators: set[fx.Node] = set()
        self.reference: Any = None
        self._restart()
        self._find_reference()
        self._restart()

    def _restart(self) -> None:
        self._values: dict[fx.Node, Any] = {}
        self._done: set[fx.Node] = set()
        self._position = 0
        placeholders = [node for node in self._nodes if node.op == "placeholder"]
        for node, value in zip(placeholders, self._inputs, strict=True):
            self._values[node] = value.clone()  # a network may write into its input, the user's batch
            self._done.add(node)

    def _find_reference(self) -> None:
        # Which nodes write into their operands cannot be read off a graph; every tensor counts the writes into it.
        for node in self._nodes:
            operands = [v for v in map(self._values.get, node.all_input_nodes) if isinstance(v, Tensor)]
            versions = [operand._version for operand in operands]
            self._run(node)
            if versions != [operand._version for operand in operands]:
                self._mutators.add(node)
            self._forget(node, self._values)
        self.reference = self._values[self._nodes[-1]]

    def replay(self, place: LayerPlace, weight: Tensor) -> Any:
        """What the network returns with `weight` in place of a layer's weight; the float network is not changed."""
        self._advance(place)
        values = dict(self._values)
        for node in place.affected:
            if node in self._mutators:
                for source in node.all_input_nodes:
                    if values[source] is self._values.get(source) and isinstance(values[source], Tensor):
                        values[source] = values[source].clone()
            if node in place.users:
                values[node] = self._execute(node, values, dict.fromkeys(place.users[node], weight), weight)
            else:
                values[node] = self._execute(node, values)
            self._forget(node, values)
        return values.get(self._nodes[-1], self.reference)

    def _advance(self, place: LayerPlace) -> None:
        while self._position < place.first:
            node = self._nodes[self._position]
            self._run(node)
            self._forget(node, self._values)
            self._position += 1
        for node in place.shared:
            self._run(node)

    def _run(self, node: fx.Node) -> None:
        if node not in self._done:
            self._values[node] = self._execute(node, self._values)
            self._done.add(node)

    def _forget(self, node: fx.Node, values: dict[fx.Node, Any]) -> None:
        for source in node.all_input_nodes:
            if self._last_user[source] is node:
                del values[source]

    def _execute(
        self,
        node: fx.Node,
        values: Mapping[fx.Node, Any],
        swap: Mapping[str, Tensor] | None = None,
        weight: Tensor | None = None,
    ) -> Any:
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
        if node.op == "call_function":
            return node.target(*args, **kwargs)  # type: ignore[operator]
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        if node.op == "call_module":
            called = self._module.get_submodule(str(node.target))
            return functional_call(called, dict(swap), args, kwargs) if swap else called(*args, **kwargs)
        if node.op == "get_attr":
            return _attribute(self._module, node) if weight is None else weight
        return args[0]
