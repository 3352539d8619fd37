"""Weights of less than 8 bits through the runtime's operator TFLM_DECODE, which unpacks them for their kernel.

Its inputs are the packed indices, the first in the highest bits, and ancillary data: a head of 16 bytes and the table
of values. One table serves all channels where the head says that the tables of two channels are 0 bytes apart; the
runtime takes channels along the first axis or the last. (Format: TFLM DECODE operator, revision of May 20, 2025, as in
the package's own `compression` module.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sigmaquant.export.litert.flatbuffer import FlatGraph
from sigmaquant.export.packing import pack_bits

OPERATOR = "TFLM_DECODE"
MOST_BITS = 7
_HEAD = 16
_LOOKUP, _HEAD_VERSION, _LOOKUP_VERSION, _STRIDE = 0, 1, 1, 0
_READERS = {"CONV_2D": 1, "DEPTHWISE_CONV_2D": 1, "FULLY_CONNECTED": 1, "DEQUANTIZE": 0}
"""Operators that read weights, and which of their inputs these are."""
_OVERHEAD = 220
"""Bytes that an operator and its tensors take in the file: what packing must save to be worth it."""


@dataclass(frozen=True)
class Packed:
    """A weight as the file holds it.

    Attributes:
        name: of its tensor.
        bits: of an index.
        stored_bytes: of indices and table.
    """

    name: str
    bits: int
    stored_bytes: int


def index_bits(values: NDArray[np.int8]) -> int:
    """Bits that tell so many different values apart; at least one."""
    return max(1, math.ceil(math.log2(len(np.unique(values)))))


def ancillary(table: NDArray[np.int8], bits: int) -> bytes:
    """Head and table, which is filled up to one value for each index of so many bits."""
    head = bytearray(_HEAD)
    head[0], head[1], head[4], head[5], head[6] = _LOOKUP, _HEAD_VERSION, _LOOKUP_VERSION, bits, _STRIDE
    return bytes(head) + np.pad(table, (0, 2**bits - len(table)), mode="edge").tobytes()


def pack_weights(graph: FlatGraph) -> tuple[Packed, ...]:
    """Pack every constant weight of 8 bits that has few values, where the file becomes smaller; the values stay.

    Args:
        graph: changed in place.

    Returns:
        what was packed, each tensor once.
    """
    known: dict[int, tuple[int, int]] = {}
    tables: dict[bytes, int] = {}
    found: list[Packed] = []
    place = 0
    while place < len(graph.operators):
        operator = graph.operators[place]
        which = _READERS.get(graph.code(operator))
        weight = -1 if which is None else int(operator.inputs[which])
        if weight in known or (weight >= 0 and _is_worth_it(graph, weight)):
            first = weight not in known
            if first:
                known[weight] = _encoded(graph, weight, tables, found)
            output = weight if first else graph.without_data(weight)
            graph.insert_custom(place, OPERATOR, known[weight], (output,))
            operator.inputs[which] = output
            place += 1
        place += 1
    return tuple(found)


def _is_worth_it(graph: FlatGraph, tensor: int) -> bool:
    values = _values(graph, tensor)
    if values is None or not values.size:
        return False
    bits = index_bits(values)
    saved = values.size - -(-values.size * bits // 8) - _HEAD - 2**bits
    return bits <= MOST_BITS and saved > _OVERHEAD


def _values(graph: FlatGraph, tensor: int) -> NDArray[np.int8] | None:
    """The elements of a constant of 8 bits."""
    if not graph.contents[tensor] or graph.tensors[tensor].type != graph.schema.TensorType.INT8:
        return None
    return np.frombuffer(graph.contents[tensor], dtype=np.int8)


def _encoded(graph: FlatGraph, tensor: int, tables: dict[bytes, int], found: list[Packed]) -> tuple[int, int]:
    """The tensors of a weight's indices and table; the weight's own loses its data."""
    values = _values(graph, tensor)
    assert values is not None, "only constants are packed"
    table, indices = np.unique(values, return_inverse=True)
    bits = index_bits(values)
    data, head = pack_bits(indices.reshape(-1), bits, highest_first=True).tobytes(), ancillary(table, bits)
    if head not in tables:
        tables[head] = graph.tensor(f"table.{bits}", (len(head),), "UINT8", data=head)
    name = graph.name(tensor)
    found.append(Packed(name, bits, len(data) + len(head)))
    graph.contents[tensor] = b""
    return graph.tensor(f"{name}.packed", (len(data),), "UINT8", data=data), tables[head]
