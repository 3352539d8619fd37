"""`Writer`: new nodes in an exported graph."""

from __future__ import annotations

from typing import Any

from torch import fx


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
