"""Every operator: integers compute what the quantized network computes, or the operator is listed."""

from __future__ import annotations

import pytest
import torch
from operator_cases import FLOAT, INTEGER, SHAPE, Case

from sigmaquant.export.fidelity import FidelityCheck
from sigmaquant.graph import trace
from sigmaquant.lowering import IntegerExecutor, lower
from sigmaquant.plan import BitwidthPlan
from sigmaquant.quant import calibrate_, prepare, set_plan_


def inputs(count=32):
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(1))


def case(body):
    torch.manual_seed(0)
    return Case(body).eval()


def quantized(graph, bits=8, activation_bits=8):
    network = prepare(graph)
    weights, activations = (
        dict.fromkeys(names, b) for names, b in ((graph.layer, bits), (graph.activation_names, activation_bits))
    )
    set_plan_(network, BitwidthPlan(weights, activations))
    calibrate_(network, [inputs()])
    return network.eval()


@pytest.mark.parametrize("name", INTEGER)
def test_integers_compute_what_the_quantized_network_computes(name):
    graph = trace(case(INTEGER[name]), inputs(2))
    assert graph.float_operators == ()
    for bits, activation_bits in ((8, 8), (3, 5)):
        network = quantized(graph, bits, activation_bits)
        model = lower(network)
        assert model.float_operators == ()
        x = inputs(7)
        assert FidelityCheck(network, model).run([(x,)]) is None
        with torch.no_grad():
            expected, found = network(x), IntegerExecutor(model)(x)
        assert found.shape == expected.shape
        logits = model.without_endings()
        step = max(logits.edges[edge].scale for edge in logits.outputs)
        if model.endings:  # softmax and sigmoid shrink what a step of their input is; a logarithm does not
            assert float((found - expected).abs().max()) <= 2.01 * step
            continue
        steps = (found - expected).abs() / step
        # what rounding takes to one side here and to the other there is rare, and one step for each operator; a steep
        # function makes several steps of it
        assert float((steps > 0.5).float().mean()) < 0.12
        assert float((steps > 2.01).float().mean()) < 0.005


@pytest.mark.parametrize("name", FLOAT)
def test_what_has_no_integer_form_is_listed_and_computed_in_float(name):
    body, operator = FLOAT[name]
    graph = trace(case(body), inputs(2))
    places = [place for place in graph.float_places if place.operator == operator]
    assert places, graph.float_operators
    assert all(place.line.startswith("operator_cases.py:") for place in places)
    network = quantized(graph)
    model = lower(network)
    assert any(name.endswith(f": {operator}") for name in model.float_operators)
    if "dropout" in name:  # it draws numbers
        return
    x = inputs(7)
    with torch.no_grad():
        expected, found = network(x), IntegerExecutor(model)(x)
    assert found.shape == expected.shape
    step = max(edge.scale for edge in model.edges.values() if not edge.is_float)
    assert float(((found - expected).abs() > 1.01 * step).float().mean()) < 0.003


def test_the_model_is_plain_data():
    """No operator holds a function or a part of the graph: a network in integers can be copied, printed and saved."""
    import pickle

    for name in ("frames", "glu", "bilinear", "cat_constant", "where", "transposed"):
        model = lower(quantized(trace(case(INTEGER[name]), inputs(2))))
        operators = pickle.loads(pickle.dumps(model.operators))
        assert repr(operators) == repr(model.operators)
