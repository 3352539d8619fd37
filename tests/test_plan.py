"""Plans: immutable, exact in JSON, and clear about what does not fit."""

from __future__ import annotations

import copy
import json
import pickle
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sigmaquant.errors import PlanError, UnknownLayerError
from sigmaquant.plan import BITWIDTHS, BitwidthPlan, LayerBits, check_bitwidth

TABLES = st.dictionaries(st.text(max_size=20), st.sampled_from(BITWIDTHS), max_size=8)
PLANS = st.builds(BitwidthPlan, TABLES, TABLES, st.text(max_size=10))
PLAN = BitwidthPlan({"conv1": 8, "layer1.conv": 4, "fc": 2}, {"input": 8}, "f00d")


@given(PLANS)
def test_round_trips(plan: BitwidthPlan) -> None:
    for other in (
        BitwidthPlan.from_json(plan.to_json()),
        pickle.loads(pickle.dumps(plan)),
        copy.deepcopy(plan),
        copy.copy(plan),
    ):
        assert other == plan
        assert hash(other) == hash(plan)
        assert list(other) == list(plan)


def test_golden_json() -> None:
    assert json.loads(PLAN.to_json()) == {
        "schema": "sigmaquant.plan",
        "version": 1,
        "model": "f00d",
        "midrise_up_to": 0,
        "weights": {"conv1": 8, "layer1.conv": 4, "fc": 2},
        "activations": {"input": 8},
    }
    assert PLAN.to_json().endswith("}\n")
    assert list(BitwidthPlan.from_json(PLAN.to_json()).weights) == ["conv1", "layer1.conv", "fc"]


def test_rows_and_histogram() -> None:
    assert next(iter(PLAN)) == LayerBits("weight", "conv1", 8)
    assert list(PLAN)[-1] == LayerBits("activation", "input", 8)
    assert PLAN.histogram() == {2: 1, 4: 1, 8: 1}
    assert BitwidthPlan({}).histogram() == {}


def test_changes_are_copies() -> None:
    changed = PLAN.with_weights({"fc": 3}).with_activations({"input": 6})
    assert (changed.weights["fc"], changed.activations["input"], changed.model) == (3, 6, "f00d")
    assert (PLAN.weights["fc"], PLAN.activations["input"]) == (2, 8)
    assert list(changed.weights) == list(PLAN.weights)


def test_nothing_can_be_changed_in_place() -> None:
    table = {"a": 2}
    plan = BitwidthPlan(table)
    table["a"] = 8
    assert plan.weights["a"] == 2
    with pytest.raises(TypeError):
        plan.weights["a"] = 8  # type: ignore[index]
    with pytest.raises(FrozenInstanceError):
        plan.weights = {}  # type: ignore[misc]


@pytest.mark.parametrize("bits", [1, 9, 0, -2, 4.0, "4", None, True])
def test_bitwidths_outside(bits: object) -> None:
    message = rf"weight 'a': bitwidth {bits!r} is not one of 2\.\.8\."
    with pytest.raises(PlanError, match=message):
        BitwidthPlan({"a": bits})  # type: ignore[dict-item]
    with pytest.raises(PlanError, match=rf"activation 'x': bitwidth {bits!r}"):
        BitwidthPlan({}, {"x": bits})  # type: ignore[dict-item]
    with pytest.raises(PlanError, match="is not one of"):
        PLAN.with_weights({"fc": bits})  # type: ignore[dict-item]
    with pytest.raises(PlanError, match=r"here: bitwidth"):
        check_bitwidth(bits, "here")


def test_unknown_names_list_the_near_ones() -> None:
    with pytest.raises(UnknownLayerError) as caught:
        PLAN.with_weights({"conv2": 4})
    message = "the change names 'conv2', which the model does not have. Did you mean 'conv1' or 'layer1.conv'?"
    assert str(caught.value) == message
    with pytest.raises(UnknownLayerError, match="the change names 'out'"):
        PLAN.with_activations({"out": 4})


def test_check() -> None:
    layers, activations = ["conv1", "layer1.conv", "fc"], ["input"]
    PLAN.check(layers, activations)
    PLAN.check(layers, activations, "f00d")
    BitwidthPlan(PLAN.weights, PLAN.activations).check(layers, activations, "beef")  # unknown fingerprint
    with pytest.raises(UnknownLayerError, match=r"the plan names 'fc', which the model does not have"):
        PLAN.check(["conv1", "layer1.conv"], activations)
    with pytest.raises(UnknownLayerError, match=r"the plan names 'input'"):
        PLAN.check(layers, [])
    with pytest.raises(PlanError, match=r"gives no bitwidth for 2 layer\(s\): 'a', 'b'\. A plan must name every one"):
        PLAN.check([*layers, "a", "b"], activations)
    with pytest.raises(PlanError, match=r"gives no bitwidth for 1 activation\(s\): 'add'"):
        PLAN.check(layers, ["input", "add"])
    with pytest.raises(PlanError, match=r"another model \(fingerprint f00d, this model has beef\)"):
        PLAN.check(layers, activations, "beef")


def document(**changes: object) -> str:
    return json.dumps({**json.loads(PLAN.to_json()), **changes})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the plan is not valid JSON"),
        ("{", "the plan is not valid JSON"),
        ("[]", "this is no bitwidth plan: its key 'schema' is not 'sigmaquant.plan'."),
        ("{}", "this is no bitwidth plan"),
        (document(schema="other"), "this is no bitwidth plan"),
        (
            document(version=4),
            "the plan has version 4, this program reads 1 to 3. Update sigmaquant or write the plan anew.",
        ),
        (document(version=None), "the plan has version None"),
        (document(weigths={}), "the plan has the unknown key 'weigths'."),
        (document(weights=[1]), "the plan's key 'weights' must map names to bitwidths."),
        (document(activations=None), "the plan's key 'activations' must map names to bitwidths."),
        (document(weights={"a": 16}), "weight 'a': bitwidth 16 is not one of 2..8."),
        (document(weights={"a": 4.0}), "weight 'a': bitwidth 4.0 is not one of 2..8."),
    ],
)
def test_malformed_json(text: str, message: str) -> None:
    with pytest.raises(PlanError) as caught:
        BitwidthPlan.from_json(text)
    assert message in str(caught.value)


def test_numpys_integers_are_stored_as_pythons() -> None:
    plan = BitwidthPlan({"a": np.int64(4), "b": 8}, {"input": np.int8(8)}, midrise_up_to=np.int64(2))
    assert BitwidthPlan.from_json(plan.to_json()) == plan
    assert hash(plan) == hash(BitwidthPlan({"b": 8, "a": 4}, {"input": 8}, midrise_up_to=2))


def test_grids_that_earlier_releases_do_not_know_have_a_version() -> None:
    """Mid-rise grids of more than 4 bits came later: plans without them are still read by what came before."""
    versions = [json.loads(BitwidthPlan({"a": 4}, midrise_up_to=m).to_json())["version"] for m in (0, 4, 5, 7)]
    assert versions == [1, 1, 2, 2]
    wide = BitwidthPlan({"a": 6}, midrise_up_to=7)
    assert BitwidthPlan.from_json(wide.to_json()) == wide
    with pytest.raises(PlanError, match=r"version 4.*reads 1 to 3"):
        BitwidthPlan.from_json(wide.to_json().replace('"version": 2', '"version": 4'))


def test_removed_channels_have_a_version_that_earlier_releases_refuse() -> None:
    removed = {"b": {"outputs": (0, 2)}, "a": {"inputs": (1,), "outputs": (0,)}}
    plan = BitwidthPlan({"a": 4, "b": 8}, {"input": 8}, "f" * 16, removed=removed)
    document = json.loads(plan.to_json())
    assert document["version"] == 3
    assert document["removed"] == {"a": {"inputs": [1], "outputs": [0]}, "b": {"outputs": [0, 2]}}
    assert BitwidthPlan.from_json(plan.to_json()) == plan == pickle.loads(pickle.dumps(plan))
    assert "removed" not in json.loads(BitwidthPlan({"a": 4}).to_json())
    with pytest.raises(PlanError, match="which plans of version 1 do not"):
        BitwidthPlan.from_json(json.dumps({**document, "version": 1}))


@pytest.mark.parametrize(
    "removed", [[], {"a": {}}, {"a": {"rows": [1]}}, {"a": {"inputs": [2, 1]}}, {"a": {"inputs": [True]}}, {"a": [1]}]
)
def test_removed_channels_that_cannot_be_read(removed: object) -> None:
    with pytest.raises(PlanError, match="remove"):
        BitwidthPlan({"a": 4}, removed=removed)  # type: ignore[arg-type]
