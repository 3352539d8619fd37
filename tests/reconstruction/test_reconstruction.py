"""Learning blocks: closer to the float network, on the grid, the same again, and never worse."""

from __future__ import annotations

import copy
from itertools import pairwise

import pytest
import torch
from reconstruction_cases import Attention, Convolutional, Recurrent, examples, rounded
from torch import Tensor, nn

from sigmaquant.quant import QuantizedNetwork, settle_weights_
from sigmaquant.reconstruction import Reconstruction, in_batches
from sigmaquant.reconstruction import learning as learning_module
from sigmaquant.reconstruction.parameters import LearnedWeight
from sigmaquant.reconstruction.schedule import Profile, Schedule, deal
from sigmaquant.tasks import Regression

STEPS = 40


def moved(network: QuantizedNetwork, x: Tensor) -> float:
    return float((network(x) - network.graph.module(x)).detach().square().mean())


def learned(network: QuantizedNetwork, x: Tensor, steps: int = STEPS) -> list[tuple[float, float]]:
    work = Reconstruction(network, [x], Regression(), seed=3)
    schedule = work.fixed(steps)
    work.begin(schedule.batches)
    return [work.learn(count) for count in schedule.steps]


@pytest.mark.parametrize("bits", [2, 3])
@pytest.mark.parametrize(("kind", "shape"), [(Convolutional, (3, 6, 6)), (Attention, (4, 6)), (Recurrent, (4, 6))])
def test_a_reconstructed_network_is_closer_and_on_its_grid(
    kind: type[nn.Module], shape: tuple[int, ...], bits: int
) -> None:
    torch.manual_seed(0)
    x, other = examples(128, *shape), examples(128, *shape, seed=1)
    network = rounded(kind(), x, bits)
    before = moved(network, other)
    state = {name: network.codes(name) for name in network.weight_quantizers}
    distances = learned(network, x)
    assert any(less < more for more, less in distances)
    assert bits == 2 or moved(network, other) < 0.95 * before  # at 2 bits so few examples say little about others
    assert any(not torch.equal(codes, network.codes(name)) for name, codes in state.items())
    outputs = network(other)
    settle_weights_(network)
    assert torch.allclose(network(other), outputs, atol=1e-5)  # what was learned is what the codes say
    assert not any(isinstance(module, LearnedWeight) for module in network.modules())


def test_the_same_seed_and_steps_give_the_same_network_also_from_the_middle() -> None:
    torch.manual_seed(0)
    x = examples(96, 3, 6, 6)
    first = rounded(Convolutional(), x)
    second, third = copy.deepcopy(first), copy.deepcopy(first)
    learned(first, x)
    learned(second, x)
    assert all(torch.equal(a, b) for a, b in zip(first.state().values(), second.state().values(), strict=True))
    work = Reconstruction(third, [x], Regression(), seed=3)
    work.begin(3)
    work.learn(STEPS)
    work = Reconstruction(third, [x], Regression(), seed=3)  # as a resumed run does
    work.begin(3, done=1)
    for _ in work.blocks[1:]:
        work.learn(STEPS)
    assert all(torch.equal(a, b) for a, b in zip(first.state().values(), third.state().values(), strict=True))


def test_a_block_that_learning_makes_worse_is_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    x = examples(64, 3, 6, 6)
    network = rounded(Convolutional(), x)
    kept = copy.deepcopy(network.state())
    monkeypatch.setattr(learning_module, "_ATTEMPTS", ((1.0, 1e4), (1.0, 1e3)))
    for before, after in learned(network, x, 5):
        assert after == before
    assert all(torch.equal(value, kept[name]) for name, value in network.state().items())


def test_units_of_the_outputs_do_not_matter() -> None:
    torch.manual_seed(0)
    x = examples(96, 4, 6)
    model = Attention()
    small = copy.deepcopy(model)
    with torch.no_grad():
        small.head.weight.mul_(2.0**-7)
        small.head.bias.mul_(2.0**-7)
    networks = rounded(model, x), rounded(small, x)
    distances = [learned(network, x, 20) for network in networks]
    for mine, theirs in zip(*distances, strict=True):
        assert theirs == pytest.approx(mine, rel=1e-3)


def test_time_goes_where_the_error_is_and_more_of_it_gives_more_steps() -> None:
    profiles = [Profile(0.1, 0.01), Profile(0.1, 0.16), Profile(0.2, 0.16), Profile(0.05, 0.0)]
    schedule = deal(profiles, 60.0, 16)
    assert schedule.batches == 16
    assert schedule.steps[1] > 2 * schedule.steps[0]
    assert schedule.steps[3] == 0
    spent = sum(steps * profile.seconds for steps, profile in zip(schedule.steps, profiles, strict=True))
    assert spent <= 60.0 - 16 * 0.45
    for less, more in pairwise([deal(profiles, seconds, 16).steps for seconds in (1.0, 5.0, 20.0, 60.0, 300.0)]):
        assert all(a <= b for a, b in zip(less, more, strict=True))
    assert deal(profiles, 0.1, 16).steps == (0, 0, 0, 0)
    assert deal(profiles, -5.0, 16).steps == (0, 0, 0, 0)


def test_the_whole_network_has_its_share_of_the_time_after_its_blocks() -> None:
    profiles, whole = [Profile(0.1, 0.04), Profile(0.1, 0.04)], Profile(0.15, 0.1)
    schedule = deal(profiles, 30.0, 16, whole, 2)
    assert schedule.steps[:2] == deal(profiles, 18.0, 16).steps
    assert 0 < schedule.steps[2] * whole.seconds <= 12.0 - 2 * schedule.batches * whole.seconds
    longer = deal(profiles, 300.0, 16, whole, 2)
    assert longer.steps[2] == 3 * 2 * longer.batches  # more passes would fit these examples, and no others
    assert sum(longer.steps[:2]) > 0.8 * sum(deal(profiles, 300.0, 16).steps)
    assert deal(profiles, 20.0, 16, whole, 2).steps == (*deal(profiles, 20.0, 16).steps, 0)  # too few for anything
    assert deal(profiles, 0.1, 16, whole, 2).steps == (0, 0, 0)


def test_where_there_are_few_steps_they_are_more_and_smaller() -> None:
    few, fewer, many = Schedule(4, (10, 0, 20, 5)), Schedule(4, (1, 0, 2, 5)), Schedule(4, (10, 0, 300, 5))
    assert few.in_parts(8, 3) == Schedule(4, (40, 0, 80, 5), 4)  # the last one is the whole network's
    assert fewer.in_parts(8, 3) == Schedule(4, (8, 0, 16, 5), 8)
    assert many.in_parts(8, 3) == many
    x = examples(96, 3, 6, 6)
    work = Reconstruction(rounded(Convolutional(), x), [x], Regression(), seed=3)
    work.begin(3, parts=4)
    assert [len(next(iter(values.values()))) for values in work._known] == [8] * 12


def test_a_network_is_closer_after_it_was_learned_as_a_whole() -> None:
    torch.manual_seed(0)
    x, other = examples(256, 3, 6, 6), examples(128, 3, 6, 6, seed=1)
    network = rounded(Convolutional(), x)
    work = Reconstruction(network, [x], Regression(), seed=3)
    work.begin(work.fixed(1).batches)
    while work.blocks[work.done] is not work.whole:
        work.learn(STEPS)
    before = moved(network, other)
    first, last = work.learn(STEPS)
    assert last < first
    assert moved(network, other) < before
    assert work.done == len(work.blocks)


def test_batches_of_one_size() -> None:
    x = torch.arange(10)
    assert [list(part) for part in in_batches([x[:7], x[7:]], 4)] == [[0, 1, 2, 3], [4, 5, 6], [7, 8, 9]]
    (pair,) = in_batches([(x, 2 * x)], 16)
    assert torch.equal(pair[1], 2 * x)
