"""From a trained quantized network to its `IntegerModel`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from sigmaquant.errors import LoweringError
from sigmaquant.graph.nodes import arguments, tensor_value
from sigmaquant.graph.operators import called_module, operator_name, passes_on
from sigmaquant.graph.shapes import example_shape, shape_at_one
from sigmaquant.lowering.finish import finish
from sigmaquant.lowering.model import (
    Dequantize,
    Edge,
    FloatOperator,
    IntegerModel,
    MaxPool,
    Move,
    Operator,
    Quantize,
)
from sigmaquant.lowering.patterns import (
    CLIPS,
    MAX_POOLS,
    NOTHING,
    RESHAPES,
    UNARY,
    arithmetic,
    attribute,
    call_on,
    evaluate,
    free_name,
    geometry_of,
    is_codes,
    mean_of,
    norm_map,
    owner_of,
    sizes,
    sources_of,
)
from sigmaquant.lowering.values import ChannelMap, Clip, Joined, Layer, Pending, Terms, Unary
from sigmaquant.quant import QuantizedNetwork
from sigmaquant.quant.modules import ActivationQuantizer, WeightQuantizer


def lower(network: QuantizedNetwork, *, fine_bias: bool = True) -> IntegerModel:
    """The network in integers.

    BatchNorm is absorbed into the scale and bias of the layer before it: the weight's codes stay as they are, or change
    their sign. One that follows no layer becomes an integer affine map for each channel.

    Args:
        network: trained or calibrated, at its plan.
        fine_bias: biases in units as fine as with 8-bit weights (`Weighted.gain`); False for runtimes whose bias has
            the unit of the packed weights.

    Raises:
        CoverageError: a layer or activation is not at its planned bitwidth.
        LoweringError: scales or biases that integers cannot hold; the message names the layer.
    """
    if network.plan is None:
        raise LoweringError("the network has no plan yet. Quantize it first.")
    network.check_coverage(network.plan)
    training = network.training
    network.eval()
    try:
        with torch.no_grad():
            return _Lowering(network, fine_bias).run()
    finally:
        network.train(training)


class _Lowering:
    """One walk over the graph."""

    def __init__(self, network: QuantizedNetwork, fine_bias: bool) -> None:
        self.network, self.fine_bias = network, fine_bias
        self.modules = dict(network.body.named_modules())
        self.owners = {name: spec.name for spec in network.graph.layers for name in (spec.name, *spec.tied)}
        self.activations = {module: name for name, module in network.activation_quantizers.items()}
        self.values: dict[fx.Node, Edge | Pending | Any] = {}
        self.operators: list[Operator] = []
        self.edges: dict[str, Edge] = {}
        self.names: set[str] = set()
        self.inputs: list[str] = []

    def run(self) -> IntegerModel:
        outputs: list[str] = []
        for node in self.network.body.graph.nodes:
            if node.op == "output":
                outputs = [self._result(item).name for item in sources_of(node.args)]
            else:
                self.values[node] = self._value(node)
        plan = self.network.plan
        assert plan is not None, "lower has checked it"
        return IntegerModel(tuple(self.operators), self.edges, tuple(self.inputs), tuple(outputs), plan)

    def _result(self, node: fx.Node) -> Edge:
        value = self.values[node]
        return value if isinstance(value, Edge) else self._float(node)

    # -- edges and operators -------------------------------------------------------------------------------------

    def _edge(
        self, node: fx.Node, name: str, like: Edge | None = None, quantizer: ActivationQuantizer | None = None
    ) -> Edge:
        name, number = free_name(name, self.edges), tensor_value(node)
        shape = example_shape(number)
        if quantizer is not None:
            edge = Edge(name, shape, quantizer.bits, float(quantizer.scale), quantizer.zero_point)
        elif like is not None:
            edge = replace(like, name=name, shape=shape)
        else:
            edge = Edge(name, shape, 32)
        self.edges[name] = edge
        return edge

    def _emit(self, operator: Operator) -> None:
        self.operators.append(operator)
        self.names.add(operator.name)

    # -- nodes ---------------------------------------------------------------------------------------------------

    def _value(self, node: fx.Node) -> Edge | Pending | Any:
        if node.op == "placeholder":
            return None  # an edge once it is quantized or read as float
        if node.op == "get_attr":
            return attribute(self.network.body, str(node.target))
        if node.op == "call_module":
            module = called_module(node)
            if isinstance(module, ActivationQuantizer):
                return self._quantized(node, module)
            found = self._module(node, module)
        else:
            found = self._function(node)
        return found

    def _quantized(self, node: fx.Node, quantizer: ActivationQuantizer) -> Edge:
        source = node.args[0]
        assert isinstance(source, fx.Node)
        name, value = self.activations[quantizer], self.values[source]
        if source.op == "placeholder":
            edge = self._edge(node, name, quantizer=quantizer)
            self.inputs.append(edge.name)
            return edge
        if isinstance(value, Edge):
            if value.is_float:
                edge = self._edge(node, name, quantizer=quantizer)
                self._emit(Quantize(free_name(name, self.names), (value.name,), edge.name))
                return edge
            value = Terms(terms=((value, 1.0),))
        if not isinstance(value, Pending):
            return self._requantized(node, source, name, quantizer)
        edge = self._edge(node, name, quantizer=quantizer)
        self._emit(finish(value, edge, free_name(getattr(value, "name", "") or name, self.names)))
        return edge

    def _requantized(self, node: fx.Node, source: fx.Node, name: str, quantizer: ActivationQuantizer) -> Edge:
        floating = self._float(source)
        edge = self._edge(node, name, quantizer=quantizer)
        self._emit(Quantize(free_name(name, self.names), (floating.name,), edge.name))
        return edge

    def _module(self, node: fx.Node, module: nn.Module) -> Pending | Edge | None:
        source = node.args[0] if node.args else None
        value = self.values.get(source) if isinstance(source, fx.Node) else None
        if isinstance(getattr(module, "weight_quantizer", None), WeightQuantizer):
            return self._layer(node, module, value)
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
            factor, offset = norm_map(module)
            if isinstance(value, Layer) and value.clip == Clip():
                return value.affine(factor, offset)
            if isinstance(value, Edge) and not value.is_float:
                return ChannelMap(name=str(node.target), edge=value, factor=factor, offset=offset)
        return None

    def _layer(self, node: fx.Node, module: Any, value: Any) -> Layer | None:
        if not isinstance(value, Edge) or value.is_float:
            return None
        quantizer: WeightQuantizer = module.weight_quantizer
        assert quantizer.bits is not None, "coverage was checked"
        weight = module.weight
        if isinstance(module, nn.Linear):
            geometry: dict[str, Any] = {}
        elif isinstance(module, nn.modules.conv._ConvNd):
            geometry = geometry_of(module)
            if module.padding_mode != "zeros":
                value = self._padded(node, value, geometry["padding"], module.padding_mode)
                geometry["padding"] = ((0, 0),) * len(geometry["padding"])
        else:
            return None
        channels = int(module.out_features if isinstance(module, nn.Linear) else module.out_channels)
        scale = quantizer.scale.double().cpu().numpy()
        if len(scale) != channels:  # grouped and transposed: the like channels of all groups share a scale
            scale = np.tile(scale, channels // len(scale))
        bias = np.zeros(channels) if module.bias is None else module.bias.double().cpu().numpy()
        name = str(node.target)
        return Layer(
            layer=self.owners[name],
            name=name,
            edge=value,
            geometry=geometry,
            codes=quantizer.codes(weight).cpu().numpy(),
            bits=quantizer.bits,
            midrise=quantizer.midrise,
            fine_bias=self.fine_bias,
            scale=scale,
            bias=bias,
        )

    def _padded(self, node: fx.Node, edge: Edge, sides: tuple[tuple[int, int], ...], mode: str) -> Edge:
        """A convolution's input with what the convolution itself pads it with: copies of codes, not zeros."""
        pads = [side for pair in reversed(sides) for side in pair]
        channels, *places = edge.shape
        shape = (channels, *(size + sum(pair) for size, pair in zip(places, sides, strict=True)))
        kind = f"{mode}_pad"
        output = replace(edge, name=free_name(f"{edge.name}.{node.name}.{kind}", self.edges), shape=shape)
        self.edges[output.name] = output
        name = free_name(f"{node.target}.{kind}", self.names)
        self._emit(Move(name, (edge.name,), output.name, kind, {}, lambda codes: F.pad(codes, pads, mode)))
        return output

    def _function(self, node: fx.Node) -> Any:
        name = operator_name(node)
        bound = arguments(node)
        sources = [a for a in sources_of(node.args) if isinstance(a, fx.Node)]
        values = [self.values.get(a) for a in sources]
        first = values[0] if values else None
        if values and all(isinstance(value, Tensor) for value in values):  # of parameters and buffers alone
            return evaluate(node, dict(zip(sources, values, strict=True)))
        if name in CLIPS and first is not None:
            low, high = CLIPS[name](bound)
            if isinstance(first, Pending):
                return first.clipped(low, high)
            if is_codes(first):
                return Terms(Clip(low, high), ((first, 1.0),))
        if name in ("add", "sub", "rsub", "mul", "div"):
            found = arithmetic(name, bound, self.values)
            if found is not None:
                return found
        edges = tuple(value for value in values if is_codes(value))
        if name in ("cat", "concat", "concatenate") and edges and len(edges) == len(values):
            axis = int(bound.get("dim", 0)) % (len(edges[0].shape) + 1)
            return Joined(edges=edges, axis=axis - 1) if axis > 0 else None
        if not is_codes(first) or len(sources) != 1:
            return None
        if name in UNARY:
            return Unary(edge=first, function=name, apply=lambda x: call_on(node, x))
        if name in MAX_POOLS:
            return self._max_pool(node, first, bound)
        mean = mean_of(name, bound, first)
        if mean is not None:
            return mean
        return self._move(node, name, first, bound) if passes_on(node) else None

    def _max_pool(self, node: fx.Node, edge: Edge, bound: dict[str, Any]) -> Edge:
        rank = len(edge.shape) - 1
        kernel = sizes(bound["kernel_size"], rank)
        output = self._edge(node, f"{edge.name}.{node.name}", like=edge)
        operator = MaxPool(
            free_name(owner_of(node), self.names),
            (edge.name,),
            output.name,
            kernel,
            sizes(bound["stride"] or kernel, rank),
            sizes(bound["padding"], rank),
            sizes(bound["dilation"], rank),
            bool(bound["ceil_mode"]),
        )
        self._emit(operator)
        return output

    def _move(self, node: fx.Node, name: str, edge: Edge, bound: dict[str, Any]) -> Edge | None:
        if not isinstance(node.meta["val"], Tensor):
            return None  # several results
        shape = example_shape(tensor_value(node))
        if shape == edge.shape and name in (RESHAPES | NOTHING | {"slice"}):
            return edge  # nothing moves
        full, inner = shape_at_one(node.meta["val"]), len(edge.shape)
        if full[:1] != (1,):
            return None  # the batch is no longer the first dimension
        if name in RESHAPES:
            kind, parameters = "reshape", dict[str, Any](shape=shape)
        elif name == "slice":
            axis = int(bound["dim"]) % (inner + 1)
            if axis == 0:
                return None
            size = edge.shape[axis - 1]
            start, stop, step = slice(bound["start"], bound["end"], bound["step"]).indices(size)
            kind, parameters = "slice", {"axis": axis - 1, "start": start, "stop": stop, "step": step}
        elif name in ("permute", "transpose"):
            axes = list(range(inner + 1))
            if name == "permute":
                axes = [int(d) % (inner + 1) for d in bound["dims"]]
            else:
                a, b = int(bound["dim0"]) % (inner + 1), int(bound["dim1"]) % (inner + 1)
                axes[a], axes[b] = axes[b], axes[a]
            if axes[0] != 0:
                return None
            kind, parameters = "permute", {"axes": tuple(a - 1 for a in axes[1:])}
        elif name == "pad" and bound["mode"] != "constant":
            kind, parameters = f"{bound['mode']}_pad", {}
        elif name in ("pad", "constant_pad_nd"):
            pads = [int(p) for p in bound["pad"]]
            pairs = [(pads[i], pads[i + 1]) for i in range(0, len(pads), 2)][::-1]
            pairs = [(0, 0)] * (inner - len(pairs)) + pairs
            if len(pairs) != inner or min(min(pair) for pair in pairs) < 0:
                return None
            kind, parameters = "pad", {"before": tuple(p[0] for p in pairs), "after": tuple(p[1] for p in pairs)}
        else:
            kind, parameters = name, {}
        output = self._edge(node, f"{edge.name}.{node.name}", like=edge)
        shift = edge.zero_point  # codes relative to zero: whatever an operator fills in with zeros is then right

        def apply(codes: Tensor) -> Tensor:
            return call_on(node, codes - shift) + shift

        self._emit(
            Move(
                free_name(f"{owner_of(node)}.{name}".strip("."), self.names),
                (edge.name,),
                output.name,
                kind,
                parameters,
                apply,
            )
        )
        return output

    # -- float ---------------------------------------------------------------------------------------------------

    def _float(self, node: fx.Node) -> Edge:
        """The node's value as a float edge, computed by the operators themselves; each is listed in the model."""
        value = self.values.get(node)
        if isinstance(value, Edge):
            return value if value.is_float else self._dequantized(node, value)
        if node.op == "placeholder":
            edge = self._edge(node, node.name)
            self.inputs.append(edge.name)
            self.values[node] = edge
            return edge
        sources = [
            a for a in sources_of((node.args, node.kwargs)) if not isinstance(self.values.get(a), Tensor | nn.Parameter)
        ]
        inputs = tuple(self._float(source).name for source in sources)
        edge = self._edge(node, f"{node.name}.float")
        label = f"{owner_of(node) or 'model'}: {operator_name(node)}"
        constants = {
            a: self.values[a] for a in sources_of((node.args, node.kwargs)) if isinstance(self.values.get(a), Tensor)
        }
        module = self.modules.get(str(node.target)) if node.op == "call_module" else None

        def apply(*given: Any) -> Any:
            return evaluate(node, {**constants, **dict(zip(sources, given, strict=True))}, module)

        self._emit(FloatOperator(free_name(label, self.names), inputs, edge.name, label, apply))
        self.values[node] = edge
        return edge

    def _dequantized(self, node: fx.Node, value: Edge) -> Edge:
        name = f"{value.name}.float"
        if name in self.edges:
            return self.edges[name]
        edge = self._edge(node, name)
        self._emit(Dequantize(free_name(name, self.names), (value.name,), edge.name))
        return edge
