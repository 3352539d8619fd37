"""Where blocks begin and end, and that running them is running the network."""

from __future__ import annotations

import pytest
import torch
from reconstruction_cases import Attention, Convolutional, Dense, Recurrent, examples, rounded
from torch import nn

from sigmaquant.quant import QuantizedNetwork
from sigmaquant.reconstruction.blocks import Block, find_blocks, left_alone, run_block, whole_network

CASES = [
    (Convolutional, (3, 6, 6)),
    (Attention, (4, 6)),
    (Dense, (3, 5, 5)),
    (Recurrent, (4, 6)),
]


def through_blocks(network: QuantizedNetwork, blocks: tuple[Block, ...], x: torch.Tensor) -> torch.Tensor:
    values = {node.name: x for node in network.body.graph.nodes if node.op == "placeholder"}
    for block in blocks:
        assert {node.name for node in block.inputs} <= set(values)
        values.update(run_block(block, network.body, values))
    (returned,) = network.body.graph.output_node().all_input_nodes
    return values[returned.name]


@pytest.mark.parametrize(("kind", "shape"), CASES)
def test_blocks_one_after_the_other_are_the_network(kind: type[nn.Module], shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x = examples(8, *shape)
    network = rounded(kind(), x)
    blocks = find_blocks(network)
    assert torch.equal(through_blocks(network, blocks, x), network(x))
    learned = [name for block in blocks for name in block.layers]
    assert len(learned) == len(set(learned))
    assert sorted((*learned, *left_alone(network.graph, blocks))) == sorted(spec.name for spec in network.graph.layers)


def test_residual_blocks_end_where_a_single_tensor_passes_on() -> None:
    blocks = find_blocks(rounded(Convolutional(), examples(8, 3, 6, 6)))
    assert [block.layers for block in blocks] == [
        ("stem", "first.expand", "first.depthwise", "first.project"),
        ("second.expand", "second.depthwise", "second.project"),
        ("head",),
    ]
    assert [len(block.inputs) for block in blocks] == [1, 1, 1]
    assert [block.last for block in blocks] == [False, False, True]


def test_dense_blocks_are_cut_though_several_tensors_pass_on() -> None:
    blocks = find_blocks(rounded(Dense(), examples(8, 3, 5, 5)))
    assert [len(block.layers) for block in blocks] == [6, 2]
    assert len(blocks[0].outputs) > 1


def test_recurrent_matrices_are_left_alone() -> None:
    network = rounded(Recurrent(), examples(8, 4, 6))
    alone = left_alone(network.graph, find_blocks(network))
    assert alone
    assert alone == tuple(spec.name for spec in network.graph.layers if spec.kind == "recurrent")


def test_a_weight_that_several_blocks_use_is_left_alone() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shared, self.between, self.other = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = torch.relu(self.between(torch.relu(self.shared(x))))
            return torch.relu(self.shared(torch.relu(self.other(y))))

    network = rounded(Twice(), examples(8, 6))
    assert left_alone(network.graph, find_blocks(network)) == ("shared",)
    assert whole_network(network).layers == ("shared", "between", "other")


@pytest.mark.parametrize(("kind", "shape"), CASES)
def test_the_whole_network_as_one_block_is_the_network(kind: type[nn.Module], shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x = examples(8, *shape)
    network = rounded(kind(), x)
    whole = whole_network(network)
    assert torch.equal(through_blocks(network, (whole,), x), network(x))
    assert set(whole.layers) >= {name for block in find_blocks(network) for name in block.layers}
    assert whole.last
