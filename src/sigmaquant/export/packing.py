"""Integers as a dense stream of bits, for every kind of file; weight codes as the checkpoint has them."""

from __future__ import annotations

from math import prod

import numpy as np
from numpy.typing import NDArray

from sigmaquant.errors import CheckpointError
from sigmaquant.numerics import weight_qmax


def pack_bits(values: NDArray[np.integer], bits: int, *, highest_first: bool = False) -> NDArray[np.uint8]:
    """The lowest `bits` bits of each value along the last axis, rounded up to whole bytes once.

    Args:
        values: [..., n]; negative ones are two's complement.
        bits: 1..8.
        highest_first: the first value begins at the highest bit of the first byte, not at the lowest.

    Returns:
        uint8 [..., ceil(n * bits / 8)].

    Example:
        >>> pack_bits(np.array([-1, 2, 7], dtype=np.int8), 4).tobytes().hex()
        '2f07'
        >>> pack_bits(np.array([1, 2, 3]), 3, highest_first=True).tobytes().hex()
        '2980'
    """
    lowest = values.astype(np.uint8)[..., None]
    columns = np.unpackbits(lowest, axis=-1, count=bits, bitorder="little")
    if highest_first:
        columns = columns[..., ::-1]
    stream = columns.reshape(*values.shape[:-1], values.shape[-1] * bits)
    return np.packbits(stream, axis=-1, bitorder="big" if highest_first else "little")


def pack_codes(codes: NDArray[np.int8], bits: int, midrise: bool = False) -> NDArray[np.uint8]:
    """`bits` bits a code, rounded up to whole bytes once.

    Mid-tread codes are stored as ``code + qmax``, mid-rise codes, which are odd, as ``(code + qmax) / 2``.

    Args:
        codes: any shape, in C order.
        bits: 2..8.
        midrise: on which grid the codes lie.

    Returns:
        uint8 [ceil(elements * bits / 8)].

    Raises:
        PlanError: a bitwidth outside the grid's.

    Example:
        >>> pack_codes(np.array([-1, 0, 1, 1], dtype=np.int8), 2).tolist()
        [164]
    """
    qmax = weight_qmax(bits, midrise)
    levels = (codes.astype(np.int16).reshape(-1) + qmax) >> int(midrise)
    return pack_bits(levels, bits)


def unpack_codes(
    packed: NDArray[np.uint8], shape: tuple[int, ...], bits: int, midrise: bool = False
) -> NDArray[np.int8]:
    """Inverse of `pack_codes`.

    Raises:
        CheckpointError: not as many bytes as `shape` needs, or codes outside the grid.
    """
    qmax, elements = weight_qmax(bits, midrise), prod(shape)
    if packed.size != (elements * bits + 7) // 8:
        raise CheckpointError(f"{packed.size} bytes do not hold {elements} codes of {bits} bits. The file is damaged.")
    columns = np.unpackbits(packed, count=elements * bits, bitorder="little").reshape(elements, bits)
    levels = (columns.astype(np.int16) << np.arange(bits)).sum(1)
    codes = (levels << int(midrise)) - qmax
    if elements and int(codes.max()) > qmax:
        raise CheckpointError(f"a code lies outside its {bits}-bit grid. The file is damaged.")
    result: NDArray[np.int8] = codes.astype(np.int8).reshape(shape)
    return result
