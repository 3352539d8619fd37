"""What an exported graph carries and a trainable one must not: assertions, dropout, empty parts, in-place operators."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, fx

from sigmaquant.exported.nodes import arguments, operator, tensor_value
from sigmaquant.graph.sizes import shares_memory

_DROPOUT = {"dropout", "dropout_", "feature_dropout", "feature_dropout_", "alpha_dropout", "alpha_dropout_",
            "feature_alpha_dropout", "feature_alpha_dropout_"}  # fmt: skip
_ASSERTIONS = {"_assert_scalar", "_assert_async", "_assert_tensor_metadata", "_functional_assert_async",
               "sym_constrain_range", "sym_constrain_range_for_size"}  # fmt: skip


def drop_assertions_(graph: fx.Graph) -> None:
    """Remove what only checks sizes and types, and what nothing uses any more."""
    for node in reversed(list(graph.nodes)):
        if operator(node) in _ASSERTIONS and not node.users:
            graph.erase_node(node)
    graph.eliminate_dead_code()


def drop_inactive_dropout_(graph: fx.Graph) -> None:
    """Remove dropout: the graph is that of evaluation, so each one passes its input on."""
    for node in list(graph.nodes):
        if operator(node) in _DROPOUT and not arguments(node)["train"]:
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)


def drop_empty_parts_(graph: fx.Graph) -> None:
    """Concatenate without the parts that hold nothing, such as a cache's before the first step."""
    for node in list(graph.nodes):
        if operator(node) not in ("cat", "concat", "concatenate"):
            continue
        parts, value = arguments(node)["tensors"], tensor_value(node)
        values = [tensor_value(part) for part in parts]
        kept = [part for part, held in zip(parts, values, strict=True) if held is None or 0 not in held.shape]
        if not kept or len(kept) == len(parts) or value is None:
            continue
        alone = tensor_value(kept[0])
        if len(kept) == 1 and alone is not None and alone.dtype == value.dtype:
            node.replace_all_uses_with(kept[0])
            graph.erase_node(node)
        elif all(held is None or held.dtype == value.dtype for held in values):
            node.args = (kept, *node.args[1:])
    graph.eliminate_dead_code()


def make_functional_(graph: fx.Graph) -> None:
    """Replace in-place operators (``relu_``, ``+=``) by their out-of-place forms where this cannot change a result.

    A quantizer hands its output to the next operator and keeps it for the gradient; that operator must not overwrite
    it. An operator stays in place where the tensor it changes is a parameter or buffer (that is an effect the user
    wants), or may share memory with another tensor in use.
    """
    position = {node: index for index, node in enumerate(graph.nodes)}
    for node in list(graph.nodes):
        functional = _functional(node)
        if functional is None:
            continue
        changed = node.args[0]
        assert isinstance(changed, fx.Node)
        if not _is_its_last_name(changed, node, position):
            continue
        node.target = functional
        for user in [user for user in changed.users if position[user] > position[node]]:
            user.replace_input_with(changed, node)


def follow_device_(graph: fx.Graph, device: torch.device) -> None:
    """Let tensors that the model creates (``zeros``, ``arange``) follow the input's device instead of `device`.

    Export writes the device of the example into the graph; a model traced on the CPU must still run on a GPU.
    """
    created = [node for node in graph.nodes if node.kwargs.get("device") == device]
    inputs = [node for node in graph.nodes if node.op == "placeholder" and tensor_value(node) is not None]
    if not created or not inputs:
        return
    last_input = [node for node in graph.nodes if node.op == "placeholder"][-1]
    with graph.inserting_after(last_input):
        here = graph.call_function(getattr, (inputs[0], "device"))
    here.meta["val"] = device
    for node in created:
        node.kwargs = {**node.kwargs, "device": here}


def _functional(node: fx.Node) -> torch._ops.OpOverload | None:
    """The out-of-place form of an in-place operator with the same arguments, dtype and result; None: there is none."""
    name = operator(node)
    if not name.endswith("_") or name.endswith("__") or not isinstance(node.target, torch._ops.OpOverload):
        return None
    packet = getattr(torch.ops.aten, name[:-1], None)
    overload = getattr(packet, node.target._overloadname, None)
    if not isinstance(overload, torch._ops.OpOverload) or overload._schema.is_mutable:
        return None
    if not node.target._schema.name.startswith("aten::"):
        return None
    if [a.name for a in overload._schema.arguments] != [a.name for a in node.target._schema.arguments]:
        return None
    # an in-place operator keeps its tensor's dtype and shape, the out-of-place form may promote them
    values = [tensor_value(argument) for argument in node.all_input_nodes]
    tensors: list[Tensor] = [value for value in values if value is not None]
    if any(value.dtype != tensors[0].dtype for value in tensors) or name in ("fill_", "copy_", "zero_", "set_"):
        return None
    return overload


def _is_its_last_name(changed: fx.Node, writer: fx.Node, position: Mapping[fx.Node, int]) -> bool:
    """Whether nothing but `changed` reads its memory after the writer: no view of it, and no tensor that it views."""
    root = changed
    while shares_memory(root) and root.args and isinstance(root.args[0], fx.Node):
        root = root.args[0]
    if not _is_fresh(root):
        return False
    stack, names = [root], {root}
    while stack:
        for user in stack.pop().users:
            if user not in names and user is not writer and shares_memory(user) and position[user] < position[writer]:
                names.add(user)
                stack.append(user)
    later = (user for name in names - {changed} for user in name.users if position[user] > position[writer])
    return not any(user not in names for user in later)


def _is_fresh(node: fx.Node) -> bool:
    """Whether the node's result is a tensor of its own: a model input or the new result of an operator."""
    return node.op == "placeholder" or (node.op == "call_function" and not shares_memory(node))
