"""Re-run only what lies downstream of one layer, with another weight in it; everything upstream is computed once.

A sweep through the graph keeps the float values that later nodes still need, and no others: memory is that of ordinary
inference plus one suffix of the network.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, fx
from torch.func import functional_call

from sigmaquant.graph.specs import QuantGraph


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

    def swap(self, node: fx.Node, weight: Tensor) -> dict[str, Tensor] | None:
        """The called module's parameters that `weight` replaces at a node, or None where the node is no user."""
        return dict.fromkeys(self.users[node], weight) if node in self.users else None


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
        self._writes = False
        self.reference = self._run_all(None, None)
        self._values = self._input_values()
        self._position = 0

    def replay(self, place: LayerPlace, weight: Tensor) -> Any:
        """What the network returns with `weight` in place of a layer's weight; the float network is not changed."""
        if self._writes:
            # A value that a later node overwrites cannot be kept for the next run, and a graph does not tell which.
            return self._run_all(place, weight)
        self._advance(place)
        values = dict(self._values)
        for node in place.affected:
            values[node] = self._execute(node, values, place, weight)
            self._forget(node, values)
        return self._returned(values) if self._nodes[-1] in values else self.reference

    def _run_all(self, place: LayerPlace | None, weight: Tensor | None) -> Any:
        values = self._input_values()
        for node in self._nodes:
            operands = [v for v in map(values.get, node.all_input_nodes) if isinstance(v, Tensor)]
            versions = [operand._version for operand in operands]  # every tensor counts the writes into it
            if node not in values:
                values[node] = self._execute(node, values, place, weight)
            self._writes |= versions != [operand._version for operand in operands]
            self._forget(node, values)
        return self._returned(values)

    def _returned(self, values: Mapping[fx.Node, Any]) -> Any:
        """What the network returns, in its own form: the graph's last node holds a plain list."""
        return self._module.graph.process_outputs(values[self._nodes[-1]])

    def _input_values(self) -> dict[fx.Node, Any]:
        placeholders = [node for node in self._nodes if node.op == "placeholder"]
        # Cloned, because a network may write into its input, which is the user's batch.
        return {node: value.clone() for node, value in zip(placeholders, self._inputs, strict=True)}

    def _advance(self, place: LayerPlace) -> None:
        while self._position < place.first:
            node = self._nodes[self._position]
            self._run(node)
            self._forget(node, self._values)
            self._position += 1
        for node in place.shared:
            self._run(node)

    def _run(self, node: fx.Node) -> None:
        # A node may have run ahead of the sweep, for an earlier layer.
        if node not in self._values:
            self._values[node] = self._execute(node, self._values, None, None)

    def _forget(self, node: fx.Node, values: dict[fx.Node, Any]) -> None:
        for source in node.all_input_nodes:
            if self._last_user[source] is node:
                del values[source]

    def _execute(
        self, node: fx.Node, values: Mapping[fx.Node, Any], place: LayerPlace | None, weight: Tensor | None
    ) -> Any:
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
        swap = place.swap(node, weight) if place is not None and weight is not None else None
        if node.op == "call_function":
            return node.target(*args, **kwargs)  # type: ignore[operator]
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        if node.op == "call_module":
            called = self._module.get_submodule(str(node.target))
            return called(*args, **kwargs) if swap is None else functional_call(called, swap, args, kwargs)
        if node.op == "get_attr":
            return _attribute(self._module, node) if swap is None else weight
        return args[0]
