"""What verification says of runners that are right, slightly wrong, and wrong."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sigmaquant.errors import ExportError
from sigmaquant.export.comparison import VALUE_STEPS, Agreement
from sigmaquant.export.verification import Reference, Verification, latency_ms
from sigmaquant.graph import trace
from sigmaquant.lowering import IntegerExecutor, lower
from sigmaquant.plan import BitwidthPlan
from sigmaquant.quant import calibrate_, prepare, set_plan_


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    network = prepare(trace(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)).eval(), (torch.zeros(2, 6),)))
    graph = network.graph
    set_plan_(network, BitwidthPlan(dict.fromkeys(graph.layer, 4), dict.fromkeys(graph.activation_names, 8)))
    calibrate_(network, [torch.randn(64, 6)])
    return lower(network)


@pytest.fixture(scope="module")
def batches():
    return [torch.randn(10, 6, generator=torch.Generator().manual_seed(i)) for i in range(3)]


def test_the_reference_agrees_with_itself(model, batches):
    found = Reference(model, batches).agreement(IntegerExecutor(model))
    assert found == Agreement(30, 1.0, 0, 0.0, 1.0)


def test_differences_are_counted_in_steps(model, batches):
    reference = Reference(model, batches)
    step = reference.edges[0].scale

    def slightly_off(x):
        y = IntegerExecutor(model)(x).clone()
        y[0, 0] += 2 * step * (1 if y[0, 0] < 0 else -1)
        return y

    found = reference.agreement(slightly_off)
    assert found.largest_steps == 2
    assert found.median_steps == 2
    assert found.equal == pytest.approx(1 - 3 / 120)
    wrong = reference.agreement(lambda x: -IntegerExecutor(model)(x))
    assert wrong.decisions < 0.5


def test_values_agree_when_none_is_far_off(model, batches):
    step = model.edges[model.outputs[0]].scale

    def off(steps):
        def run(x):
            y = IntegerExecutor(model)(x).clone()
            y[0, 0] += steps * step * (1 if y[0, 0] < 0 else -1)
            return y

        return run

    values = Reference(model, batches, targets=torch.zeros(10, 4))
    assert values.outputs == "values"
    assert values.agreement(off(VALUE_STEPS)).decisions == 1
    assert values.agreement(off(VALUE_STEPS + 1)).decisions == 1 - 3 / 30
    classes = Reference(model, batches, targets=torch.zeros(10, dtype=torch.long))
    assert classes.outputs == Reference(model, batches).outputs == "logits"


def test_the_first_difference_is_the_earliest_one(model, batches):
    reference = Reference(model, batches)
    names = list(model.edges)

    def watch(x):
        found = {}
        executor = IntegerExecutor(model)
        executor.run_codes(
            *executor.quantize_inputs(x), watch=lambda edge, codes: found.update({edge.name: codes.clone()})
        )
        found[names[1]][2, 3] ^= 1
        found[names[2]][0, 0] ^= 1
        return found

    said = reference.first_difference(watch)
    assert said.startswith(f"activation {names[1]!r} at index (2, 3): ")
    assert "expected" in said


def test_a_verdict_needs_its_share(tmp_path):
    def verdict(share):
        return Verification("onnx", tmp_path / "x", 0.999, Agreement(1000, share, 1, 1.0, 0.99), None, 10, 12)

    assert verdict(0.999).passed
    assert not verdict(0.998).passed
    assert verdict(0.998).to_dict()["passed"] is False


def test_one_of_two_ways_to_run_may_be_off_by_roundings(tmp_path):
    def verdict(plain, deployed, steps):
        runs = (
            Agreement(1000, share, largest, 1.0, 0.9) for share, largest in zip((plain, deployed), steps, strict=True)
        )
        return Verification("onnx", tmp_path / "x", 0.999, *runs, 10, 12)

    good = verdict(1.0, 0.9995, (9, 9))
    assert good.passed
    assert good.deployment == ""
    rounded = verdict(0.98, 1.0, (VALUE_STEPS, 9))
    assert rounded.passed
    assert "as deployed it has enough examples alike, with fusions off only 98.00 %" in rounded.deployment
    assert "counts as roundings" in rounded.deployment
    assert rounded.to_dict()["notes"] == (rounded.deployment,)
    assert not verdict(0.98, 1.0, (VALUE_STEPS + 1, 0)).passed
    other = verdict(1.0, 0.98, (0, VALUE_STEPS + 1))
    assert not other.passed
    assert "as deployed only 98.00 %" in other.deployment
    assert not verdict(0.98, 0.98, (1, 1)).passed


def test_an_exact_verdict_needs_every_code(tmp_path):
    def verdict(equal):
        return Verification("c", tmp_path / "x", 1.0, Agreement(9, 1.0, 1, 1.0, equal), None, 10, 12, exact=True)

    assert verdict(1.0).passed
    assert not verdict(0.999).passed
    assert "every code" in verdict(0.999).demand


def test_no_data_and_odd_models_are_refused(model):
    with pytest.raises(ExportError, match="needs data"):
        Reference(model, [])


def test_latency_is_that_of_the_fastest_call():
    assert 0 < latency_ms(lambda x: x + 1, torch.zeros(3), seconds=0.02) < 50
