"""Inputs of integers: embeddings, and masks that are computed from them; in the reference and in every file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sigmaquant.errors import DataError
from sigmaquant.export.fidelity import FidelityCheck
from sigmaquant.export.targets import TARGETS, ExportOptions, Source
from sigmaquant.export.verification import Reference
from sigmaquant.graph import trace
from sigmaquant.lowering import IntegerExecutor, IntegerModel, lower
from sigmaquant.operators import Embedding, Recode, Softmax
from sigmaquant.plan import BitwidthPlan
from sigmaquant.quant import QuantizedNetwork, calibrate_, prepare, set_plan_

WORDS, LENGTH, WIDTH = 40, 6, 8
Masking = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Scores, the mask of 0 and 1, and the words, to masked scores."""


class Net(nn.Module):
    """Words, positions and kinds, then one attention with a mask."""

    def __init__(self, masking: Masking) -> None:
        super().__init__()
        self.words, self.positions = nn.Embedding(WORDS, WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, 3)
        self.masking = masking

    def forward(self, words: Tensor, mask: Tensor) -> Tensor:
        x = self.words(words) * 2.0 + self.positions(torch.arange(words.shape[1]))
        q, k, v = self.qkv(x).chunk(3, -1)
        scores = self.masking(q @ k.transpose(1, 2), mask, words)
        return self.out(scores.softmax(-1) @ v)


def causal(scores: Tensor, mask: Tensor, words: Tensor) -> Tensor:
    size = scores.shape[-1]
    allowed = torch.ones(size, size, dtype=torch.bool).tril() & (mask[:, None, :] > 0)
    return torch.where(allowed, scores, torch.finfo(torch.float32).min)


MASKS: dict[str, Masking] = {
    "added": lambda s, m, w: s + (1.0 - m[:, None, :].float()) * -10000.0,
    "filled": lambda s, m, w: s.masked_fill(m.unsqueeze(1) == 0, -1e9),
    "where, causal": causal,
    "of the words": lambda s, m, w: s.masked_fill((w == 0)[:, None, :], float("-inf")),
    "of both positions": lambda s, m, w: s.masked_fill(~(m[:, None, :].bool()), -1e9).masked_fill(
        torch.ones(LENGTH, LENGTH).triu(1).bool(), -1e9
    ),
}
REFUSED: dict[str, Masking] = {
    "lengths": lambda s, m, w: s.masked_fill(torch.arange(LENGTH) >= m.sum(1)[:, None, None], -1e9),
    "another's": lambda s, m, w: s.masked_fill(m.flip(0)[:, None, :] == 0, -1e9),
    "a soft one": lambda s, m, w: s + (1.0 - m[:, None, :].float()) * -3.0,
}


def data(count: int) -> tuple[Tensor, Tensor]:
    """Words, and a mask with at least one place; masked places have the word 0."""
    generator = torch.Generator().manual_seed(count)
    lengths = torch.randint(1, LENGTH + 1, (count, 1), generator=generator)
    mask = (torch.arange(LENGTH) < lengths).long()
    return torch.randint(1, WORDS, (count, LENGTH), generator=generator) * mask, mask


def quantized(masking: Masking, bits: int = 8) -> tuple[QuantizedNetwork, IntegerModel]:
    torch.manual_seed(0)
    graph = trace(Net(masking).eval(), data(2))
    network = prepare(graph)
    plan = BitwidthPlan(dict.fromkeys(graph.layer, bits), dict.fromkeys(graph.activation_names, 8))
    set_plan_(network, plan)
    calibrate_(network, [data(32)])
    return network, lower(network.eval())


@pytest.mark.parametrize("name", MASKS)
def test_masks_are_integers(name: str) -> None:
    network, model = quantized(MASKS[name])
    assert model.float_operators == ()
    assert FidelityCheck(network, model).run([data(9)]) is None
    (softmax,) = (operator for operator in model.operators if isinstance(operator, Softmax))
    assert len(softmax.inputs) == 2 or name == "of both positions"


def test_what_takes_no_part_is_nothing() -> None:
    _, model = quantized(MASKS["filled"])
    (softmax,) = (operator for operator in model.operators if isinstance(operator, Softmax))
    seen: dict[str, Tensor] = {}
    executor = IntegerExecutor(model)
    words, mask = data(9)
    executor.run_codes(
        *executor.quantize_inputs(words, mask), watch=lambda edge, codes: seen.update({edge.name: codes})
    )
    shares, zero = seen[softmax.output], model.edges[softmax.output].zero_point
    assert bool((shares[~mask.bool()[:, None, :].expand_as(shares)] == zero).all())
    other = words.masked_fill(mask == 0, 7)
    assert torch.equal(executor(words, mask)[:, :1], executor(other, mask)[:, :1])  # whatever stands there


@pytest.mark.parametrize("name", REFUSED)
def test_other_masks_are_listed(name: str) -> None:
    torch.manual_seed(0)
    assert trace(Net(REFUSED[name]).eval(), data(3)).float_operators


@pytest.mark.parametrize("bits", range(2, 9))
def test_tables_of_all_widths(bits: int) -> None:
    network, model = quantized(MASKS["filled"], bits)
    table = next(operator for operator in model.operators if isinstance(operator, Embedding))
    assert (table.bits, table.codes.shape, len(table.scale)) == (bits, (WORDS, WIDTH), WORDS)
    assert any(isinstance(operator, Recode) for operator in model.operators)
    words, mask = data(9)
    assert FidelityCheck(network, model).run([(words, mask)]) is None


@pytest.mark.parametrize("target", ["onnx", "litert", "c"])
@pytest.mark.parametrize(("name", "bits"), [("where, causal", 3), ("added", 8), ("of the words", 2)])
def test_files_compute_the_same(target: str, name: str, bits: int, tmp_path: Path) -> None:
    network, model = quantized(MASKS[name], bits)
    kind, options = TARGETS[target], ExportOptions()
    kind.write(network, model, tmp_path / kind.file, options)
    form = model if kind.form is None else kind.form(model, options)
    inputs, outputs = (tuple(model.edges[edge] for edge in names) for names in (model.inputs, model.outputs))
    source = Source(network.graph.module, data(2), inputs, data(1), outputs)
    found = Reference(form, [data(40)], "values").agreement(kind.runner(tmp_path / kind.file, source))
    assert found.largest_steps <= (0 if kind.exact else 1)
    assert found.equal > 0.9


def test_integers_out_of_range_are_told() -> None:
    _, model = quantized(MASKS["filled"])
    words, mask = data(3)
    executor = IntegerExecutor(model)
    with pytest.raises(DataError, match=rf"input 'words' holds the integer {WORDS}.*a table of {WORDS} rows"):
        executor(words + WORDS - int(words.max()), mask)
    with pytest.raises(DataError, match=r"input 'mask' holds the integer 2.*a mask of 0 and 1"):
        executor(words, mask * 2)
    with pytest.raises(DataError, match="holds integers, but was given float32"):
        executor(words, mask.float())


def test_padding_does_not_count_in_calibration() -> None:
    words, mask = data(32)
    ranges = []
    for stray in (0, WORDS - 1):  # what stands where nothing counts, with a row that is far from all others
        torch.manual_seed(0)
        net = Net(MASKS["added"]).eval()
        net.words.weight.data[WORDS - 1] *= 50
        words = words.clamp(max=WORDS - 2)
        graph = trace(net, data(2))
        network = prepare(graph)
        plan = BitwidthPlan(dict.fromkeys(graph.layer, 8), dict.fromkeys(graph.activation_names, 8))
        set_plan_(network, plan)
        calibrate_(network, [(words.masked_fill(mask == 0, stray), mask)])
        ranges.append([(float(q.scale), q.zero_point) for q in network.activation_quantizers.values()])
    assert ranges[0] == ranges[1]


def test_indices_that_no_row_has_are_told_in_calibration() -> None:
    network, _ = quantized(MASKS["filled"])
    with pytest.raises(DataError, match=rf"an embedding of {WORDS} rows was given the indices 0\.\.{WORDS}"):
        calibrate_(network, [(torch.full((2, LENGTH), WORDS).tril(), torch.ones(2, LENGTH).long())])
