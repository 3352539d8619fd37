"""`Writer`: new nodes in an exported graph."""

from __future__ import annotations

from typing import Any

from torch import Tensor, fx, nn


class Constants:
    """Adds constants to an exported graph: buffers that are not saved.

    Args:
        exported: the graph's module.
        model: the user's model, whose names stay free.
    """

    def __init__(self, exported: fx.GraphModule, model: nn.Module) -> None:
        self._exported = exported
        own = (*vars(exported), *exported._buffers, *model._modules, *model._parameters, *model._buffers)
        self._taken = {*own, *dir(nn.Module)}

    def before(self, node: fx.Node, value: Tensor) -> fx.Node:
        """A node before another one that reads the value, with what is known of that one."""
        name = f"constant_{node.name}"
        while name in self._taken:
            name += "_"
        self._taken.add(name)
        self._exported.register_buffer(name, value.contiguous(), persistent=False)
        with node.graph.inserting_before(node):
            held = node.graph.get_attr(name)
        held.meta = dict(node.meta)
        return held


class Writer:
    """Adds nodes that carry their values, in the scope of the node that they replace."""

    def __init__(self, graph: fx.Graph, node: fx.Node) -> None:
        self.graph, self.node = graph, node

    def __call__(self, target: Any, *args: Any) -> fx.Node:
        """A call of an operator."""
        made = self.graph.call_function(target, args)
        made.meta = {key: value for key, value in self.node.meta.items() if key not in ("val", "constant")}
        mode = self.node.meta["val"].fake_mode
        with mode:
            made.meta["val"] = target(*fx.node.map_arg(args, lambda argument: argument.meta["val"]))
        return made
