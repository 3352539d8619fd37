"""Whether the integer model computes what the trained quantized network computes.

The two may differ by roundings, and through many layers single roundings grow to anything: outputs alone cannot tell a
wrong lowering from a deep network. Here each operator is fed with the quantized network's own codes, and what it gives
is held against the real number that the network rounds at the same place. That test does not depend on depth, and it
names the operator. How far the whole model is from the network at its outputs is told as well, and judges nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx

from sigmaquant.errors import ExportError
from sigmaquant.export.comparison import FLOAT_TOLERANCE, Agreement, Measure, Tally
from sigmaquant.export.decisions import Decisions
from sigmaquant.lowering import IntegerExecutor, IntegerModel
from sigmaquant.operators import Edge, Recurrent, compute, encode
from sigmaquant.operators.recurrent import followed
from sigmaquant.quant import QuantizedNetwork
from sigmaquant.quant.modules import ActivationQuantizer

EXAMPLES = 256
"""Examples on which operators are judged one by one; the outputs are compared on all."""
_CHUNK_BYTES = 1 << 28

Inputs = tuple[Tensor, ...]


@dataclass(frozen=True)
class Bounds:
    """How far an operator's codes may be from the network's real numbers, beyond the half step of a rounding.

    Attributes:
        largest: of any value, in steps of its grid.
        mean: over an activation.
    """

    largest: float
    mean: float


LOWERED = Bounds(largest=1.0, mean=0.01)
"""For what `lower` gives: roundings of biases and factors, and the network's own float32."""
FORMED = Bounds(largest=16.0, mean=0.25)
"""For the form that a runtime's arithmetic asks for: biases in the units of narrow containers, two roundings."""


@dataclass(frozen=True)
class Parting:
    """The first activation at which the integer model does something else than the quantized network.

    Attributes:
        activation: its name.
        operator: ``"Kind 'name'"`` of the integer operator that gives it.
        reason: what was found there.
    """

    activation: str
    operator: str
    reason: str

    def __str__(self) -> str:
        return f"activation {self.activation!r}, from {self.operator}: {self.reason}"


@dataclass(frozen=True)
class Fidelity:
    """How the integer model compares with the quantized network.

    Attributes:
        agreement: of the outputs, from the same inputs, over all data.
        operators: how many operators' results were held against the network's.
        examples: on how many examples they were.
        largest_beyond: largest distance of an operator's code from the network's real number, in steps beyond the half
            step of rounding, each operator fed with the network's own codes.
        mean_beyond: the largest mean of it over one activation.
    """

    agreement: Agreement
    operators: int
    examples: int
    largest_beyond: float
    mean_beyond: float


class FidelityCheck:
    """Holds an integer model against the network that it was lowered from, operator by operator.

    Args:
        network: at its plan, on the CPU.
        model: lowered from it, or a form of that.
        bounds: what counts as a rounding.

    Attributes:
        parting: where the two part; None: nowhere on the data so far.
    """

    def __init__(self, network: QuantizedNetwork, model: IntegerModel, bounds: Bounds = LOWERED) -> None:
        self.network, self.model, self.bounds = network, model, bounds
        self.executor = IntegerExecutor(model)
        self.order = input_order(network, model)
        self.parting: Parting | None = None
        self._examples, self._largest = 0, 0.0
        self._sums: dict[str, tuple[float, int]] = {}

    @property
    def largest_beyond(self) -> float:
        """As in `Fidelity`."""
        return max(0.0, self._largest)

    @property
    def mean_beyond(self) -> float:
        """As in `Fidelity`."""
        return max((total / count for total, count in self._sums.values()), default=0.0)

    def run(self, batches: Sequence[Inputs], examples: int = EXAMPLES) -> Parting | None:
        """Judge the operators on the first examples; stops at the first that is wrong.

        Args:
            batches: the network's inputs, in the order of its own arguments.
            examples: at most so many.
        """
        values = sum(torch.Size(edge.shape).numel() for edge in self.model.edges.values())
        size = max(1, _CHUNK_BYTES // (8 * max(1, values)))
        for batch in batches:
            for start in range(0, len(batch[0]), size):
                if self.parting is not None or self._examples >= examples:
                    return self.parting
                room = min(size, examples - self._examples)
                self._chunk(tuple(x[start : start + room] for x in batch))
        if self.parting is None:
            self._judge_means()
        return self.parting

    @torch.no_grad()
    def _chunk(self, inputs: Inputs) -> None:
        self._examples += len(inputs[0])
        given = self.executor.quantize_inputs(*(inputs[i] for i in self.order))
        with torch.random.fork_rng(devices=[]), _watched(self.network) as ratios:
            torch.manual_seed(0)  # what is drawn in evaluation is drawn alike by both
            outputs = dict(zip(self.model.outputs, network_outputs(self.network, self.model, inputs), strict=True))
            torch.manual_seed(0)
            self._walk(dict(zip(self.model.inputs, given, strict=True)), ratios, outputs)

    def _walk(self, values: dict[str, Any], ratios: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> None:
        """Every operator on the network's codes as far as they are known: what is moved has no quantizer of its own."""
        last = {name: step for step, operator in enumerate(self.model.operators) for name in operator.inputs}
        for step, operator in enumerate(self.model.operators):
            edge = self.model.edges[operator.output]
            try:
                given = [values[name] for name in operator.inputs]
                result: Any
                if isinstance(operator, Recurrent):  # its own hidden states would carry a rounding from step to step
                    result = followed(operator, self.executor, self._hidden(operator, ratios), *given)
                else:
                    result = compute(operator, self.executor, *given)
                if edge.name in ratios and edge.has_grid:
                    result = self._compared_codes(edge, result, ratios[edge.name])
                elif edge.name in outputs:
                    self._compare_output(edge, result, outputs[edge.name])
            except _PartingError as error:
                reason = str(error)
            except (RuntimeError, ValueError, IndexError, TypeError) as error:
                reason = f"the integer operator cannot be computed ({type(error).__name__}: {error})"
            else:
                values[operator.output] = result
                for name in operator.inputs:
                    if last[name] == step:
                        values.pop(name, None)
                continue
            self.parting = Parting(edge.name, f"{type(operator).__name__} {operator.name!r}", reason)
            return

    def _hidden(self, operator: Recurrent, ratios: Mapping[str, Tensor]) -> Tensor | None:
        """The network's own hidden states of a recurrent layer; None where they are not known."""
        for other in self.model.operators:
            if not isinstance(other, Recurrent) or other.result != "sequence" or other.output not in ratios:
                continue
            if (other.inputs, other.hidden_matrix.layer) == (operator.inputs, operator.hidden_matrix.layer):
                edge = self.model.edges[other.output]
                ratio = ratios[edge.name].movedim(edge.batch_axis, 0)
                return (ratio.round() + edge.zero_point).clamp_(*edge.range).to(torch.int8)
        return None

    def _compared_codes(self, edge: Edge, codes: Tensor, ratio: Tensor) -> Tensor:
        """The network's codes, once these are found to be close enough to its real numbers."""
        ratio = ratio.movedim(edge.batch_axis, 0)
        if codes.shape != ratio.shape:
            raise _PartingError(f"its shape is {list(codes.shape)}, the network's is {list(ratio.shape)}")
        low, high = edge.range
        real = (ratio + edge.zero_point).clamp_(low, high)
        beyond = (codes.float() - real).abs_().sub_(0.5).clamp_(min=0)
        self._note(edge, beyond, codes, real)
        return (ratio.round() + edge.zero_point).clamp_(low, high).to(codes.dtype)

    def _compare_output(self, edge: Edge, found: Any, output: Tensor) -> None:
        """A result that is moved or in float: the same values, since both come from the same ones."""
        output = output.movedim(edge.batch_axis, 0)
        if not isinstance(found, Tensor) or found.shape != output.shape:
            shape = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise _PartingError(f"its shape is {shape}, the network's is {list(output.shape)}")
        measure = Measure.of(edge, [output], None)
        if edge.is_float:
            apart = (found.double() - output.double()).abs() / measure.step
            same = (found == output) | (found.isnan() & output.isnan())
            apart = torch.where(same, torch.zeros_like(apart), apart.nan_to_num(float("inf"), float("inf")))
            beyond = (apart - FLOAT_TOLERANCE * 255).clamp_(min=0)
            self._note(edge, beyond, found, output)
        else:
            expected = encode(output, edge)
            self._note(edge, measure.steps(found, expected).double(), found, expected)

    def _note(self, edge: Edge, beyond: Tensor, found: Tensor, expected: Tensor) -> None:
        if not beyond.numel():
            return
        total, count = self._sums.get(edge.name, (0.0, 0))
        self._sums[edge.name] = (total + float(beyond.sum(dtype=torch.float64)), count + beyond.numel())
        largest = float(beyond.max())
        self._largest = max(self._largest, largest)
        if not largest <= self.bounds.largest:  # nor is what is no number
            place = int(beyond.nan_to_num(nan=float("inf")).argmax())
            index = tuple(int(i) for i in torch.unravel_index(torch.tensor(place), beyond.shape))
            wrong = float((beyond > self.bounds.largest).double().mean())
            raise _PartingError(
                f"fed with the network's own codes, {100 * wrong:.3g} % of its values are off by more than a rounding; "
                f"the furthest, at index {index}, is {float(found[index]):g} where the network has "
                f"{float(expected[index]):.6g}"
            )

    def _judge_means(self) -> None:
        operators = {operator.output: operator for operator in self.model.operators}
        for name, (total, count) in self._sums.items():
            if total / count > self.bounds.mean:
                operator = operators[name]
                self.parting = Parting(
                    name,
                    f"{type(operator).__name__} {operator.name!r}",
                    f"fed with the network's own codes, its values are {total / count:.3g} steps off in the mean, "
                    f"beyond roundings, which are at most {self.bounds.mean:g}",
                )
                return

    def fidelity(
        self,
        batches: Sequence[Inputs],
        results: Sequence[tuple[Tensor, ...]],
        targets: Tensor | None = None,
        decisions: Decisions | None = None,
    ) -> Fidelity:
        """The verdict, with the whole model's results beside the network's.

        Args:
            batches: as for `run`.
            results: the integer model's outputs for each: codes, or floats where an output is in float.
            targets: of the first batch, if known.
            decisions: what is decided; None: by the targets, or the outputs' shapes.
        """
        decisions = decisions or Decisions.of(self.network, self.model, batches[0], targets=targets)
        edges = [self.model.edges[name] for name in self.model.outputs]
        expected = []
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            for batch in batches:
                real = network_outputs(self.network, self.model, batch)
                expected.append(
                    tuple(y if edge.is_float else encode(y, edge) for y, edge in zip(real, edges, strict=True))
                )
        columns = zip(*expected, strict=True)
        measures = [Measure.of(e, c, axis) for e, c, axis in zip(edges, columns, decisions.axes, strict=True)]
        tally = Tally(measures, decisions.rule)
        for found, wanted in zip(results, expected, strict=True):
            tally.add(found, wanted)
        return Fidelity(tally.agreement(), len(self._sums), self._examples, self.largest_beyond, self.mean_beyond)


class _PartingError(Exception):
    """An operator's result is not the network's."""


@contextmanager
def _watched(network: QuantizedNetwork) -> Iterator[dict[str, Tensor]]:
    """What every activation quantizer of the network divides by its scale, in steps, by activation."""
    found: dict[str, Tensor] = {}

    def hook(name: str) -> Any:
        def see(quantizer: ActivationQuantizer, given: tuple[Tensor, ...], output: Tensor) -> None:
            found[name] = given[0].detach().float() / quantizer.scale.detach()

        return see

    handles = [q.register_forward_hook(hook(name)) for name, q in network.activation_quantizers.items()]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def input_order(network: QuantizedNetwork, model: IntegerModel) -> tuple[int, ...]:
    """For each of the integer model's inputs the position of the network's argument that it is.

    Raises:
        ExportError: an input that is no argument of the network.
    """
    nodes = [node.name for node in network.body.graph.nodes if node.op == "placeholder"]
    positions = {name: number for number, name in enumerate(nodes)}
    for activation in network.graph.activations:
        if activation.node in nodes:
            positions[activation.name] = nodes.index(activation.node)
    missing = [name for name in model.inputs if name not in positions]
    if missing and len(model.inputs) == len(nodes):
        return tuple(range(len(nodes)))
    if missing:
        raise ExportError(f"the integer model's input {missing[0]!r} is no argument of the network.")
    return tuple(positions[name] for name in model.inputs)


def network_outputs(network: QuantizedNetwork, model: IntegerModel, inputs: Inputs) -> list[Tensor]:
    """The network's outputs, however they are nested, in the order of the integer model's."""
    return [leaf for _, leaf in _leaves(network, model, network(*inputs))]


def _leaves(network: QuantizedNetwork, model: IntegerModel, result: Any) -> list[tuple[fx.Node, Tensor]]:
    (output,) = (node for node in network.body.graph.nodes if node.op == "output")
    nodes, leaves = pytree.tree_leaves(output.args), pytree.tree_leaves(result)
    pairs = [(node, leaf) for node, leaf in zip(nodes, leaves, strict=True) if isinstance(node, fx.Node)]
    # a value that is returned twice may be one output of the integer model
    return pairs if len(pairs) == len(model.outputs) else list(dict(pairs).items())
