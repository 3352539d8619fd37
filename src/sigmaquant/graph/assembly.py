"""Assembling the `fx.GraphModule`: the user's modules, parameters and buffers under the user's names, nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from keyword import iskeyword
from typing import cast

import torch.utils._pytree as pytree
from torch import Tensor, fx, nn

from sigmaquant.errors import ModelError
from sigmaquant.exported.nodes import tensor_value


def check_names_free(model: nn.Module) -> None:
    """Raise where a name is a word of Python's grammar, or at the top of the model one that `fx.GraphModule` needs.

    Raises:
        ModelError: names the attribute.
    """
    named = (*model.named_modules(), *model.named_parameters(), *model.named_buffers())
    for path, _ in named:
        for name in filter(iskeyword, path.split(".")):
            raise ModelError(
                f"the model's {path!r} is named by {name!r}, a word of Python's grammar, so no line of a graph "
                "can name it. Rename it."
            )
    empty = fx.GraphModule(nn.Module(), fx.Graph())
    for name in (*model._modules, *model._parameters, *model._buffers):
        if hasattr(empty, name):
            raise ModelError(f"the model's attribute {name!r} has a name that a graph needs itself. Rename it.")


def assemble(
    graph: fx.Graph,
    model: nn.Module,
    modules: Mapping[str, nn.Module],
    tensors: Mapping[str, Tensor],
    exported: fx.GraphModule,
) -> fx.GraphModule:
    """A graph module that runs `graph` with these modules and tensors.

    Args:
        graph: its ``call_module`` targets are keys of `modules`.
        model: the user's model; gives the class name, the training mode and which buffers are saved.
        modules: by name.
        tensors: parameter, buffer or constant behind each ``get_attr`` target.
        exported: holds what is neither, such as the branches of ``torch.cond``.
    """
    result = fx.GraphModule(nn.Module(), fx.Graph(), class_name=type(model).__name__)
    result.training = model.training
    saved = model.state_dict(keep_vars=True).keys()
    for name, module in modules.items():
        parent, attribute = _parent(result, name, modules)
        if parent is not None:
            parent.add_module(attribute, module)
    for node in graph.nodes:
        if node.op == "get_attr":
            name = str(node.target)
            parent, attribute = _parent(result, name, modules)
            if parent is not None:
                _attach(parent, attribute, tensors.get(name), persistent=name in saved)
                if name not in tensors:
                    parent.add_module(attribute, exported.get_submodule(name))
    _plain_signature_(graph)
    _complete_values(graph)
    result.graph = graph
    graph.lint()
    return result


def _attach(parent: nn.Module, attribute: str, tensor: Tensor | None, persistent: bool) -> None:
    if isinstance(tensor, nn.Parameter):
        parent.register_parameter(attribute, tensor)
    elif tensor is not None:
        parent.register_buffer(attribute, tensor, persistent=persistent)


def _parent(root: nn.Module, name: str, modules: Mapping[str, nn.Module]) -> tuple[nn.Module | None, str]:
    """The container for a name, made where it is missing; None where one of the user's modules holds the name."""
    *path, attribute = name.split(".")
    current = root
    for depth, part in enumerate(path, start=1):
        if ".".join(path[:depth]) in modules:
            return None, attribute
        if part not in current._modules:
            container = nn.Module()
            container.training = root.training
            current.add_module(part, container)
        current = current.get_submodule(part)
    return current, attribute


def _plain_signature_(graph: fx.Graph) -> None:
    """Let the graph take tensors, one after the other, and return what the model returns.

    Export flattens inputs and outputs by tree descriptions of its own. Tuples, lists and dicts the graph returns by
    itself; other types, such as the dataclasses of a model library, only the description can rebuild.
    """
    description = getattr(graph._codegen, "pytree_info", None)
    if description is None or description.out_spec is None:
        return
    for node in graph.find_nodes(op="placeholder"):
        if tensor_value(node) is None and not node.users:  # a constant among the example's arguments
            graph.erase_node(node)
    output = next(iter(reversed(graph.nodes)))
    structure = pytree.tree_unflatten(list(output.args[0]), description.out_spec)
    if _is_plain(structure):
        graph.set_codegen(fx.graph.CodeGen())
        output.args = (structure,)
    else:
        names = [node.name for node in graph.find_nodes(op="placeholder")]
        inputs = pytree.tree_structure((tuple(names), {}))
        graph.set_codegen(fx.graph._PyTreeCodeGen(fx.graph._PyTreeInfo(names, inputs, description.out_spec)))


def _is_plain(structure: object) -> bool:
    if type(structure) in (list, tuple):
        return all(_is_plain(item) for item in cast("list[object]", structure))
    if type(structure) is dict:
        return all(isinstance(key, str) and _is_plain(item) for key, item in structure.items())
    return isinstance(structure, fx.Node | int | float | str | None)


def _complete_values(graph: fx.Graph) -> None:
    """Give the output node, the one that export leaves without, its value."""
    output = next(iter(reversed(graph.nodes)))
    output.meta["val"] = fx.node.map_arg(output.args[0], lambda node: node.meta.get("val", tensor_value(node)))
