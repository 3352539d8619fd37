"""Padding counts for nothing: neither in ranges, nor in moments, nor in distances to the float network."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from training_cases import CPU

from sigmaquant.data import TensorSource
from sigmaquant.graph import trace
from sigmaquant.graph.specs import QuantGraph
from sigmaquant.numerics import activation_range
from sigmaquant.plan import BitwidthPlan
from sigmaquant.quant import QuantizedNetwork, calibrate_, counted_positions, input_moments, prepare, set_plan_
from sigmaquant.quant.observers import ExampleObserver
from sigmaquant.reconstruction import Reconstruction
from sigmaquant.statistics.fisher import fisher_sensitivities
from sigmaquant.statistics.output_sensitivity import output_sensitivity
from sigmaquant.tasks import Task, TokenTagging, as_task, counting, leaves, mean_distance, parts_of
from sigmaquant.training.losses import Distillation
from sigmaquant.training.student import Judge
from sigmaquant.training.teacher import make_teacher

WORDS, WIDTH, CLASSES = 30, 8, 5
LENGTHS = (3, 4, 2, 6, 3, 5)
LONGEST = 9


class Tagger(nn.Module):
    """A class for each word, by one attention with a mask of padding."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.qkv, self.out = (
            nn.Embedding(WORDS, WIDTH),
            nn.Linear(WIDTH, 3 * WIDTH),
            nn.Linear(WIDTH, CLASSES),
        )
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, words: Tensor, mask: Tensor) -> Tensor:
        x = self.words(words)
        q, k, v = self.qkv(x).chunk(3, -1)
        scores = (q @ k.transpose(1, 2)).masked_fill(~mask.bool()[:, None, :], -1e9)
        return self.out(self.norm(x + scores.softmax(-1) @ v))


@pytest.fixture(scope="module")
def sentences() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(1, WORDS - 1, (length,), generator=generator) for length in LENGTHS]


def padded(
    sentences: list[Tensor], length: int, filling: int, kind: torch.dtype = torch.int64
) -> tuple[Tensor, Tensor]:
    """Words and mask; a word of its own stands at the padded positions, whose row is far out of line."""
    words = torch.full((len(sentences), length), filling)
    mask = torch.zeros(len(sentences), length, dtype=kind)
    for row, sentence in enumerate(sentences):
        words[row, : len(sentence)], mask[row, : len(sentence)] = sentence, 1
    return words, mask


def tagger() -> Tagger:
    torch.manual_seed(1)
    found = Tagger().eval()
    with torch.no_grad():
        found.words.weight[WORDS - 1] = 40.0  # what padding holds would widen every range
        found.words.weight[WORDS - 1, ::2] = -40.0
    return found


@pytest.fixture(scope="module")
def graph(sentences: list[Tensor]) -> QuantGraph:
    return trace(tagger(), padded(sentences, LONGEST, WORDS - 1))


def network_of(graph: QuantGraph, bits: int = 4) -> QuantizedNetwork:
    network = prepare(graph)
    plan = BitwidthPlan(dict.fromkeys(graph.layer, bits), dict.fromkeys(graph.activation_names, 8), graph.fingerprint)
    set_plan_(network, plan)
    return network.eval()


@pytest.mark.parametrize("kind", [torch.int64, torch.int32, torch.bool])
def test_the_mask_is_found_whatever_its_type(sentences: list[Tensor], kind: torch.dtype) -> None:
    words, mask = padded(sentences, LONGEST, 0, kind)
    module = trace(tagger(), (words, mask)).module
    assert torch.equal(counted_positions(module, (words, mask)), mask.bool())


def test_ranges_are_those_of_the_words(graph: QuantGraph, sentences: list[Tensor]) -> None:
    grids = []
    for filling in (WORDS - 1, 1):
        network = network_of(graph)
        calibrate_(network, [padded(sentences, LONGEST, filling)], ExampleObserver)
        grids.append({name: (q.scale.item(), q.zero_point) for name, q in network.activation_quantizers.items()})
    assert grids[0] == grids[1]
    low, high = activation_range(8)
    assert all(scale * (high - low) < 30 for scale, _ in grids[0].values())  # where padding counts, it is 80


def test_moments_are_those_of_the_words(graph: QuantGraph, sentences: list[Tensor]) -> None:
    network = network_of(graph)
    calibrate_(network, [padded(sentences, LONGEST, 1)])
    ones, others = (input_moments(network, [padded(sentences, LONGEST, filling)]) for filling in (1, WORDS - 1))
    assert set(ones) == {"qkv", "out"}
    assert all(torch.allclose(ones[name], others[name]) for name in ones)


@pytest.mark.parametrize("task", [TokenTagging(), as_task(outputs="values")], ids=["tagging", "values"])
def test_a_padded_batch_is_as_far_from_the_float_network_as_its_sentences(
    graph: QuantGraph, sentences: list[Tensor], task: Task
) -> None:
    network, teacher = network_of(graph), graph.module
    calibrate_(network, [padded(sentences, LONGEST, 1)])
    inputs = padded(sentences, LONGEST, WORDS - 1)
    with torch.no_grad():
        found, wanted = network(*inputs), teacher(*inputs)
        own = counting(task, counted_positions(graph.module, inputs)).distance(found, wanted)
        for row, length in enumerate(LENGTHS):
            one, other = found[row : row + 1, :length], wanted[row : row + 1, :length]
            if isinstance(task, TokenTagging):
                assert float(own[row]) == pytest.approx(float(task.distance(one, other)), rel=1e-5)
        part, counted = parts_of(task, wanted)[0], inputs[1].bool()
        if part.kind == "values":  # relative to the variance of all words
            variance = wanted[counted].var(correction=0)
            each = torch.stack([(found - wanted)[row, :n].square().mean() for row, n in enumerate(LENGTHS)])
            assert torch.allclose(own, each / variance)
        assert not torch.allclose(own, task.distance(found, wanted))


def test_scores_and_losses_go_by_the_words(graph: QuantGraph, sentences: list[Tensor]) -> None:
    network = network_of(graph)
    calibrate_(network, [padded(sentences, LONGEST, 1)])
    figures = []
    for filling in (WORDS - 1, 1):
        inputs = padded(sentences, LONGEST, filling)
        source = TensorSource(inputs, torch.zeros(len(LENGTHS), LONGEST, dtype=torch.int64), batch_size=4)
        judged = Judge.of(make_teacher(graph), source, TokenTagging(), CPU)(network)
        counted = counted_positions(graph.module, inputs)
        loss = Distillation(task=TokenTagging()).counting(counted)(network(*inputs), graph.module(*inputs), inputs[0])
        figures.append((judged.divergence, float(loss)))
        assert judged.divergence == pytest.approx(
            float(mean_distance(counting(TokenTagging(), counted), network(*inputs), graph.module(*inputs))), rel=1e-4
        )
    assert figures[0] == pytest.approx(figures[1], rel=1e-5)
    assert figures[0][0] > 0


def test_sensitivities_go_by_the_words(graph: QuantGraph, sentences: list[Tensor]) -> None:
    found = []
    for filling in (WORDS - 1, 1):
        batch = (padded(sentences, LONGEST, filling), None)
        harm = output_sensitivity(graph, (3,), [batch], task=TokenTagging())
        curvature = fisher_sensitivities(graph, (3,), [batch], task=TokenTagging(), draws=8).curvature
        found.append({name: (harm[name][3], curvature[name][3]) for name in ("qkv", "out")})
    for name in found[0]:
        assert found[0][name] == pytest.approx(found[1][name], rel=1e-4)


def test_what_is_learned_goes_by_the_words(graph: QuantGraph, sentences: list[Tensor]) -> None:
    found = []
    for filling in (WORDS - 1, 1):
        network = network_of(graph)
        calibrate_(network, [padded(sentences, LONGEST, 1)])
        reconstruction = Reconstruction(network, [padded(sentences, LONGEST, filling)], TokenTagging(), 0)
        reconstruction.begin(1)
        found.append([x for _ in reconstruction.blocks for x in reconstruction.learn(2)])
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-4)
    assert found[0] == pytest.approx(found[1], rel=0.1)  # steps go by the sizes of all values
    assert any(before > after for before, after in zip(found[0][::2], found[0][1::2], strict=True))


def test_a_distance_of_ones_own_sees_nothing_at_padding() -> None:
    class Own(Task):
        name = "own"

        def distance(self, outputs: Tensor, reference: Tensor, temperature: float = 1.0) -> Tensor:
            return (outputs - reference).abs().flatten(1).sum(1)

    counted = torch.tensor([[True, False], [True, True]])
    task = counting(Own(), counted)
    assert task.own_distance
    assert task.distance(torch.ones(2, 2, 3), torch.zeros(2, 2, 3)).tolist() == [3.0, 6.0]
    assert len(leaves(task.outputs(torch.ones(2, 2, 3)))) == 1
