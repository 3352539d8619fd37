"""A wrong lowering is found and named, whatever it is; roundings, however many layers they pass, are not one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sigmaquant.export.fidelity import LOWERED, FidelityCheck, input_order, network_outputs
from sigmaquant.graph import trace
from sigmaquant.lowering import IntegerExecutor, IntegerModel, lower
from sigmaquant.operators import (
    Concatenation,
    Convolution,
    FloatFunction,
    Linear,
    MaxPool,
    Move,
    Operator,
    Reshape,
    Sum,
    compute,
)
from sigmaquant.operators.node import Reference
from sigmaquant.plan import BitwidthPlan
from sigmaquant.quant import QuantizedNetwork, calibrate_, prepare, set_plan_


def quantized(model: nn.Module, *inputs: Tensor, bits: int = 4) -> QuantizedNetwork:
    network = prepare(trace(model.eval(), tuple(x[:2] for x in inputs)))
    graph = network.graph
    activations = dict.fromkeys(graph.activation_names, 8)
    set_plan_(network, BitwidthPlan(dict.fromkeys(graph.layer, bits), activations, graph.fingerprint))
    calibrate_(network, [inputs])
    return network.eval()


class Branches(nn.Module):
    """A residual sum, a concatenation, pooling, a function of single values, a flattening."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.left = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.right, self.head = nn.Conv2d(6, 4, 1), nn.Linear(10 * 12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.stem(x))
        x = torch.cat([torch.relu(x + self.left(x)), self.right(x)], 1)
        return self.head(F.max_pool2d(x, 2).flatten(1))


IMAGES = torch.randn(40, 3, 8, 6, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def network() -> QuantizedNetwork:
    torch.manual_seed(0)
    return quantized(Branches(), IMAGES)


def changed(
    model: IntegerModel, kind: type[Operator], change: Callable[[Any], Operator], start: str = ""
) -> IntegerModel:
    """With the last operator of a kind changed, of those whose names begin so."""
    place = max(i for i, op in enumerate(model.operators) if isinstance(op, kind) and op.name.startswith(start))
    operators = list(model.operators)
    operators[place] = change(operators[place])
    return replace(model, operators=tuple(operators))


def judged(network: QuantizedNetwork, model: IntegerModel, *inputs: Tensor) -> FidelityCheck:
    check = FidelityCheck(network, model)
    check.run([inputs])
    return check


def test_a_right_lowering_differs_by_roundings_alone(network: QuantizedNetwork) -> None:
    model = lower(network)
    check = judged(network, model, IMAGES)
    assert check.parting is None
    assert check.largest_beyond < LOWERED.largest / 5
    assert check.mean_beyond < LOWERED.mean / 5
    executor = IntegerExecutor(model)
    codes = executor.run_codes(*executor.quantize_inputs(IMAGES))
    found = check.fidelity([(IMAGES,)], [codes])
    assert found.examples == found.agreement.examples == 40
    assert found.agreement.decisions > 0.9
    assert 0 < found.operators <= len(model.operators)
    wrong = check.fidelity([(IMAGES,)], [(-codes[0],)])
    assert wrong.agreement.decisions < 0.5
    assert wrong.agreement.mean_steps > found.agreement.mean_steps


def shifted_bias(operator: Convolution) -> Operator:
    bias = operator.bias.copy()
    bias[1] += round(3 / float(operator.factor.mantissa[1]) * 2.0 ** int(operator.factor.shift[1]))
    return replace(operator, bias=bias)


def turned(operator: Linear) -> Operator:
    return replace(operator, codes=np.roll(operator.codes, 1, axis=1))


WRONG: dict[str, tuple[type[Operator], Callable[[Any], Operator]]] = {
    "a bias of one channel by three steps": (Convolution, shifted_bias),
    "padding": (Convolution, lambda op: replace(op, padding=tuple((b + 1, a - 1) for b, a in op.padding))),
    "weights in another order": (Linear, turned),
    "a term that is subtracted": (Sum, lambda op: replace(op, multipliers=(op.multipliers[0], -op.multipliers[1]))),
    "a clip too many": (Sum, lambda op: replace(op, high=100)),
    "operands in another order": (Concatenation, lambda op: replace(op, inputs=op.inputs[::-1])),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_operator_is_named(what: str, network: QuantizedNetwork) -> None:
    kind, change = WRONG[what]
    right = lower(network)
    model = changed(right, kind, change, "left" if what == "padding" else "")
    name = next(a.output for a, b in zip(right.operators, model.operators, strict=True) if a is not b)
    parting = judged(network, model, IMAGES).parting
    assert parting is not None
    assert parting.activation == name
    assert kind.__name__ in parting.operator
    assert name in str(parting)


class Windows(Move):
    """The first value of each window of two by two."""


class Turned(Reshape):
    """The values of an example in the opposite order."""


class Doubled(FloatFunction):
    """A function of twice the values."""


@compute.register
def _(operator: Windows, reference: Reference, codes: Tensor) -> Tensor:
    return codes[..., ::2, ::2]


@compute.register
def _(operator: Turned, reference: Reference, codes: Tensor) -> Tensor:
    return codes.reshape(-1, *operator.shape).flip(1)


@compute.register
def _(operator: Doubled, reference: Reference, x: Tensor) -> Tensor:
    return torch.log_softmax(2 * x, operator.axis + 1)


@pytest.mark.parametrize("kind", [MaxPool, Reshape])
def test_what_only_moves_values_is_found_at_the_next_activation(kind: type, network: QuantizedNetwork) -> None:
    def wrong(operator: Any) -> Operator:
        if isinstance(operator, MaxPool):
            return Windows(operator.name, operator.inputs, operator.output)
        return Turned(operator.name, operator.inputs, operator.output, operator.shape)

    parting = judged(network, changed(lower(network), kind, wrong), IMAGES).parting
    assert parting is not None
    assert parting.activation == "head"


def test_a_small_error_everywhere_is_found_by_the_mean(network: QuantizedNetwork) -> None:
    """Three tenths of a step never reach half a step beyond a rounding."""

    def off(operator: Linear) -> Operator:
        steps = 0.3 / operator.factor.mantissa * 2.0**operator.factor.shift
        return replace(operator, bias=(operator.bias + np.rint(steps)).astype(np.int32))

    check = judged(network, changed(lower(network), Linear, off), IMAGES)
    assert check.largest_beyond <= LOWERED.largest
    assert check.parting is not None
    assert check.parting.activation == "head"
    assert "in the mean" in check.parting.reason


def test_an_operator_that_cannot_be_computed_is_named(network: QuantizedNetwork) -> None:
    model = changed(lower(network), Linear, lambda op: replace(op, codes=op.codes[:, :-1]))
    parting = judged(network, model, IMAGES).parting
    assert parting is not None
    assert parting.activation == "head"
    assert "cannot be computed" in parting.reason
    fewer = changed(lower(network), Linear, lambda op: replace(op, codes=op.codes[:3], bias=op.bias[:3],
        factor=replace(op.factor, mantissa=op.factor.mantissa[:3], shift=op.factor.shift[:3])))  # fmt: skip
    assert "its shape is [40, 3], the network's is [40, 5]" in str(judged(network, fewer, IMAGES).parting)


def test_depth_is_no_error() -> None:
    """Random layers amplify single codes, until the outputs say nothing; every operator is still right."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for _ in range(24):
        layer = nn.Linear(48, 48)
        nn.init.orthogonal_(layer.weight, gain=2.0)
        layers += [layer, nn.Hardtanh()]
    x = torch.randn(64, 48)
    deep = quantized(nn.Sequential(*layers, nn.Linear(48, 10)), x, bits=3)
    model = lower(deep)
    check = judged(deep, model, x)
    assert check.parting is None
    executor = IntegerExecutor(model)
    found = check.fidelity([(x,)], [executor.run_codes(*executor.quantize_inputs(x))])
    assert found.mean_beyond < LOWERED.mean
    assert found.agreement.largest_steps > 10, "roundings have grown"


class Several(nn.Module):
    """Two inputs, four outputs in nested containers: one is moved, one in float, one is returned twice."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 6), nn.Linear(4, 6)

    def forward(self, x: Tensor, y: Tensor) -> Any:
        left, right = self.a(x), self.b(y)
        total = left + right
        return {"logits": total, "more": (left.reshape(-1, 2, 3), [torch.log_softmax(right, -1), total])}


def test_several_inputs_and_outputs_in_their_order() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(30, 8), torch.randn(30, 4)
    several = quantized(Several(), x, y)
    model = lower(several)
    check = judged(several, model, x, y)
    assert check.parting is None
    with torch.no_grad():
        outputs = network_outputs(several, model, (x, y))
    assert [y.shape[1:] for y in outputs] == [model.edges[name].shape for name in model.outputs]
    swapped = replace(model, inputs=model.inputs[::-1])
    assert input_order(several, swapped) == (1, 0)
    assert judged(several, swapped, x, y).parting is None, "the model's own order counts"
    executor = IntegerExecutor(model)
    results = executor.run_codes(*executor.quantize_inputs(x, y))
    assert check.fidelity([(x, y)], [results], torch.zeros(30, dtype=torch.long)).agreement.decisions > 0.9


def test_a_float_output_is_held_against_the_networks() -> None:
    torch.manual_seed(0)
    x = torch.randn(30, 8)
    network = quantized(nn.Sequential(nn.Linear(8, 5), nn.LogSoftmax(-1)), x)
    model = lower(network)
    assert model.edges[model.outputs[0]].is_float
    assert judged(network, model, x).parting is None
    (place,) = [i for i, op in enumerate(model.operators) if op.output == model.outputs[0]]
    operators = list(model.operators)
    last = operators[place]
    operators[place] = Doubled(last.name, last.inputs, last.output, "log_softmax")
    parting = judged(network, replace(model, operators=tuple(operators)), x).parting
    assert parting is not None
    assert parting.activation == model.outputs[0]


def test_random_numbers_in_evaluation_are_no_integers() -> None:
    """A dropout that stays active: integers without it are something else; kept in float, it draws the same numbers."""

    class Drops(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(F.dropout(torch.relu(self.a(x)), 0.5, training=True))

    torch.manual_seed(0)
    x = torch.randn(64, 8)
    network = quantized(Drops(), x)
    model = lower(network)
    parting = judged(network, model, x).parting
    assert (parting is None) == bool(model.float_operators)
