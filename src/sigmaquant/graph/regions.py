"""Regions of a graph under a mode of their own become plain nodes of the graph.

That is a gradient mode (``with torch.no_grad():``), or a ``torch.autocast`` that is switched off: a graph is float32.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from sigmaquant.exported.nodes import operator


def inline_regions_(module: fx.GraphModule) -> None:
    """Put the nodes of every such region in its place; what leaves one without gradients is detached.

    So the layers inside are layers like others, for costs and for quantization, and what the user froze by ``no_grad``
    is still not trained.

    Args:
        module: as exported; changed in place.
    """
    graph = module.graph
    for node in list(graph.nodes):
        if node.op != "call_function":
            continue
        if node.target is torch.ops.higher_order.wrap_with_set_grad_enabled:
            enabled, body, *operands = node.args
            _inline_(module, node, body, operands, detached=not enabled)
        elif node.target is torch.ops.higher_order.wrap_with_autocast:
            _, _, enabled, _, body, *operands = node.args  # device, dtype, enabled, cache
            if not enabled:
                _inline_(module, node, body, operands, detached=False)
    graph.eliminate_dead_code()


def float_regions(module: fx.GraphModule) -> list[str]:
    """What the graphs are under, that operators of this one run and that stay in float: ``torch.autocast``, …"""
    names = {"wrap_with_autocast": "torch.autocast", "cond": "torch.cond"}
    found = [str(node.target) for node in module.graph.nodes if isinstance(node.target, torch._ops.HigherOrderOperator)]
    return [names.get(name, name) for name in dict.fromkeys(found)]


def with_gradients_throughout(module: fx.GraphModule) -> fx.GraphModule:
    """The same modules, with gradients through what is detached: outputs depend on it, although nothing is to learn it.

    Args:
        module: stays as it is.
    """
    if not any(operator(node) == "detach" for node in module.graph.nodes):
        return module
    graph = fx.Graph()
    graph.output(graph.graph_copy(module.graph, {}))
    graph.set_codegen(module.graph._codegen)
    for node in list(graph.nodes):
        if operator(node) == "detach":
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
    return fx.GraphModule(module, graph)


def _inline_(module: fx.GraphModule, node: fx.Node, body: object, operands: list[Any], detached: bool) -> None:
    assert isinstance(body, fx.Node)
    inner = module.get_submodule(str(body.target))
    assert isinstance(inner, fx.GraphModule)
    inline_regions_(inner)
    graph = module.graph
    inputs = [source for source in inner.graph.nodes if source.op == "placeholder"]
    copies: dict[fx.Node, Any] = dict(zip(inputs, operands, strict=True))
    with graph.inserting_before(node):
        for source in inner.graph.nodes:
            if source.op == "get_attr":  # a region of its own, such as an autocast inside
                name = f"{body.target}_{source.target}"
                module.add_submodule(name, inner.get_submodule(str(source.target)))
                copies[source] = graph.get_attr(name)
        graph.graph_copy(inner.graph, copies)
        results: Any = inner.graph.output_node().args[0]
        outputs = [_detached(graph, copies[result]) if detached else copies[result] for result in results]
    for user in list(node.users):  # each picks one result
        index: Any = user.args[1]
        user.replace_all_uses_with(outputs[index])
        graph.erase_node(user)
    graph.erase_node(node)


def _detached(graph: fx.Graph, node: fx.Node) -> fx.Node:
    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor) or not value.is_floating_point():
        return node
    result = graph.call_function(torch.ops.aten.detach.default, (node,))
    result.meta = {"val": value, "nn_module_stack": node.meta.get("nn_module_stack", {})}
    return result
