"""Small questions to ask an fx node of an exported graph: its operator, its arguments by name, its value, its scope."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

_CALL_COUNT = re.compile(r"@\d+")
_FRAME = re.compile(r'\s*File "([^"]+)", line (\d+)')
_TORCH = str(Path(torch.__file__).parent)


def operator(node: fx.Node) -> str:
    """Name of the operator without namespace and overload (``"conv2d"``, ``"getitem"``), or ``""`` for no function.

    Example:
        >>> graph = fx.Graph()
        >>> operator(graph.call_function(torch.ops.aten.add.Tensor, (1, 2)))
        'add'
    """
    if node.op != "call_function":
        return ""
    if isinstance(node.target, torch._ops.OpOverload):
        return node.target._schema.name.rpartition("::")[2]
    return str(getattr(node.target, "__name__", node.target))


def writes(node: fx.Node) -> bool:
    """Whether the operator writes into one of its operands."""
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def arguments(node: fx.Node) -> dict[str, Any]:
    """Arguments of an operator by the names of its schema; arguments left out have the schema's defaults.

    Returns:
        an empty dict where the node calls no torch operator.
    """
    if not isinstance(node.target, torch._ops.OpOverload):
        return {}
    schema = node.target._schema.arguments
    bound = {argument.name: argument.default_value for argument in schema}
    bound.update(zip(bound, node.args, strict=False))
    bound.update(node.kwargs)
    return bound


def tensor_value(node: object) -> Tensor | None:
    """The fake tensor that a node yields (the first one where it yields several), or None."""
    value = node.meta.get("val") if isinstance(node, fx.Node) else None
    if isinstance(value, list | tuple) and value:
        value = value[0]
    return value if isinstance(value, Tensor) else None


def yields_tensor(node: fx.Node) -> bool:
    """Whether the node yields one or several tensors, not a size or a device."""
    value = node.meta.get("val")
    items = value if isinstance(value, list | tuple) else (value,)
    return any(isinstance(item, Tensor) for item in items)


def scope(node: fx.Node) -> str:
    """Qualified name of the user's innermost module whose forward made the node; ``""`` is the model itself."""
    stack = node.meta.get("nn_module_stack") or {}
    for name, _ in reversed(list(stack.values())):
        if isinstance(name, str) and not name.startswith("_empty_nn_module_stack"):
            # torch writes the second call of a module as "name@1"
            return _CALL_COUNT.sub("", name)
    return ""


def attribute_of(root: nn.Module, name: str, *default: object) -> Any:
    """What lies at a dotted name below a module, as a ``get_attr`` node reads it.

    Args:
        root: the module.
        name: such as ``"layers.0.weight"``.
        default: in place of an attribute that its module does not have; none: that is an error.
    """
    owner, _, attribute = name.rpartition(".")
    return getattr(root.get_submodule(owner), attribute, *default)


def computed_from(nodes: Iterable[fx.Node]) -> set[fx.Node]:
    """These nodes and all that they are computed from."""
    found: set[fx.Node] = set()
    stack = list(nodes)
    while stack:
        node = stack.pop()
        if node not in found:
            found.add(node)
            stack.extend(node.all_input_nodes)
    return found


def user_line(node: fx.Node) -> str:
    """The user's line that made the node, as ``"net.py:12: x = self.conv(x)"``; empty where it is not known.

    The innermost line outside torch is taken, from the stack that export keeps with every node.
    """
    lines = str(node.meta.get("stack_trace") or "").splitlines()
    found = ""
    for line, code in zip(lines, [*lines[1:], ""], strict=False):
        match = _FRAME.match(line)
        if match and not match.group(1).startswith(_TORCH):
            found = f"{Path(match.group(1)).name}:{match.group(2)}: {code.strip()}"
    return found
