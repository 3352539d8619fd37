"""Weight codes as packed rows, the way the kernels unpack them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sigmaquant.export.packing import pack_bits
from sigmaquant.numerics import weight_qmax


def pack_rows(codes: NDArray[np.int8], bits: int, midrise: bool) -> NDArray[np.uint8]:
    """`bits` bits a code, the first in the lowest bits of the first byte; every row begins at a byte.

    Mid-tread codes are two's complement, a mid-rise code ``2 u - (2**bits - 1)`` is stored as ``u``.

    Args:
        codes: [rows, n].
        bits: 2..8.
        midrise: on which grid the codes lie.

    Returns:
        uint8 [rows, ceil(n * bits / 8)].

    Example:
        >>> pack_rows(np.array([[-1, 0, 1]], dtype=np.int8), 2, False).tolist()
        [[19]]
    """
    wide = codes.astype(np.int16)
    return pack_bits((wide + weight_qmax(bits, midrise)) >> 1 if midrise else wide, bits)
