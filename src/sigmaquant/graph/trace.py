"""`trace`: from any module to a graph of calls of its own modules, with every weight accounted for."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, fx, nn

from sigmaquant.errors import ModelError
from sigmaquant.exported.nodes import attribute_of, tensor_value
from sigmaquant.exported.shapes import example_shape
from sigmaquant.graph.activations import place_activations
from sigmaquant.graph.assembly import assemble, check_names_free
from sigmaquant.graph.cleanup import (
    drop_assertions_,
    drop_empty_parts_,
    drop_inactive_dropout_,
    follow_device_,
    make_functional_,
)
from sigmaquant.graph.computed_weights import hold_computed_weights_
from sigmaquant.graph.created import spread_created_
from sigmaquant.graph.decomposition import decompose_, keep_sequences_first_
from sigmaquant.graph.exporting import export_graph
from sigmaquant.graph.floats import float_parameters
from sigmaquant.graph.folding import fold_constants_
from sigmaquant.graph.inputs import ExampleInputs, read_arguments
from sigmaquant.graph.inventory import install_parameter_layers_, take_inventory
from sigmaquant.graph.masks import separate_masks_
from sigmaquant.graph.norms import raise_norms_
from sigmaquant.graph.parameters import ParameterLayer, constant_nodes, follow
from sigmaquant.graph.raising import raise_modules_
from sigmaquant.graph.reading import precision_note, readable
from sigmaquant.graph.recurrent import write_out_recurrent_
from sigmaquant.graph.regions import float_regions, inline_regions_
from sigmaquant.graph.sizes import simplify_sizes_
from sigmaquant.graph.specs import QuantGraph

_log = logging.getLogger(__name__)


def trace(model: nn.Module, example_inputs: ExampleInputs) -> QuantGraph:
    """The model as a graph whose nodes call the user's own modules under their own names.

    The graph computes exactly what the model computes in evaluation mode, for every batch size, and can be trained:
    BatchNorm modules are the user's and update their statistics after ``.train()``; dropout and stochastic depth are
    inactive, because the graph is that of evaluation. Nothing is copied: modules, parameters and buffers are the
    user's, so deep-copy `QuantGraph.module` before changing it. The model keeps its mode and attributes. Only a weight
    that no stock module owns (``nn.MultiheadAttention.in_proj_weight``, an LSTM's matrices) sits in a new module, a
    `ParameterLayer` with that same parameter, named like it.

    A graph is float32. Of a model with parameters of another floating type, or with parts that `torch.compile` has
    wrapped, a copy is read: in float32, under the names without wrappers.

    Args:
        model: any module that `torch.export` accepts.
        example_inputs: what the model is called with: a tensor, a tuple of the positional inputs, or a dict of the
            inputs by name; inputs may be tuples, lists and dicts themselves. The batch is dimension 0; values do not
            matter, any batch size of at least one will do, and floating ones are read as float32. A tensor whose
            dimension 0 has another size than the first one's has no batch. What is no tensor is a constant of the
            graph. The graph takes the tensors alone, one after the other: those of a dict in the order in which the
            model's ``forward`` names them.

    Raises:
        GraphExportError: the model cannot be exported for every batch size; names the user's line and the remedy.
        ModelError: an example without a tensor, no quantizable layer, a weight that is NaN or infinite, a name that
            the graph needs itself, a TorchScript module, or a lazy one that has never run.

    Example:
        >>> graph = trace(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()), torch.zeros(1, 3, 8, 8))
        >>> graph.layers[0].name, graph.layers[0].macs, graph.layers[0].batch_norm
        ('0', 7776, '1')
    """
    model, own = readable(model), model
    if note := precision_note(own):
        _log.info(note)
    # floating inputs as data sources give them
    example = read_arguments(model, example_inputs).map(lambda x: x.float() if x.is_floating_point() else x)
    _check_finite(model)
    check_names_free(model)
    exported = export_graph(model, example)
    inline_regions_(exported)
    graph = exported.graph
    drop_assertions_(graph)
    drop_inactive_dropout_(graph)
    drop_empty_parts_(graph)
    make_functional_(graph)
    simplify_sizes_(graph)
    write_out_recurrent_(graph)
    decompose_(graph)
    keep_sequences_first_(graph)
    fold_constants_(exported, model)
    spread_created_(exported, model)
    model = hold_computed_weights_(exported, model)
    raise_norms_(graph)
    separate_masks_(graph)
    follow_device_(graph, example.tensors[0].device)
    tensors = _tensors(graph, exported, model)
    raised = raise_modules_(graph, model, tensors)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    # a graph that is read again has these already, under the names that their parameters had
    held = {id(m.weight): name for name, m in model.named_modules() if isinstance(m, ParameterLayer)}
    constant = constant_nodes(graph)
    flows = {
        node: follow(node, constant)
        for node in graph.nodes
        if node.op == "get_attr" and id(tensors.get(str(node.target))) in names
    }
    inventory = take_inventory(graph, raised, flows, tensors, names, held)
    if not inventory.layers:
        raise ModelError(_no_layer(model, float_regions(exported)))
    floats = float_parameters(model, inventory.layers, raised, flows, tensors)
    holders = install_parameter_layers_(graph, inventory.holders, tensors)
    module = assemble(graph, model, {**raised, **holders}, tensors, exported)
    return place_activations(
        QuantGraph(
            module=module,
            layers=inventory.layers,
            float_parameters=floats,
            weightless_macs=inventory.weightless_macs,
            float_macs=inventory.float_macs,
            input_shapes=tuple(example_shape(tensor_value(n)) for n in graph.nodes if n.op == "placeholder"),
        )
    )


def _no_layer(model: nn.Module, regions: Sequence[str]) -> str:
    what = f"{type(model).__name__} has no quantizable layer"
    if regions:
        return (
            f"{what} outside of {' and '.join(regions)}, and what is under these stays in float. Call the layers "
            "outside of it: a graph is float32 (training may use bfloat16 all the same)."
        )
    return (
        f"{what}: no convolution, linear, embedding, recurrent or "
        "attention weight that is a parameter. Weights computed from parameters (weight norm, parametrizations) "
        "do not count: remove the parametrization first (torch.nn.utils.parametrize.remove_parametrizations)."
    )


def _check_finite(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and not bool(torch.isfinite(parameter.detach()).all()):
            raise ModelError(
                f"parameter {name!r} contains NaN or infinite values, so no scale fits it. Load an intact checkpoint, "
                "or train again with a lower learning rate."
            )


def _tensors(graph: fx.Graph, exported: fx.GraphModule, model: nn.Module) -> Mapping[str, Tensor]:
    """The tensor behind each ``get_attr`` target: the user's own parameter or buffer, else export's constant."""
    own: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
    own.update(model.named_buffers(remove_duplicate=False))
    found: dict[str, Tensor] = {}
    for node in graph.nodes:
        if node.op == "get_attr":
            name = str(node.target)
            value = own.get(name)
            if value is None:
                value = attribute_of(exported, name)
            if isinstance(value, Tensor):
                found[name] = value
    return found
