"""Which bitwidths the user leaves open, by layer and activation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from sigmaquant.errors import PlanError
from sigmaquant.graph.specs import QuantGraph
from sigmaquant.plan import check_names
from sigmaquant.search.settings import Settings

_Value = TypeVar("_Value")


def layer_choices(graph: QuantGraph, settings: Settings) -> dict[str, tuple[int, ...]]:
    """Allowed bitwidths of every layer.

    Raises:
        UnknownLayerError: a pin or restriction names no layer.
        PlanError: a layer is left without a bitwidth, or given two by the names of modules that share its weight.
    """
    pins = _by_layer(graph, settings.pin, "the pin")
    restrictions = _by_layer(graph, settings.allowed, "the allowed bitwidths")
    both = set(pins) & set(restrictions)
    if both:
        raise PlanError(f"layer {sorted(both)[0]!r} is both pinned and restricted. Give only one of the two.")
    choices = dict.fromkeys(graph.layer, settings.bitwidths)
    for name, allowed in restrictions.items():
        if not allowed:
            raise PlanError(f"layer {name!r} has no allowed bitwidth. Give it at least one of 2..8.")
        choices[name] = allowed
    choices.update({name: (bits,) for name, bits in pins.items()})
    return choices


def _by_layer(graph: QuantGraph, table: Mapping[str, _Value], what: str) -> dict[str, _Value]:
    """A user's table by layer name; a module may stand for the layer that it shares its weight with."""
    layer_of = {name: spec.name for spec in graph.layers for name in (spec.name, *spec.tied)}
    check_names(table, layer_of, what)
    found: dict[str, _Value] = {}
    for name, value in table.items():
        layer = layer_of[name]
        if found.setdefault(layer, value) != value:
            raise PlanError(
                f"{what} gives both {found[layer]} and {value} for the one weight that {layer!r} shares with other "
                f"modules. Name only {layer!r}."
            )
    return found


def activation_choices(graph: QuantGraph, settings: Settings) -> dict[str, tuple[int, ...]]:
    """Allowed bitwidths of every activation, ascending.

    The inputs and the last activation before each output keep `Settings.activation_bits` where nothing else is asked.

    Raises:
        UnknownLayerError: a pin names no activation.
    """
    check_names(settings.activation_pin, graph.activation_names, "the activation pin")
    kept = (settings.activation_bits,)
    choices = dict.fromkeys(graph.activation_names, settings.activation_bitwidths or kept)
    choices.update(dict.fromkeys(_ends(graph), kept))
    choices.update({name: (bits,) for name, bits in settings.activation_pin.items()})
    return choices


def _ends(graph: QuantGraph) -> set[str]:
    """The activations that are inputs, and the last ones on every way to an output."""
    places = {spec.node: spec for spec in graph.activations}
    found = {spec.name for spec in graph.activations if spec.producer == "input"}
    stack, seen = list(graph.module.graph.output_node().all_input_nodes), set()
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        if node.name in places:
            found.add(places[node.name].name)
        else:
            stack.extend(node.all_input_nodes)
    return found
