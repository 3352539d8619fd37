"""The student: applying plans, training in cycles, restoring, judging, and its stream of examples."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from training_cases import CPU, network, plan_of, problem, source, student

from sigmaquant.data.indexed import TensorSource
from sigmaquant.errors import CheckpointError
from sigmaquant.graph import trace
from sigmaquant.tasks import as_task
from sigmaquant.training.student import Judge, stream
from sigmaquant.training.teacher import make_teacher


@pytest.fixture(scope="module")
def graph():
    return trace(network(), problem()[0])


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def labelled(count: int, batch_size: int) -> TensorSource:
    """Examples that carry their own number."""
    return TensorSource(torch.arange(count).float().reshape(-1, 1), torch.arange(count), batch_size=batch_size)


@given(st.integers(2, 40), st.integers(2, 12), st.integers(2, 90))
@settings(max_examples=60, deadline=None)
def test_the_stream_gives_the_asked_number_but_never_a_single_example(count, batch_size, examples):
    sizes = []
    for inputs, targets in stream(labelled(count, batch_size), examples, 3):
        assert torch.equal(inputs[:, 0].long(), targets)
        sizes.append(len(targets))
    assert sum(sizes) in (examples, examples - 1)
    assert min(sizes) >= 2
    if sum(sizes) == examples - 1:
        assert examples % batch_size == 1 or examples % count == 1 or examples > count


def test_the_stream_gives_every_example_once_per_pass_in_an_order_of_the_seed():
    def numbers(seed, examples=40):
        return torch.cat([targets for _, targets in stream(labelled(20, 6), examples, seed)]).tolist()

    first = numbers(1)
    assert sorted(first[:20]) == sorted(first[20:]) == list(range(20))
    assert first[:20] != first[20:]  # each pass in its own order
    assert numbers(1) == first
    assert numbers(2) != first
    assert numbers(1, 14) == first[:14]


def test_the_stream_of_single_examples_ends():
    assert sum(len(targets) for _, targets in stream(labelled(5, 1), 12, 0)) == 12


def test_the_stream_cuts_all_inputs_of_a_model():
    data = TensorSource((torch.rand(9, 2), torch.rand(9, 3)), torch.arange(9), batch_size=4)
    *_, ((first, second), targets) = stream(data, 6, 0)
    assert len(first) == len(second) == len(targets) == 2


def test_no_examples_give_no_batch():
    assert list(stream(labelled(5, 2), 0, 0)) == []


def test_the_same_seeds_give_the_same_weights(graph):
    def run(seed):
        made = student(graph=graph)
        made.cycle(64, seed, 0.05)
        made.apply(plan_of(graph, 3))
        made.cycle(48, seed + 1, 0.02)
        return made.tensors()

    assert same(run(5), run(5))
    assert not same(run(5), run(6))


def test_restoring_is_exact_and_training_goes_on_as_if_nothing_had_been(graph):
    def finish(made):
        made.cycle(64, 8, 0.05)
        return made.tensors()

    made, other = student(graph=graph), student(graph=graph)
    for one in (made, other):
        one.cycle(64, 7, 0.05)
    plan, tensors, trained = made.network.plan, made.tensors(), made.trained_examples
    assert trained == 64
    made.apply(plan.with_weights({"0": 2, "6": 8}))
    made.cycle(48, 1, 0.1)
    assert not same(made.tensors(), tensors)
    made.restore(plan, tensors, trained)
    assert same(made.tensors(), tensors)
    assert made.trained_examples == trained
    made.network.check_coverage(plan)
    assert same(finish(made), finish(other))


def test_what_tensors_gives_is_a_copy(graph):
    made = student(graph=graph)
    tensors = made.tensors()
    kept = {key: value.clone() for key, value in tensors.items()}
    made.cycle(32, 0, 0.1)
    assert same(tensors, kept)


def test_tensors_of_something_else_are_refused(graph):
    made = student(graph=graph)
    for damage in ({"weights.x": torch.zeros(1)}, {"optimizer.77": torch.zeros(1)}, {"network.x": torch.zeros(1)}):
        with pytest.raises(CheckpointError):
            made.restore(made.network.plan, {**made.tensors(), **damage}, 0)


def test_before_training_a_plan_is_calibrated_anew_and_afterwards_left(graph):
    made = student(bits=8, graph=graph)
    ranges = [float(q.scale.detach()) for q in made.network.activation_quantizers.values()]
    mean = made.network.body.get_submodule("1").running_mean.clone()
    made.apply(plan_of(graph, 2))
    assert [float(q.scale.detach()) for q in made.network.activation_quantizers.values()] != ranges
    assert not torch.equal(made.network.body.get_submodule("1").running_mean, mean)
    made.cycle(32, 0, 0.01)
    trained = made.tensors()
    made.apply(plan_of(graph, 2).with_weights({"6": 3}))
    changed = [key for key, value in made.tensors().items() if not torch.equal(value, trained[key])]
    assert changed == ["network.6.weight_quantizer.scale"]


def test_cycles_and_segments_follow_their_learning_rates(graph):
    made = student(graph=graph)
    assert made.cycle(0, 0, 0.1) is None
    before = made.tensors()
    made.cycle(32, 0, 0.0)
    still = {key for key, value in made.tensors().items() if key in before and not torch.equal(value, before[key])}
    assert not any(key.endswith(("weight", "bias", "scale")) for key in still)  # only BatchNorm's statistics
    made.reset_momentum()
    assert not any(key.startswith("optimizer") for key in made.tensors())
    report = made.segment(64, 0, before=64, total=128)
    assert (report.steps, report.examples) == (4, 64)


def test_segments_go_on_along_one_learning_rate_arc(graph):
    """By how much the weights move: little in warm-up, most after it, hardly at the end."""
    made = student(graph=graph)
    total, moved = 64_000, []
    for before in (0, total // 4, total - 16):
        made.reset_momentum()
        start = made.network.weight("3").detach().clone()
        made.segment(16, 0, before=before, total=total)
        moved.append(float((made.network.weight("3").detach() - start).norm()))
    assert moved[1] > 10 * moved[0] > 0
    assert moved[1] > 1000 * moved[2]


def test_the_graph_of_a_student_holds_its_present_weights(graph):
    made = student(graph=graph)
    made.cycle(32, 0, 0.1)
    assert made.graph.weight("3") is made.network.weight("3")
    assert not torch.equal(made.graph.weight("3"), graph.weight("3"))
    assert made.graph.fingerprint == graph.fingerprint
    assert all(torch.equal(a, b) for a, b in zip(graph.module.parameters(), network().parameters(), strict=True))


def test_reestimation_changes_statistics_only(graph):
    made = student(graph=graph)
    before = made.tensors()
    made.reestimate(64, 11)
    changed = {key for key, value in made.tensors().items() if not torch.equal(value, before[key])}
    assert {"network.1.running_mean", "network.1.running_var"} <= changed
    assert all(".1." in key for key in changed)


def test_a_judge_compares_with_the_float_network(graph):
    data = source(64, seed=4)
    teacher = make_teacher(graph)
    judge = Judge.of(teacher, data, as_task(), CPU)
    assert judge.reference.shape == (64, 3)
    itself = judge(teacher)
    assert itself.divergence == 0
    assert itself.accuracy == judge.float_accuracy
    coarse, fine = student(2, graph), student(8, graph)
    assert judge(coarse.network).divergence > judge(fine.network).divergence > 0


def test_a_judge_goes_by_the_targets_unless_told(graph):
    pixels, classes = problem(16, seed=4)
    values = TensorSource(pixels, torch.zeros(16, 3), batch_size=16)
    teacher, coarse = make_teacher(graph), student(2, graph).network
    as_values = Judge.of(teacher, values, as_task(metric=lambda outputs, targets: 0.0), CPU)
    told = Judge.of(teacher, TensorSource(pixels, classes, batch_size=16), as_task(outputs="values"), CPU)
    as_logits = Judge.of(teacher, TensorSource(pixels, classes, batch_size=16), as_task(), CPU)
    assert (as_values.task.kind, told.task.kind, as_logits.task.kind) == ("values", "values", "logits")
    coarse.eval()
    with torch.no_grad():
        change = (coarse(pixels) - teacher(pixels)).square().mean() / teacher(pixels).var(correction=0)
    assert as_values(coarse).divergence == pytest.approx(float(change), rel=1e-4)
    assert told(coarse).divergence == as_values(coarse).divergence != as_logits(coarse).divergence


@torch.no_grad()
def test_calibration_hardly_depends_on_which_examples_it_sees(graph):
    """At 8 bits the statistics stay the float network's, though eight examples alone would tell others."""
    trained = graph.module.get_submodule("1").running_mean
    for seed in range(3):
        made = student(8, graph, calibration_examples=8, seed=seed)
        found = made.network.body.get_submodule("1").running_mean
        examples = torch.cat([x for x, _ in stream(made.train_data, 8, seed)])
        sampled = made.network.body.get_submodule("0")(examples).mean((0, 2, 3))
        assert float((found - trained).abs().max()) < 0.2 * float((sampled - trained).abs().max())
