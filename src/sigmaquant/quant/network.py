"""`prepare`: a graph becomes a trainable quantized copy; `set_plan_` and `calibrate_` put it at a plan."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn

from sigmaquant.errors import CheckpointError, CoverageError, DataError
from sigmaquant.graph.copying import copied
from sigmaquant.graph.specs import QuantGraph
from sigmaquant.numerics import affine_from_range
from sigmaquant.plan import BitwidthPlan
from sigmaquant.quant.modules import ActivationQuantizer, WeightQuantizer, quantized_from_float
from sigmaquant.quant.observers import MseObserver, Observer
from sigmaquant.quant.padding import observing, padding_of
from sigmaquant.quant.recurrent import install_recurrent_

_ACTIVATIONS = "activation_quantizers"
_RECURRENT = "recurrent_layers"


class QuantizedNetwork(nn.Module):
    """A quantized copy of a model, with its graph's names.

    Attributes:
        graph: what it was made from; its module still holds the float weights.
        body: the graph module with quantized layers and activation quantizers.
        plan: the bitwidths it has now; None before `set_plan_`.
    """

    def __init__(self, graph: QuantGraph, body: fx.GraphModule) -> None:
        super().__init__()
        self.graph = graph
        self.body = body
        self.plan: BitwidthPlan | None = None
        self._keys = _keys(graph)

    def forward(self, *inputs: Any) -> Any:
        """As the user's model."""
        return self.body(*inputs)

    @property
    def weight_quantizers(self) -> Mapping[str, WeightQuantizer]:
        """The weight quantizers by layer name."""
        return {spec.name: _weight_quantizer(self.body, spec.name) for spec in self.graph.layers}

    @property
    def activation_quantizers(self) -> Mapping[str, ActivationQuantizer]:
        """The activation quantizers by activation name."""
        table = self.body.get_submodule(_ACTIVATIONS)
        result: dict[str, ActivationQuantizer] = {}
        for name, key in self._keys.items():
            module = table.get_submodule(key)
            assert isinstance(module, ActivationQuantizer)
            result[name] = module
        return result

    def weight(self, name: str) -> Tensor:
        """The trained float weight behind a layer's codes."""
        return self.body.get_submodule(name).get_parameter("weight")

    def codes(self, name: str) -> Tensor:
        """The layer's integer weight codes, int8, of the weight's shape; the network is at its plan."""
        return _weight_quantizer(self.body, name).codes(self.weight(name))

    def scales(self) -> list[nn.Parameter]:
        """All learned scales, of weights and activations; not what the user's own modules call so."""
        return [m.scale for m in self.body.modules() if isinstance(m, WeightQuantizer | ActivationQuantizer)]

    def _scale_keys(self) -> set[str]:
        """Names of these in `state`, a shared one under each of its names."""
        named = self.body.named_modules(remove_duplicate=False)
        return {f"{name}.scale" for name, m in named if isinstance(m, WeightQuantizer | ActivationQuantizer)}

    def weights(self) -> list[nn.Parameter]:
        """All other parameters."""
        scales = {id(scale) for scale in self.scales()}
        return [p for p in self.body.parameters() if id(p) not in scales]

    def state(self) -> dict[str, Tensor]:
        """Every tensor needed to restore the network, under the user's names; shares memory with the network."""
        return dict(self.body.state_dict(keep_vars=False))

    def load_state_(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what `state` gave; weight bitwidths come from the plan, not from here.

        Raises:
            CheckpointError: tensors are missing, unknown, of another shape, or hold what no network holds: numbers that
                are not finite, scales that are not above zero. The network is as it was.
        """
        own, scales = self.state(), self._scale_keys()
        missing, unknown = [key for key in own if key not in tensors], [key for key in tensors if key not in own]
        for what, keys in (("lacks", missing), ("has the unknown", unknown)):
            if keys:
                raise CheckpointError(
                    f"the checkpoint belongs to another model: it {what} {keys[0]!r}"
                    f"{f' and {len(keys) - 1} more tensors' if len(keys) > 1 else ''}."
                )
        for key, tensor in tensors.items():
            if tensor.shape != own[key].shape:
                raise CheckpointError(
                    f"the checkpoint belongs to another model: {key!r} has the shape {tuple(tensor.shape)}, "
                    f"this model's has {tuple(own[key].shape)}."
                )
            problem = _damage(tensor, own[key], key in scales)
            if problem:
                raise CheckpointError(f"the checkpoint is damaged: {key!r} {problem}. Use an intact copy.")
        self.body.load_state_dict(dict(tensors))

    def check_coverage(self, plan: BitwidthPlan) -> None:
        """Raise unless every layer and activation is at its planned bitwidth.

        Raises:
            CoverageError: naming the layer, the planned and the present bitwidth.
        """
        weights, activations = self.weight_quantizers, self.activation_quantizers
        for name, bits in plan.weights.items():
            present = weights[name].bits
            if present != bits:
                raise CoverageError(f"layer {name!r} is planned at {bits} bits but is at {present or 'float'}.")
        for name, bits in plan.activations.items():
            quantizer = activations[name]
            if not quantizer.enabled or quantizer.bits != bits:
                state = f"{quantizer.bits} bits" if quantizer.enabled else "float (not calibrated)"
                raise CoverageError(f"activation {name!r} is planned at {bits} bits but is at {state}.")


def _damage(saved: Tensor, own: Tensor, scale: bool) -> str | None:
    """What no network holds in a saved tensor, for a message.

    A buffer may be infinite on purpose, such as an attention's mask; then it is so before anything is loaded.
    """
    if not bool((saved.isfinite() | ~own.isfinite().to(saved.device)).all()):
        return "is not finite everywhere"
    return "is a scale and not above zero everywhere" if scale and not bool((saved > 0).all()) else None


def _keys(graph: QuantGraph) -> dict[str, str]:
    """A module name for each activation's quantizer: without dots, unique, and no attribute of a container."""
    taken: set[str] = set(dir(nn.ModuleDict()))
    keys = {}
    for spec in graph.activations:
        key = spec.name.replace(".", "__")
        while key in taken:
            key += "_"
        taken.add(key)
        keys[spec.name] = key
    return keys


def _weight_quantizer(body: nn.Module, name: str) -> WeightQuantizer:
    module = body.get_submodule(f"{name}.weight_quantizer")
    assert isinstance(module, WeightQuantizer)
    return module


def prepare(graph: QuantGraph) -> QuantizedNetwork:
    """A copy of the graph's model with quantized layers and activation quantizers, still in float until `set_plan_`.

    Args:
        graph: from `sigmaquant.graph.trace`; it is not changed.
    """
    body = copied(graph.module)
    for spec in graph.layers:
        first = body.get_submodule(spec.name)
        quantizer = WeightQuantizer(spec.channels, spec.channel_axis).to(first.get_parameter("weight").device)
        for name in (spec.name, *spec.tied):  # tied modules share one quantizer, as they share the weight
            body.set_submodule(name, quantized_from_float(body.get_submodule(name), quantizer))
    table = nn.ModuleDict()
    body.add_submodule(_ACTIVATIONS, table)
    nodes = {node.name: node for node in body.graph.nodes}
    keys = _keys(graph)
    for activation in graph.activations:
        key = keys[activation.name]
        table[key] = ActivationQuantizer()
        node = nodes[activation.node]
        with body.graph.inserting_after(node):
            call = body.graph.call_module(f"{_ACTIVATIONS}.{key}", (node,))
        call.meta["val"] = node.meta.get("val")
        node.replace_all_uses_with(call, delete_user_cb=lambda user, call=call: user is not call)
    install_recurrent_(body.graph, body, _RECURRENT)
    body.graph.lint()
    body.recompile()
    return QuantizedNetwork(graph, body)


def set_plan_(network: QuantizedNetwork, plan: BitwidthPlan) -> None:
    """Put every weight at its bitwidth; layers whose bitwidth does not change are not touched.

    Activation bitwidths take effect at the next `calibrate_`.

    Raises:
        UnknownLayerError, PlanError: the plan does not fit the model.
    """
    plan.check(network.graph.layer, network.graph.activation_names, network.graph.fingerprint)
    for name, quantizer in network.weight_quantizers.items():
        bits = plan.weights[name]
        midrise = plan.is_midrise(name)
        if (quantizer.bits, quantizer.midrise) != (bits, midrise):
            quantizer.set_bits_(bits, network.weight(name), midrise)
    network.plan = plan


def restore_plan_(network: QuantizedNetwork, plan: BitwidthPlan, tensors: Mapping[str, Tensor]) -> None:
    """Put the network at a saved state: bitwidths from the plan, everything else from the tensors.

    Raises:
        UnknownLayerError, PlanError, CheckpointError: plan or tensors do not fit the model; nothing has changed.
        CoverageError: the tensors' activations are not at the plan's bitwidths.
    """
    plan.check(network.graph.layer, network.graph.activation_names, network.graph.fingerprint)
    network.load_state_(tensors)
    for name, quantizer in network.weight_quantizers.items():
        quantizer.bits, quantizer.midrise = plan.weights[name], plan.is_midrise(name)  # scales came with the tensors
    network.plan = plan
    network.check_coverage(plan)


@contextmanager
def float_weights(network: QuantizedNetwork) -> Iterator[None]:
    """While active, the network computes with the float weights behind its codes; its activations stay quantized."""
    bits = {quantizer: quantizer.bits for quantizer in network.weight_quantizers.values()}
    for quantizer in bits:
        quantizer.bits = None
    try:
        yield
    finally:
        for quantizer, present in bits.items():
            quantizer.bits = present


@torch.no_grad()
def calibrate_(
    network: QuantizedNetwork,
    batches: Iterable[Any],
    observer: type[Observer] = MseObserver,
) -> None:
    """Set every activation's grid from what flows through the network with its weights at the plan.

    Where examples carry a mask of padding (see `sigmaquant.quant.padding`), what stands there does not count.

    Args:
        network: after `set_plan_`.
        batches: inputs only, each a tensor or a tuple of tensors.
        observer: decides the range.

    Raises:
        DataError: no batch, or NaN or infinite activations.
    """
    assert network.plan is not None, "set_plan_ comes first"
    quantizers = network.activation_quantizers
    training = network.training
    network.eval()
    observers = {name: observer() for name in quantizers}
    padding, current = padding_of(network.graph.module), list[Tensor]()
    for spec in network.graph.activations:
        seen: Any = observers[spec.name]
        quantizers[spec.name].observer = (
            observing(seen, current, spec.producer == "attention") if padding.known else seen
        )
    try:
        for inputs in batches:
            given = tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,)
            if (stand_ins := padding.stand_ins(given)) is not None:
                current[:] = [stand_ins]
            network(*given)
        known = {spec.name: spec.known_range for spec in network.graph.activations}
        bits = network.plan.activations
        grids = {name: _grid(name, seen, bits[name], known[name]) for name, seen in observers.items()}
        for name, quantizer in quantizers.items():
            quantizer.set_grid_(*grids[name], network.plan.activations[name])
    finally:
        for quantizer in quantizers.values():
            quantizer.observer = None
        network.train(training)


def _grid(name: str, observer: Observer, bits: int, known: tuple[float, float] | None) -> tuple[float, int]:
    if known is not None:
        return affine_from_range(*known, bits)
    try:
        return observer.affine(bits)
    except DataError as error:
        raise DataError(f"activation {name!r}: {error}") from None
