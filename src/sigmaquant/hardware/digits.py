"""Non-zero digits of integer weights: what serial multipliers spend their cycles and energy on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from sigmaquant.graph.specs import QuantGraph
from sigmaquant.hardware.profile import CycleRule, Encoding
from sigmaquant.numerics import mse_weight_scales, quantize_weight


@dataclass(frozen=True)
class DigitStatistics:
    """Means over a layer's weights.

    Attributes:
        digits_per_mac: non-zero digits of a weight.
        cycles_per_mac: cycles of a weight under a `CycleRule`.
    """

    digits_per_mac: float
    cycles_per_mac: float


def nonzero_digits(code: int, encoding: Encoding, bits: int) -> int:
    """Non-zero digits of one code of `bits` bits.

    ``csd``: canonical signed digits (non-adjacent form, Reitwiesner 1960), the fewest of all signed-digit forms;
    ``binary``: ones of the two's complement; ``booth4``: non-zero radix-4 Booth digits of the two's complement.

    Example:
        >>> [nonzero_digits(7, encoding, 4) for encoding in ("csd", "binary", "booth4")]
        [2, 3, 2]
    """
    word = code & ((1 << bits) - 1)
    if encoding == "csd":
        return (code ^ (3 * code)).bit_count() if code >= 0 else nonzero_digits(-code, "csd", bits)
    if encoding == "binary":
        return word.bit_count()
    if bits % 2:
        word |= (word >> (bits - 1)) << bits  # Booth digits come in pairs of bits: extend the sign
    extended = word << 1
    triples = [(extended >> shift) & 7 for shift in range(0, bits, 2)]
    return sum(triple not in (0, 7) for triple in triples)


def digit_statistics(codes: Tensor, encoding: Encoding, bits: int, rule: CycleRule | None) -> DigitStatistics:
    """Mean digits and cycles of integer codes.

    Args:
        codes: int8, any shape.
        encoding: of the weights.
        bits: their bitwidth.
        rule: cycles of a single weight.
    """
    counts = torch.bincount(codes.flatten().to(torch.int64) + 128, minlength=256).cpu().double()
    share = counts / counts.sum()
    digits, cycles = _tables(encoding, bits, rule)
    return DigitStatistics(float(share @ digits), float(share @ cycles))


@cache
def _tables(encoding: Encoding, bits: int, rule: CycleRule | None) -> tuple[Tensor, Tensor]:
    digits = torch.tensor([nonzero_digits(code, encoding, bits) for code in range(-128, 128)], dtype=torch.float64)
    return digits, torch.tensor([cycles_of(int(count), bits, rule) for count in digits], dtype=torch.float64)


def cycles_of(digits: int, bits: int, rule: CycleRule | None) -> int:
    """Cycles of one weight with so many non-zero digits.

    Example:
        >>> [cycles_of(0, 5, CycleRule(rule=rule)) for rule in ("constant", "digits", "bits", "booth_digits")]
        [1, 1, 5, 3]
    """
    if rule is None:
        return 1
    spent = {"constant": 1, "digits": digits, "bits": bits, "booth_digits": (bits + 1) // 2}[rule.rule]
    return max(rule.minimum, spent)


def weight_digits(
    graph: QuantGraph, name: str, bits: int, encoding: Encoding, rule: CycleRule | None, midrise: bool = False
) -> DigitStatistics:
    """Digits of a layer's float weight as it would be quantized now."""
    axis = graph.layer[name].channel_axis
    weight = graph.weight(name).detach()
    scales = mse_weight_scales(weight, bits, axis, midrise=midrise)
    codes = quantize_weight(weight, scales, bits, axis, midrise)
    return digit_statistics(codes, encoding, bits + midrise, rule)
