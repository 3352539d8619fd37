"""Packed indices as the runtime's operator reads them."""

from __future__ import annotations

import numpy as np
import pytest

from sigmaquant.export.packing import pack_bits
from sigmaquant.export.tflm.decode import ancillary, index_bits


@pytest.mark.parametrize("bits", range(1, 8))
def test_indices_come_back(bits):
    """Bit by bit from the first byte's highest."""
    indices = np.random.default_rng(bits).integers(0, 2**bits, 37)
    data = pack_bits(indices, bits, highest_first=True).tobytes()
    assert len(data) == -(-37 * bits // 8)
    number = int.from_bytes(data, "big") >> (8 * len(data) - 37 * bits)
    found = [(number >> (bits * (36 - k))) & (2**bits - 1) for k in range(37)]
    assert found == indices.tolist()


def test_the_head_says_one_table_for_all_channels():
    data = ancillary(np.array([-3, -1, 1], dtype=np.int8), 2)
    assert list(data[:16]) == [0, 1, 0, 0, 1, 2, 0, *[0] * 9]
    assert list(np.frombuffer(data[16:], np.int8)) == [-3, -1, 1, 1]


@pytest.mark.parametrize(("count", "bits"), [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3), (128, 7), (129, 8)])
def test_bits_tell_values_apart(count, bits):
    assert index_bits(np.arange(count).astype(np.uint8).view(np.int8)) == bits
