"""From a trained quantized network to its `IntegerModel`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from sigmaquant.errors import LoweringError
from sigmaquant.exported.nodes import attribute_of, operator, scope, tensor_value, user_line
from sigmaquant.exported.shapes import shape_at_one, size_at
from sigmaquant.lowering.model import Dequantize, FloatOperator, IntegerModel, Quantize
from sigmaquant.lowering.moves import merged_moves
from sigmaquant.operators.affine import Mapped
from sigmaquant.operators.edge import FLOAT_BITS, Edge
from sigmaquant.operators.floats import Ending, FloatFunction
from sigmaquant.operators.interpretation import Interpretation, is_weight, picked_from
from sigmaquant.operators.layers import WeightCodes
from sigmaquant.operators.meaning import Extent, Pending, Value, evaluated, extent, is_constant
from sigmaquant.operators.movement import IntegerInput, Reshape, Returned
from sigmaquant.operators.node import Operator, free_name
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
    """One walk over the graph; the `Builder` of all meanings."""

    def __init__(self, network: QuantizedNetwork, fine_bias: bool) -> None:
        self.network, self.fine_bias = network, fine_bias
        self.body = network.body
        self.interpretation = Interpretation(self.body, lambda module: isinstance(module, ActivationQuantizer))
        self.owners = {name: spec.name for spec in network.graph.layers for name in (spec.name, *spec.tied)}
        self.activations = {module: name for name, module in network.activation_quantizers.items()}
        self._activation_names = frozenset(self.activations.values())
        self.values: dict[fx.Node, Value] = {}
        self.floats: dict[fx.Node, Edge] = {}
        self.constants: dict[fx.Node, Any] = {}
        self.dequantized: dict[str, Edge] = {}
        self.operators: list[Operator] = []
        self.edges: dict[str, Edge] = {}
        self.names: set[str] = set()
        self._shared: dict[Any, Edge] = {}
        self.inputs: dict[fx.Node, str] = {}
        self._node: fx.Node | None = None
        self._device = next((p.device for p in self.body.parameters()), torch.device("cpu"))

    def run(self) -> IntegerModel:
        outputs: list[str] = []
        for node in self.body.graph.nodes:
            self._node = node
            if node.op == "output":
                results: list[fx.Node] = []
                fx.node.map_arg(node.args, results.append)  # in order, repeated ones too
                outputs = [self._result(item).name for item in results]
            elif isinstance(node.meta.get("val"), Tensor):
                self.values[node] = self._value(node)
        plan = self.network.plan
        assert plan is not None, "lower has checked it"
        placeholders = [node for node in self.body.graph.nodes if node.op == "placeholder"]
        inputs = tuple(self.inputs.get(node) or self._input(node).name for node in placeholders)
        kept = {*inputs, *outputs, *self.activations.values()}
        operators, edges = merged_moves(tuple(self.operators), self.edges, kept)
        return IntegerModel(operators, edges, inputs, tuple(outputs), plan)

    def _result(self, node: fx.Node) -> Edge:
        value, place = self.values.get(node), extent(node, anywhere=True)
        edge = value if isinstance(value, Edge) else self._float(node)
        if place is None or place.batch_axis == edge.batch_axis:
            return edge
        result = self._edge(replace(edge, name=f"{edge.name}.output", batch_axis=place.batch_axis))
        self._append(Reshape(self._free(result.name), (edge.name,), result.name, edge.shape))
        return result

    # -- what meanings build with ------------------------------------------------------------------------------------

    def emit(self, make: Callable[[str, Edge], Operator], source: Edge, what: str, **changes: Any) -> Edge:
        """Append an operator whose output has the source's grid."""
        return self.emit_on(make, replace(source, **changes), what)

    def emit_on(self, make: Callable[[str, Edge], Operator], edge: Edge, what: str) -> Edge:
        """Append an operator whose output is a new edge like `edge`."""
        node = self._node
        assert node is not None, "meanings build while their node is walked"
        label = self._owner(node)
        name = free_name(f"{edge.name or label}.{node.name}", self._activation_names)
        edge = self._edge(replace(edge, name=name))
        self._append(make(self._free(f"{label}.{what}".strip(".")), edge))
        return edge

    def shared(self, key: Any, make: Callable[[], Edge]) -> Edge:
        """An edge that several meanings want, made once."""
        if key not in self._shared:
            self._shared[key] = make()
        return self._shared[key]

    def constant(self, node: fx.Node) -> Tensor:
        """The value of a node that depends on parameters and buffers alone, for a batch of one."""
        found = self._constant(node)
        assert isinstance(found, Tensor), "a constant operand is a tensor"
        return found

    def _constant(self, node: fx.Node, batch: int = 1) -> Any:
        known = self.constants if batch == 1 else {}
        stack = [node]
        while stack:
            current = stack[-1]
            if current in known:
                stack.pop()
                continue
            value = current.meta.get("val")
            if current.op == "get_attr":
                known[current] = attribute_of(self.body, str(current.target))
            elif isinstance(value, int | torch.SymInt):
                known[current] = size_at(value, batch)
            elif isinstance(value, torch.device):
                known[current] = self._device
            elif missing := [source for source in current.all_input_nodes if source not in known]:
                if current.op not in ("call_function", "call_module") or (
                    not is_constant(current) and isinstance(value, Tensor)
                ):
                    raise LoweringError(f"{current.name} is no constant.")
                stack.extend(missing)
            elif current.op == "call_module":
                known[current] = self.module(current)(*fx.node.map_arg(current.args, known.__getitem__))
            else:
                known[current] = evaluated(current, known)
        return known[node]

    def module(self, node: fx.Node) -> nn.Module:
        """The module that a node calls, as it is trained."""
        return self.body.get_submodule(str(node.target))

    def weight(self, node: fx.Node) -> WeightCodes | None:
        """The codes of a layer's weight, or of a functional one, moved as the graph moves it."""
        chain: list[fx.Node] = []
        while node.op == "call_function":
            chain.append(node)
            source = node.args[0]
            assert isinstance(source, fx.Node), "weights are moved by operators on them"
            node = source
        module: Any = self.module(node)
        quantizer = getattr(module, "weight_quantizer", None)
        if not isinstance(quantizer, WeightQuantizer) or quantizer.bits is None:
            return None
        codes = quantizer.codes(module.weight).cpu()
        scale = quantizer.scale.detach().double().cpu()
        axis, layer = quantizer.axis, self.owners[str(node.target)]
        if chain:
            view = [1] * codes.dim()
            view[axis] = -1
            moved_scale: Any = scale.view(view).expand(codes.shape)
            moved_codes: Any = codes
            for link in reversed(chain):
                held: Any = link.args[0]
                rest = {a: self._constant(a) for a in link.all_input_nodes if a is not held}
                moved_codes = evaluated(link, {**rest, held: moved_codes})
                moved_scale = evaluated(link, {**rest, held: moved_scale})
            codes, found = moved_codes, _axis_of(moved_scale)
            if found is None:
                return None
            axis, scale = found
        return WeightCodes(layer, codes.numpy(), quantizer.bits, quantizer.midrise, scale.numpy(), axis)

    # -- edges and operators -----------------------------------------------------------------------------------------

    def _edge(self, edge: Edge) -> Edge:
        edge = replace(edge, name=free_name(edge.name, self.edges))
        self.edges[edge.name] = edge
        return edge

    def _on_grid(self, node: fx.Node, name: str, quantizer: ActivationQuantizer) -> Edge:
        """A new edge on a quantizer's grid."""
        place = extent(node, anywhere=True)
        shape = Extent(1, shape_at_one(node.meta["val"])[1:]) if place is None else place
        return self._edge(
            Edge(
                name,
                shape.shape,
                quantizer.bits,
                float(quantizer.scale),
                quantizer.zero_point,
                shape.rows,
                shape.batch_axis,
            )
        )

    def _append(self, found: Operator) -> None:
        self.operators.append(found)
        self.names.add(found.name)

    def _free(self, name: str) -> str:
        return free_name(name, self.names)

    def _owner(self, node: fx.Node) -> str:
        """The user's module in which the node was made."""
        return str(node.target) if node.op == "call_module" else (scope(node) or node.name)

    # -- nodes -------------------------------------------------------------------------------------------------------

    def _value(self, node: fx.Node) -> Value:
        if node in self.interpretation.integers:
            return self._input(node)
        if node.op == "placeholder" or is_constant(node) or is_weight(node):
            return None
        module = self.interpretation.called(node)
        if isinstance(module, ActivationQuantizer):
            return self._quantized(node, module)
        meaning = self.interpretation.meaning.get(node)
        if meaning is None or not meaning.integer or isinstance(meaning, IntegerInput):
            return None
        if isinstance(meaning, Ending):
            return self._ended(node, meaning)
        return meaning.build([self.values.get(source) for source in meaning.sources], self)

    def _quantized(self, node: fx.Node, quantizer: ActivationQuantizer) -> Edge:
        source = node.args[0]
        assert isinstance(source, fx.Node)
        name, value = self.activations[quantizer], self.values.get(source)
        pixels = isinstance(self.interpretation.meaning.get(source), IntegerInput)
        if pixels or (source.op == "placeholder" and extent(source) is not None):
            edge = self._on_grid(node, name, quantizer)
            self.inputs[source.all_input_nodes[0] if pixels else source] = edge.name
            return edge
        if isinstance(value, Edge) and value.has_grid:
            value = Mapped(edge=value)
        if not isinstance(value, Pending):
            floating = self._float(source)
            edge = self._on_grid(node, name, quantizer)
            self._append(Quantize(self._free(name), (floating.name,), edge.name))
            return edge
        if isinstance(value, Returned):
            return self._returned(node, name, value, quantizer)
        edge = self._on_grid(node, name, quantizer)
        self._append(value.finish(edge, self._free(getattr(value, "name", "") or name)))
        return edge

    def _returned(self, node: fx.Node, name: str, value: Returned, quantizer: ActivationQuantizer) -> Edge:
        """Arithmetic whose result moves to its place: on the quantizer's grid, then moved."""
        place, inner = extent(node, anywhere=True), value.inner
        assert inner is not None
        assert place is not None
        rows = place.rows if value.rows is None else value.rows
        scale = float(quantizer.scale)
        edge = self._edge(Edge(f"{name}.unmoved", value.shape, quantizer.bits, scale, quantizer.zero_point, rows))
        label = self._free(getattr(inner, "name", "") or name)
        self._append(inner.clipped(value.clip.low, value.clip.high).finish(edge, label))
        for step in value.steps:
            last = step is value.steps[-1]
            target = replace(edge, name=name if last else f"{name}.unmoved", shape=step.shape, rows=step.rows)
            target = self._edge(target)
            label = self._free(f"{name}.{step.kind.__name__.lower()}")
            self._append(step.kind(label, (edge.name,), target.name, *step.fields))
            edge = target
        return edge

    def _ended(self, node: fx.Node, meaning: Ending) -> Edge | None:
        source = self.values.get(meaning.sources[0])
        if not isinstance(source, Edge):
            return None
        given = self._dequantized(source) if source.has_grid else source
        edge = Edge(node.name, meaning.shape, FLOAT_BITS, rows=meaning.rows, batch_axis=source.batch_axis)
        edge = self._edge(edge)
        name = self._free(f"{self._owner(node)}.{meaning.function}")
        self._append(FloatFunction(name, (given.name,), edge.name, meaning.function, meaning.axis))
        return edge

    # -- float -------------------------------------------------------------------------------------------------------

    def _input(self, node: fx.Node) -> Edge:
        """The edge of an input that no quantizer follows."""
        place, value = extent(node), tensor_value(node)
        shape = place.shape if place else () if value is None else shape_at_one(value)[1:]
        rows, integers = place.rows if place else 1, self.interpretation.integers.get(node, 0)
        edge = self._edge(Edge(node.name, shape, FLOAT_BITS, rows=rows, integers=integers))
        self.inputs[node] = edge.name
        return edge

    def _float(self, node: fx.Node) -> Edge:
        """The node's value as a float edge, computed by the operators themselves; each is listed in the model."""
        stack = [node]
        while stack:
            current = stack[-1]
            if current in self.floats:
                stack.pop()
                continue
            value = self.values.get(current)
            if isinstance(value, Edge):
                self.floats[current] = self._dequantized(value) if value.has_grid else value
            elif current.op == "placeholder":
                known = self.inputs.get(current)
                self.floats[current] = self.edges[known] if known else self._input(current)
            elif missing := [source for source in self._sources(current) if source not in self.floats]:
                stack.extend(missing)
            else:
                self.floats[current] = self._float_operator(current)
        return self.floats[node]

    def _sources(self, node: fx.Node) -> list[fx.Node]:
        """The nodes whose values a float operator reads."""
        return [source for source in node.all_input_nodes if not is_constant(source) and not self._is_plain(source)]

    def _is_plain(self, node: fx.Node) -> bool:
        """Whether a node yields no tensor: a size, a device."""
        value = node.meta.get("val")
        items = value if isinstance(value, list | tuple) else (value,)
        return not any(isinstance(item, Tensor) for item in items)

    def _float_operator(self, node: fx.Node) -> Edge:
        sources = self._sources(node)
        place, value = extent(node, anywhere=True), tensor_value(node)
        shape = place.shape if place else () if value is None else shape_at_one(value)[1:]
        edge = self._edge(Edge(f"{node.name}.float", shape, FLOAT_BITS, rows=place.rows if place else 1))
        called = type(self.module(node)).__name__.removeprefix("Q") if node.op == "call_module" else ""
        kind = called or operator(picked_from(node))
        label = f"{self._owner(node) or 'model'}: {kind.removesuffix('_')}"
        module = self.module(node) if node.op == "call_module" else None
        others = [source for source in node.all_input_nodes if source not in sources]

        def apply(*given: Any) -> Any:
            result = computed(*given)
            axis = 0 if place is None else place.batch_axis
            return result.movedim(axis, 0) if axis else result

        def computed(*given: Any) -> Any:
            known = {
                source: _as_the_network_has_it(source, value) for source, value in zip(sources, given, strict=True)
            }
            examples = (g for s, g in zip(sources, given, strict=True) if not is_weight(s))
            batch = max((len(g) for g in examples if isinstance(g, Tensor) and g.dim()), default=1)
            for other in others:
                known[other] = self._at_batch(other, batch)
            if module is not None:
                return module(*fx.node.map_arg(node.args, known.__getitem__))
            return evaluated(node, known)

        inputs = tuple(self.floats[source].name for source in sources)
        self._append(FloatOperator(self._free(label), inputs, edge.name, label, user_line(node), apply))
        return edge

    def _at_batch(self, node: fx.Node, batch: int) -> Any:
        """A constant, or a size at a batch size."""
        value = node.meta.get("val")
        if isinstance(value, torch.SymInt):
            expression = value.node.expr
            return int(expression.subs(dict.fromkeys(expression.free_symbols, batch)))
        if isinstance(value, Tensor):
            sizes: tuple[Any, ...] = tuple(value.shape)
            return self._constant(node, 1 if all(isinstance(size, int) for size in sizes) else batch)
        return value if value is not None else self._constant(node)

    def _dequantized(self, value: Edge) -> Edge:
        if value.name not in self.dequantized:
            edge = self._edge(Edge(f"{value.name}.float", value.shape, FLOAT_BITS, rows=value.rows))
            self._append(Dequantize(self._free(edge.name), (value.name,), edge.name))
            self.dequantized[value.name] = edge
        return self.dequantized[value.name]


def _as_the_network_has_it(node: fx.Node, value: Any) -> Any:
    """A float value with its batch axis where the node has it."""
    place = extent(node, anywhere=True)
    return value.movedim(0, place.batch_axis) if place is not None and place.batch_axis else value


def _axis_of(scale: Tensor) -> tuple[int, Tensor] | None:
    """The axis along which scales differ, and the scales along it; None where several do."""
    for axis in range(scale.dim()):
        line = scale.movedim(axis, 0).reshape(scale.shape[axis], -1)
        if torch.equal(line, line[:, :1].expand_as(line)):
            return axis, line[:, 0].contiguous()
    return None
