"""The softmax at the end of many files: devices do without it, and training wants what comes before it."""

from __future__ import annotations

import torch
from torch import fx, nn
from torch.nn import functional as F

_SOFTMAX = (F.softmax, torch.softmax)


def softmax_ends(network: nn.Module) -> list[fx.Node]:
    """The softmax nodes of a graph module whose results are outputs and nothing else."""
    assert isinstance(network, fx.GraphModule), "front ends make graph modules"
    (output,) = (node for node in network.graph.nodes if node.op == "output")
    return [node for node in output.all_input_nodes if node.target in _SOFTMAX and set(node.users) == {output}]


def drop_softmax_(network: nn.Module) -> bool:
    """Let a graph module return what its last softmax takes, in place; whether it has had one."""
    found = softmax_ends(network)
    assert isinstance(network, fx.GraphModule)
    for node in found:
        source = node.args[0]
        assert isinstance(source, fx.Node)
        node.replace_all_uses_with(source)
        network.graph.erase_node(node)
    network.recompile()
    return bool(found)
