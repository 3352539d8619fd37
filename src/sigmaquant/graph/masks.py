"""What is added to attention's scores: a bias by position, which shares their grid, apart from a mask, which has none.

Models add both at once (``where(mask, bias, -1e9)``, ``bias + mask``). Written one after the other, the bias is
arithmetic and the mask says which scores take part.
"""

from __future__ import annotations

import torch
from torch import fx, nn

from sigmaquant.exported.nodes import arguments, attribute_of, operator, tensor_value, yields_tensor
from sigmaquant.graph.writing import Writer

aten = torch.ops.aten
_RESHAPES = ("view", "reshape", "_unsafe_view", "contiguous", "clone")
_NOTHING = -1e4
"""Scores that are set to less take no part, whatever the bias was."""


def separate_masks_(graph: fx.Graph) -> None:
    """Split what is added to the scores of a softmax into biases and masks, the masks last."""
    for node in list(graph.nodes):
        value = tensor_value(node)
        if node.target is not aten.add.Tensor or node.kwargs or value is None or not _for_softmax(node):
            continue
        operands = [plain(operand) for operand in node.all_input_nodes]
        if len(operands) != 2:
            continue
        for scores, added in (operands, operands[::-1]):
            if _separated_(graph, node, scores, added):
                break
    graph.eliminate_dead_code()


def plain(node: fx.Node) -> fx.Node:
    """Past copies."""
    while operator(node) in ("contiguous", "clone", "alias", "detach") and isinstance(node.args[0], fx.Node):
        node = node.args[0]
    return node


def _for_softmax(node: fx.Node) -> bool:
    users = list(node.users)
    while len(users) == 1 and operator(users[0]) in _RESHAPES:
        users = list(users[0].users)
    return bool(users) and all("softmax" in operator(user) for user in users)


def _separated_(graph: fx.Graph, node: fx.Node, scores: fx.Node, added: fx.Node) -> bool:
    name, given = operator(added), arguments(added)
    if name == "where":
        filling, bias, mask = given["other"], given["self"], given["condition"]
        if not isinstance(filling, int | float) or filling > _NOTHING:
            return False
    elif name == "add" and given.get("alpha", 1) == 1:
        bias, mask = given["self"], given["other"]
        if _made_of(mask)[0]:
            bias, mask = mask, bias
    else:
        return False
    if not isinstance(bias, fx.Node) or not isinstance(mask, fx.Node):
        return False
    if _made_of(bias) != (True, False) or _made_of(mask)[0]:
        return False
    with graph.inserting_before(node):
        write = Writer(graph, node)
        result = write(aten.add.Tensor, scores, bias)
        if name == "where":
            out = write(aten.logical_not.default, mask)
            result = write(aten.masked_fill.Scalar, result, out, float(given["other"]))
        else:
            result = write(aten.add.Tensor, result, mask)
    node.replace_all_uses_with(result)
    graph.erase_node(node)
    return True


def _made_of(node: object) -> tuple[bool, bool]:
    """Whether parameters are in a value, and whether inputs are."""
    if not isinstance(node, fx.Node):
        return False, False
    owner = node.graph.owning_module
    assert owner is not None, "an exported graph has its modules"
    stack, seen, learned, given = [node], {node}, False, False
    while stack:
        current = stack.pop()
        given = given or current.op == "placeholder"
        if current.op == "get_attr":
            learned = learned or isinstance(attribute_of(owner, str(current.target), None), nn.Parameter)
        value = current.meta.get("val")
        for source in [] if value is not None and not yields_tensor(current) else current.all_input_nodes:
            if source not in seen:
                seen.add(source)
                stack.append(source)
    return learned, given
