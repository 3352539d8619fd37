"""Blocks of a network: the parts whose outputs are compared with the float network's while their weights are learned.

A block ends behind an activation quantizer. It ends wherever a single tensor passes on (between residual blocks, around
attention and feed-forward parts) once it has `_LEAST` layers, and where several pass on (dense blocks, pyramids) only
when it has `_MOST`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx, nn

from sigmaquant.exported.nodes import computed_from
from sigmaquant.graph.specs import QuantGraph
from sigmaquant.quant.modules import ActivationQuantizer
from sigmaquant.quant.network import QuantizedNetwork

_LEAST = 2
_MOST = 6

LEARNED_KINDS = (
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "linear",
    "parameter",
)
"""Kinds of layers (`LayerSpec.kind`) whose rounding is learned; recurrent matrices and embeddings are left alone."""


@dataclass(frozen=True)
class Block:
    """A range of a network's nodes, in order, with the constants that they need.

    Attributes:
        nodes: of the quantized network's graph.
        inputs: nodes before it whose values it needs.
        outputs: its nodes whose values are needed after it.
        layers: names of the layers whose weights can be learned here: all of their calls are in this block.
        last: whether the network's outputs come out of it.
    """

    nodes: tuple[fx.Node, ...]
    inputs: tuple[fx.Node, ...]
    outputs: tuple[fx.Node, ...]
    layers: tuple[str, ...]
    last: bool = False

    @property
    def title(self) -> str:
        """For people: its first layer to its last one."""
        if not self.layers:
            return "no layers"
        return self.layers[0] if len(self.layers) == 1 else f"{self.layers[0]} to {self.layers[-1]}"


def find_blocks(network: QuantizedNetwork) -> tuple[Block, ...]:
    """All blocks of a network, in order; every node that depends on the inputs is in one of them.

    Args:
        network: the quantized one; its plan does not matter.
    """
    nodes = list(network.body.graph.nodes)
    place = {node: index for index, node in enumerate(nodes)}
    dependent, order = _dependent(nodes)
    last_use = {node: max((place[user] for user in node.users), default=-1) for node in dependent}
    names = {name: spec.name for spec in network.graph.layers for name in (spec.name, *spec.tied)}
    ranges: list[list[fx.Node]] = [[]]
    alive: set[fx.Node] = {node for node in dependent if node.op == "placeholder"}
    count = 0
    for node in order:
        ranges[-1].append(node)
        count += sum(1 for n in (node, *_constants(node, dependent)) if n.op == "call_module" and n.target in names)
        alive.add(node)
        alive = {other for other in alive if last_use[other] > place[node]}
        ends = _is_quantizer(network, node) or not alive
        tensors = [other for other in alive if _carries_values(other)]
        if ends and (count >= _MOST or (count >= _LEAST and len(tensors) <= 1)):
            ranges.append([])
            count = 0
    if len(ranges) > 1 and count == 0:
        ranges[-2].extend(ranges.pop())
    return _made(network, [part for part in ranges if part], dependent, names)


def whole_network(network: QuantizedNetwork) -> Block:
    """The network as one block, whose outputs are those of the network; it learns what several blocks use, too."""
    dependent, order = _dependent(list(network.body.graph.nodes))
    names = {name: spec.name for spec in network.graph.layers for name in (spec.name, *spec.tied)}
    (block,) = _made(network, [order], dependent, names)
    return block


def _made(
    network: QuantizedNetwork, ranges: list[list[fx.Node]], dependent: set[fx.Node], names: Mapping[Any, str]
) -> tuple[Block, ...]:
    place = {node: index for index, node in enumerate(network.body.graph.nodes)}
    home = {node: index for index, part in enumerate(ranges) for node in part}
    needs = [{n for node in part for n in (node, *_constants(node, dependent))} for part in ranges]
    full = [sorted(part, key=place.__getitem__) for part in needs]
    seen: dict[str, set[int]] = {}
    for index, part in enumerate(full):
        for node in part:
            if node.op == "call_module" and node.target in names:
                seen.setdefault(names[node.target], set()).add(index)
    specs = network.graph.layer
    blocks = []
    for index, part in enumerate(ranges):
        own = set(part)
        needed = {n for node in part for n in node.all_input_nodes if n in dependent and n not in own}
        passed = [n for n in part if any(user.op == "output" or home.get(user) != index for user in n.users)]
        called = dict.fromkeys(names[n.target] for n in full[index] if n.op == "call_module" and n.target in names)
        layers = [
            name
            for name in called
            if seen[name] == {index} and specs[name].kind in LEARNED_KINDS and not specs[name].tied
        ]
        blocks.append(
            Block(
                nodes=tuple(full[index]),
                inputs=tuple(sorted(needed, key=place.__getitem__)),
                outputs=tuple(passed),
                layers=tuple(layers),
                last=index == len(ranges) - 1,
            )
        )
    return tuple(blocks)


def left_alone(graph: QuantGraph, blocks: Iterable[Block]) -> tuple[str, ...]:
    """Names of the layers that no block learns."""
    learned = {name for block in blocks for name in block.layers}
    return tuple(spec.name for spec in graph.layers if spec.name not in learned)


def _is_quantizer(network: QuantizedNetwork, node: fx.Node) -> bool:
    """Whether a node is an activation's quantizer."""
    if node.op != "call_module":
        return False
    return isinstance(network.body.get_submodule(str(node.target)), ActivationQuantizer)


def _dependent(nodes: list[fx.Node]) -> tuple[set[fx.Node], list[fx.Node]]:
    """The nodes whose values depend on the network's inputs; and those of them that compute, in order."""
    found: set[fx.Node] = set()
    for node in nodes:
        if node.op == "placeholder" or any(before in found for before in node.all_input_nodes):
            found.add(node)
    return found, [node for node in nodes if node in found and node.op not in ("placeholder", "output")]


def _constants(node: fx.Node, dependent: set[fx.Node]) -> set[fx.Node]:
    """What a node needs that does not depend on the inputs: stored tensors, weights and what is computed from them."""
    return computed_from(before for before in node.all_input_nodes if before not in dependent)


def _carries_values(node: fx.Node) -> bool:
    """Whether a node passes numbers on that quantization changes; sizes and indices are none."""
    value = node.meta.get("val")
    parts = value if isinstance(value, tuple | list) else (value,)
    return value is None or any(isinstance(part, Tensor) and part.is_floating_point() for part in parts)


Values = dict[str, Any]
"""Values by node name, of one batch."""


def run_block(
    block: Block,
    owner: nn.Module,
    known: Values,
    see: Callable[[fx.Node, Any], None] | None = None,
) -> Values:
    """Values of a block's outputs, from those of its inputs.

    Args:
        block: of the quantized network.
        owner: whose modules and tensors are used: the network's body, or that of its float twin.
        known: values of `Block.inputs`, and maybe others.
        see: told the value of every node.
    """
    values: dict[fx.Node, Any] = {node: known[node.name] for node in block.inputs}
    kept = {*block.outputs, *block.inputs}
    left = {node: sum(1 for other in block.nodes if node in other.all_input_nodes) for node in block.nodes}

    def value_of(node: fx.Node) -> Any:
        return values[node]

    for node in block.nodes:
        args = fx.node.map_arg(node.args, value_of)
        kwargs = fx.node.map_arg(node.kwargs, value_of)
        target: Any = node.target
        if node.op == "get_attr":
            values[node] = _attribute(owner, target)
        elif node.op == "call_module":
            values[node] = owner.get_submodule(target)(*args, **kwargs)
        elif node.op == "call_method":
            values[node] = getattr(args[0], target)(*args[1:], **kwargs)
        else:
            values[node] = target(*args, **kwargs)
        if see is not None:
            see(node, values[node])
        for before in node.all_input_nodes:
            if before in left:
                left[before] -= 1
                if not left[before] and before not in kept:
                    del values[before]
    return {node.name: values[node] for node in block.outputs}


def _attribute(owner: nn.Module, name: str) -> Any:
    found: Any = owner
    for part in name.split("."):
        found = getattr(found, part)
    return found
