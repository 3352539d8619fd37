"""Groups of dependent channels, and their physical removal."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from pruning_networks import KINDS, images, network
from sigmaquant.errors import PlanError, PruningError
from sigmaquant.graph import trace
from sigmaquant.plan import BitwidthPlan
from sigmaquant.pruning.groups import check_removal, find_groups, merged
from sigmaquant.pruning.removal import pruned_model, remove_, silence_inputs_

pytest.importorskip("torch_pruning", reason="the extra prune is not installed")
# What each kind loses, by the first layer of a group, and layers whose channels are kept.
EXPECTED = {
    "residual": ({"stem.0": 8, "one.0": 8, "three.0": 12}, {"head"}),
    "concatenated": ({"stem": 8, "convs.0": 4, "convs.1": 4}, {"head"}),
    "depthwise": ({"stem.0": 8, "expand.0": 16, "squeeze": 4}, {"head"}),
    "grouped": ({"stem.0": 4, "one.0": 4}, {"head"}),
    "shuffled": ({"one.0": 6}, {"head", "stem.0"}),
    "flattened": ({"one.0": 6, "two": 8}, {"head"}),
    "normed": ({"two": 8}, {"head", "one"}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_dependency(kind):
    model = network(kind)
    before = copy.deepcopy(model.state_dict())
    found = find_groups(model, images())
    assert {group.name: len(group.units) for group in found.groups} == EXPECTED[kind][0]
    assert EXPECTED[kind][1] <= set(found.kept)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    removed = merged(group.removed(range(len(group.units) // 2)) for group in found.groups)
    check_removal(model, images(), removed)
    plan = BitwidthPlan({}, removed=removed)
    smaller = pruned_model(model, plan)
    assert sum(p.numel() for p in smaller.parameters()) < sum(p.numel() for p in model.parameters())
    if kind not in ("depthwise", "grouped"):
        return  # reading a network takes its time
    graph, whole = trace(smaller, images()), trace(model, images())
    assert graph.layer.keys() == whole.layer.keys()
    assert sum(spec.macs for spec in graph.layers) < sum(spec.macs for spec in whole.layers)


@pytest.mark.parametrize("kind", ["residual", "depthwise", "grouped"])
def test_a_wrong_removal_is_seen(kind):
    """Reading layers that lose other channels than their producers: same shapes, another function."""
    model = network(kind)
    group = find_groups(model, images()).groups[0]
    removed = {name: dict(sides) for name, sides in group.removed([0]).items()}
    reader = next(name for name, sides in removed.items() if set(sides) == {"inputs"} or "inputs" in sides)
    removed[reader]["inputs"] = group.removed([1])[reader]["inputs"]
    with pytest.raises(PruningError, match="does not compute"):
        check_removal(model, images(), removed)


def test_pinned_layers_keep_all_channels():
    found = find_groups(network("residual"), images(), pinned=["one.0"])
    assert [group.name for group in found.groups] == ["three.0"]
    assert found.kept["stem.0"] == found.kept["one.0"] == "one.0 is pinned"


def test_what_cannot_be_pruned_is_refused_by_name():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(1, 4), nn.Flatten(), nn.Linear(144, 2))
    with pytest.raises(PruningError, match=r"0: .*3: its channels are outputs of the network"):
        find_groups(model.eval(), images())


def test_one_that_counts_its_channels_is_kept():
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.three = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1), nn.Conv2d(4, 2, 1)

        def forward(self, x):
            x = self.one(x)
            assert x.shape[1] == 8, "eight channels"
            return self.three(self.two(x).relu())

    found = find_groups(Counting().eval(), images())
    assert [group.name for group in found.groups] == ["two"]
    assert "eight channels" in found.kept["one"]


def test_silenced_inputs_of_a_grouped_convolution_are_its_own():
    layer = nn.Conv2d(4, 4, 1, groups=2)
    silence_inputs_(layer, [3])
    assert layer.weight.flatten(1).count_nonzero(1).tolist() == [2, 2, 1, 1]


def test_plans_of_other_models_are_refused():
    for removed in ({"nothing": {"outputs": (0,)}}, {"head": {"inputs": (12,)}}, {"stem": {"outputs": (0,)}}):
        with pytest.raises(PlanError, match="Use the model"):
            remove_(network("residual"), removed)
