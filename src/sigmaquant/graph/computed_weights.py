"""Weights that a network computes from parameters, or keeps as buffers, become parameters with the values they have.

Weight standardisation, spectral norm, parametrizations, pruning masks, a constant in front of a weight, and fixed
filters (a blur, a filter bank) give the same weight in every inference. The operator that multiplies with it is a
layer like any other when the weight is a parameter, so it is made one, in a copy of the user's model.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterator
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from sigmaquant.exported.nodes import attribute_of, computed_from, tensor_value, writes, yields_tensor
from sigmaquant.graph.copying import copied
from sigmaquant.graph.parameters import constant_nodes
from sigmaquant.operators.products import dims, products
from sigmaquant.operators.roles import moves_weight

_log = logging.getLogger(__name__)
_PARAMETRIZED = re.compile(r"(?:(?P<module>.+)\.)?parametrizations\.(?P<tensor>\w+)\.original\d*")
_ORIGINAL = "_orig"
"""What torch's older hooks (pruning, spectral norm) append to the name of what they compute from."""


def hold_computed_weights_(exported: fx.GraphModule, model: nn.Module) -> nn.Module:
    """Let operators that multiply with a computed weight, or with a buffer, multiply with a parameter.

    What was computed from parameters can be trained; what was a buffer is a parameter without a gradient. Parameters
    and buffers that served nothing else are gone from the copy.

    Args:
        exported: graph of the model, changed in place.
        model: left as it is.

    Returns:
        the model itself where nothing has to change, else a copy in which those weights are parameters, under the
        names of what they were computed from.
    """
    graph = exported.graph
    values = _Values(exported, model)
    wanted = {node: value for node in _computed_operands(graph, model) if (value := values.of(node)) is not None}
    if not wanted:
        return model
    elsewhere = _read_elsewhere(wanted)
    twin = copied(model)
    held: dict[str, Tensor] = {}
    served: set[str] = set()
    for node, value in wanted.items():
        sources = [str(source.target) for source in computed_from([node]) if source.op == "get_attr"]
        name = _hold(twin, _main_source(sources, values), value, values, held, elsewhere)
        if name is None:
            continue
        _attach(exported, name, twin.get_parameter(name))
        with graph.inserting_before(node):
            weight = graph.get_attr(name)
        weight.meta = dict(node.meta)
        node.replace_all_uses_with(weight)
        served.update(sources)
    if not held:
        return model
    graph.eliminate_dead_code()
    _forget(twin, served - {str(node.target) for node in graph.find_nodes(op="get_attr")})
    names = ", ".join(held)
    _log.info("weights that are computed in every inference, or are buffers, are taken with their values: %s", names)
    return twin


def _computed_operands(graph: fx.Graph, model: nn.Module) -> Iterator[fx.Node]:
    """Weights, and biases of the same operators, that no inference changes and that are no parameters."""
    constant = constant_nodes(graph)
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    for node in graph.nodes:
        for product in products(node) if node not in constant else ():
            # one matrix for each head is no layer: as a constant it has integers all the same
            layers = (
                operand.node for operand in product.weights if len(product.weights) == 1 or dims(operand.node) == 2
            )
            weights = [weight for weight in layers if weight in constant]
            for weight in weights:
                source = _unmoved(weight)
                if source.op == "get_attr" and str(source.target) in parameters:
                    continue
                # a part of what was computed, and what was read, are moved as parameters are
                whole = _elements(weight) > _elements(source) - (source.op != "get_attr")
                yield weight if whole else source
            for bias in product.bias if weights else ():
                if bias in constant and _unmoved(bias).op != "get_attr":
                    yield bias


def _unmoved(node: fx.Node) -> fx.Node:
    """What a node moves, cuts or repeats."""
    while moves_weight(node):
        node = node.all_input_nodes[0]
    return node


def _elements(node: fx.Node) -> int:
    value = tensor_value(node)
    return 0 if value is None else int(value.numel())


def _read_elsewhere(weights: Collection[fx.Node]) -> set[str]:
    """Parameters and buffers that others than these weights need too."""
    behind = computed_from(weights)
    sources = (node for node in behind if node.op == "get_attr" and node not in weights)
    return {str(source.target) for source in sources if any(user not in behind for user in source.users)}


class _Values:
    """The values of nodes that depend on no input."""

    def __init__(self, exported: fx.GraphModule, model: nn.Module) -> None:
        self._own: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
        self._own.update(model.named_buffers(remove_duplicate=False))
        self._exported = exported
        self._known: dict[fx.Node, Any] = {}

    def attribute(self, name: str) -> Tensor:
        found = self._own.get(name)
        return cast("Tensor", attribute_of(self._exported, name)) if found is None else found

    def of(self, node: fx.Node) -> Tensor | None:
        """A node's value where it is a sound weight: finite, floating, the same in each inference."""
        behind = computed_from([node])
        if not all(_repeats_itself(other) for other in behind) or not any(n.op == "get_attr" for n in behind):
            return None
        with torch.no_grad():
            for other in node.graph.nodes:
                if other in behind and other not in self._known:
                    self._known[other] = self._computed(other)
        value = self._known[node]
        sound = isinstance(value, Tensor) and value.dtype == torch.float32 and bool(torch.isfinite(value).all())
        return value if sound else None

    def _computed(self, node: fx.Node) -> Any:
        if node.op == "get_attr":
            return self.attribute(str(node.target)).detach()
        assert callable(node.target)
        arguments = fx.node.map_arg((node.args, dict(node.kwargs)), self._known.__getitem__)
        return node.target(*arguments[0], **arguments[1])


def _repeats_itself(node: fx.Node) -> bool:
    if node.op == "get_attr":
        return tensor_value(node) is not None
    if node.op != "call_function" or not yields_tensor(node) or writes(node):
        return False
    return torch.Tag.nondeterministic_seeded not in getattr(node.target, "tags", ())


def _main_source(sources: list[str], values: _Values) -> str:
    """The one that the weight is: the largest, a parameter before a buffer."""
    return max(sources, key=lambda name: (isinstance(v := values.attribute(name), nn.Parameter), v.numel(), name))


def _hold(
    twin: nn.Module, source: str, value: Tensor, values: _Values, held: dict[str, Tensor], elsewhere: Collection[str]
) -> str | None:
    """Make a value a parameter of the copy, in the place of its source where nothing else needs that; its name.

    None where the place cannot be freed.
    """
    learned = values.attribute(source).requires_grad
    own = _freed(twin, source) if source not in elsewhere else source
    if own is None:
        return None
    name, count = own, 1
    while (known := held.get(name)) is not None or (source in elsewhere and name == source):
        if known is not None and known.shape == value.shape and torch.equal(known, value):
            return name
        count += 1
        name = f"{own}_{count}"
    _attach(twin, name, nn.Parameter(value.detach().clone().contiguous(), requires_grad=learned))
    held[name] = value
    return name


def _attach(root: nn.Module, name: str, parameter: nn.Parameter) -> None:
    parent, _, attribute = name.rpartition(".")
    module = _submodule(root, parent)
    module._buffers.pop(attribute, None)
    module._non_persistent_buffers_set.discard(attribute)
    vars(module).pop(attribute, None)
    module._parameters[attribute] = parameter


def _submodule(root: nn.Module, name: str) -> nn.Module:
    """A module by name, made where there is none: export keeps constants, and no modules without tensors."""
    module = root
    for part in filter(None, name.split(".")):
        if part not in module._modules:
            module.add_module(part, nn.Module())
        module = module.get_submodule(part)
    return module


def _freed(twin: nn.Module, source: str) -> str | None:
    """The name under which the user knows what is computed from a source, with torch's machinery for it taken away."""
    if found := _PARAMETRIZED.fullmatch(source):
        path, tensor = found["module"] or "", found["tensor"]
        module: Any = twin.get_submodule(path)
        if hasattr(module, "parametrizations"):
            if set(module.parametrizations) != {tensor}:
                return None  # others of the module are still in use
            # not by torch's function: it changes the class, which the user's module has too
            module.__class__ = type(module).__bases__[0]
            del module._modules["parametrizations"]
        return f"{path}.{tensor}".lstrip(".")
    parent, _, attribute = source.rpartition(".")
    tensor = attribute.removesuffix(_ORIGINAL)
    module = _submodule(twin, parent)
    if tensor == attribute or tensor in module._parameters or tensor in module._buffers or not hasattr(module, tensor):
        return source
    del module._parameters[attribute]
    for hooks in (module._forward_pre_hooks, module._state_dict_hooks, module._load_state_dict_pre_hooks):
        for key, hook in list(hooks.items()):
            hook = getattr(hook, "hook", hook)  # torch wraps those that work on a state_dict
            hook = getattr(hook, "fn", hook)
            if tensor in (getattr(hook, "name", None), getattr(hook, "_tensor_name", None)):
                del hooks[key]
    return f"{parent}.{tensor}".lstrip(".")


def _forget(twin: nn.Module, names: Collection[str]) -> None:
    """Drop parameters and buffers that nothing uses any more."""
    for name in names:
        parent, _, attribute = name.rpartition(".")
        try:
            module = twin.get_submodule(parent)
        except AttributeError:
            continue  # went with its parametrization
        for table in (module._parameters, module._buffers):
            if attribute in table:
                table[attribute] = None
