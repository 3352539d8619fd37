"""Dense bits, and the checkpoint made of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from sigmaquant.errors import CheckpointError, PlanError, SigmaQuantError
from sigmaquant.export.packed import export_packed, load_packed
from sigmaquant.export.packing import pack_bits, pack_codes, unpack_codes
from sigmaquant.graph import trace
from sigmaquant.lowering import IntegerExecutor, lower
from sigmaquant.plan import BitwidthPlan
from sigmaquant.quant import calibrate_, prepare, set_plan_
from sigmaquant.runs.atomic import save_tensors_atomic
from sigmaquant.runs.weights import load_tensors

GRIDS = st.one_of(st.tuples(st.integers(2, 8), st.just(False)), st.tuples(st.integers(2, 7), st.just(True)))


@given(GRIDS, st.lists(st.integers(0, 255), max_size=50))
def test_round_trip(grid, numbers):
    bits, midrise = grid
    levels = np.array([n % (2**bits - (not midrise)) for n in numbers], dtype=np.int16)
    qmax = 2**bits - 1 if midrise else 2 ** (bits - 1) - 1
    codes = (levels * (1 + midrise) - qmax).astype(np.int8)
    packed = pack_codes(codes, bits, midrise)
    assert packed.nbytes == (len(codes) * bits + 7) // 8
    assert np.array_equal(unpack_codes(packed, codes.shape, bits, midrise), codes)


@given(st.integers(1, 8), st.booleans(), st.lists(st.integers(-128, 127), max_size=30), st.integers(1, 3))
def test_bits_are_where_a_wide_number_has_them(bits, highest_first, numbers, rows):
    """As one long integer, which knows no bytes: the order of the bits is that of its digits."""
    values = np.tile(np.array(numbers, dtype=np.int8), (rows, 1))
    packed = pack_bits(values, bits, highest_first=highest_first)
    assert packed.shape == (rows, -(-len(numbers) * bits // 8))
    fields = [number % 2**bits for number in numbers]
    for row in packed:
        if highest_first:
            stream = sum(field << bits * place for place, field in enumerate(reversed(fields)))
            assert int.from_bytes(row.tobytes(), "big") == stream << -len(fields) * bits % 8
        else:
            stream = sum(field << bits * place for place, field in enumerate(fields))
            assert int.from_bytes(row.tobytes(), "little") == stream


def test_damage_is_noticed():
    packed = pack_codes(np.zeros(4, dtype=np.int8), 4)
    with pytest.raises(CheckpointError, match="2 bytes do not hold 5 codes"):
        unpack_codes(packed, (5,), 4)
    with pytest.raises(CheckpointError, match="outside its 4-bit grid"):
        unpack_codes(np.array([0xFF, 0x77], dtype=np.uint8), (4,), 4)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)
        self.b.weight = self.a.weight
        self.n, self.c = nn.BatchNorm1d(6), nn.Linear(6, 3)

    def forward(self, x):
        return self.c(torch.relu(self.n(self.b(torch.relu(self.a(x))))))


def network(bits=3, midrise_up_to=2, seed=0):
    torch.manual_seed(seed)
    found = prepare(trace(Tied().eval(), (torch.zeros(2, 6),)))
    weights = {name: bits + i for i, name in enumerate(found.graph.layer)}
    plan = BitwidthPlan(weights, dict.fromkeys(found.graph.activation_names, 8), found.graph.fingerprint, midrise_up_to)
    set_plan_(found, plan)
    calibrate_(found, [torch.randn(64, 6)])
    return found.eval()


@pytest.mark.parametrize(("bits", "midrise_up_to"), [(2, 2), (2, 0), (3, 4), (7, 0)])
def test_a_packed_network_comes_back_the_same(tmp_path, bits, midrise_up_to):
    first = network(bits, midrise_up_to)
    export_packed(first, tmp_path / "x.safetensors")
    second = load_packed(Tied(), torch.zeros(2, 6), tmp_path / "x.safetensors")
    assert second.plan == first.plan
    x = torch.randn(16, 6, generator=torch.Generator().manual_seed(1))
    for name in first.graph.layer:
        assert torch.equal(first.codes(name), second.codes(name))
    assert torch.equal(first(x), second(x))
    assert torch.equal(IntegerExecutor(lower(first))(x), IntegerExecutor(lower(second))(x))


def test_codes_take_their_bits(tmp_path):
    export_packed(network(2), tmp_path / "x.safetensors")
    tensors, metadata = load_tensors(tmp_path / "x.safetensors")
    sizes = {name: t.numel() for name, t in tensors.items() if name.endswith(".codes")}
    assert sizes == {"a.codes": 36 * 2 // 8, "c.codes": (18 * 3 + 7) // 8}
    assert metadata["format"] == "sigmaquant.packed"
    assert not any(name.endswith(".weight") and name[0] in "abc" for name in tensors)


def test_what_is_no_packed_checkpoint_of_this_model_is_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    export_packed(network(), path)
    content = path.read_bytes()
    path.write_bytes(content[:-5])
    with pytest.raises(CheckpointError, match="cut short or damaged"):
        load_packed(Tied(), torch.zeros(2, 6), path)
    path.write_bytes(content)
    with pytest.raises((CheckpointError, PlanError)):
        load_packed(nn.Sequential(nn.Linear(6, 6)), torch.zeros(2, 6), path)
    tensors, metadata = load_tensors(path)
    for change, message in (
        ({"a.codes": tensors["a.codes"][:-1]}, r"layer 'a': 13 bytes do not hold 36 codes of 3 bits"),
        ({"a.weight_quantizer.scale": -tensors["a.weight_quantizer.scale"]}, "a scale of layer 'a' is not positive"),
        ({"c.codes": None}, "codes or scales of layer 'c' are missing"),
    ):
        changed = {k: v for k, v in {**tensors, **change}.items() if v is not None}
        save_tensors_atomic(path, changed, metadata)
        with pytest.raises(CheckpointError, match=message):
            load_packed(Tied(), torch.zeros(2, 6), path)
    save_tensors_atomic(path, tensors, {"format": "other"})
    with pytest.raises(CheckpointError, match="no packed checkpoint"):
        load_packed(Tied(), torch.zeros(2, 6), path)


def test_a_network_without_a_plan_is_refused(tmp_path):
    with pytest.raises(SigmaQuantError, match="no plan yet"):
        export_packed(prepare(trace(Tied().eval(), (torch.zeros(2, 6),))), tmp_path / "x")
    assert not list(tmp_path.iterdir())
