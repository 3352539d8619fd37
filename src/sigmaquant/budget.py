"""`Cost`, what a plan costs; `Budget`, what the user allows; `Limits`, the budget in absolute numbers."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Literal

from sigmaquant.errors import BudgetError
from sigmaquant.units import (
    AccuracyTarget,
    Ratio,
    parse_accuracy,
    parse_count,
    parse_energy_pj,
    parse_latency_ms,
    parse_size,
)

RESOURCES = ("size_bytes", "energy_pj", "latency_ms", "bops", "macs", "ram_bytes", "flash_bytes")
"""Names of the costs that a budget can limit, in the order in which ties between them are broken."""

LABELS = {
    "size_bytes": "size",
    "energy_pj": "energy",
    "latency_ms": "latency",
    "bops": "bit operations",
    "macs": "multiply-accumulates",
    "ram_bytes": "activation memory",
    "flash_bytes": "flash",
}
"""The costs in words, for messages."""

RESOURCE = {
    "size": "size_bytes",
    "energy": "energy_pj",
    "latency": "latency_ms",
    "bops": "bops",
    "macs": "macs",
    "ram": "ram_bytes",
    "flash": "flash_bytes",
}
"""Names of limits and of the costs they limit."""


def base_resource(name: str) -> str:
    """A cost's name in `RESOURCES`, without the operating point.

    Example:
        >>> base_resource("latency_ms@fast")
        'latency_ms'
    """
    return name.partition("@")[0]


def label(name: str) -> str:
    """A cost in words, with its operating point where it has one.

    Example:
        >>> label("latency_ms@fast")
        'latency at fast'
    """
    base, _, point = name.partition("@")
    return LABELS.get(base, base) + (f" at {point}" if point else "")


_SMALLEST_FLOOR = 0.01
_FLOAT_BITS = 32
_EXACT = 1e-6  # a third has no end in decimals

SizeCounts = Literal["total", "weights", "onnx", "litert", "tflm", "c"]
FILES = ("onnx", "litert", "tflm", "c")
"""Of what a size limit can count, the kinds of files; of C the constants."""


@dataclass(frozen=True)
class PointCost:
    """What a plan costs at one operating point of a device.

    Attributes:
        name: of the point.
        energy_pj: energy of one inference in picojoules, as far as the profile gives it.
        latency_ms: time of one inference in milliseconds, likewise.
    """

    name: str
    energy_pj: float | None = None
    latency_ms: float | None = None


@dataclass(frozen=True)
class Cost:
    """What one plan costs on one hardware profile. `None`: the profile does not give that quantity.

    Attributes:
        weight_bytes: packed integer codes of all quantized weights, each layer rounded up to whole bytes.
        scale_bytes: float32 scales of weights and activations, and the activations' zero-points.
        other_bytes: biases and every parameter that is not quantized.
        bops: bit operations, the sum of MACs x weight bits x activation bits.
        ram_bytes: peak activation memory; on a microcontroller that of the exported C program: arena, inputs, outputs.
        flash_bytes: of that program: constants and code.
        file_bytes: of the file that a size limit counts; None: it counts none.
        energy_pj: energy of one inference in picojoules.
        latency_ms: time of one inference in milliseconds.
        cycles: clock cycles of one inference.
        operating_points: energy and latency at each operating point of the profile.
        macs: multiply-accumulates of one inference, which no bitwidth changes.
    """

    weight_bytes: int
    scale_bytes: int
    other_bytes: int
    bops: float | None = None
    ram_bytes: int | None = None
    energy_pj: float | None = None
    latency_ms: float | None = None
    cycles: float | None = None
    operating_points: tuple[PointCost, ...] = ()
    flash_bytes: int | None = None
    file_bytes: int | None = None
    macs: int | None = None

    @property
    def total_bytes(self) -> int:
        """Everything that has to be stored: codes, scales, biases and unquantized parameters."""
        return self.weight_bytes + self.scale_bytes + self.other_bytes

    def resource(self, name: str, size_counts: SizeCounts = "total") -> float | None:
        """The cost under one of the names in `RESOURCES`; at an operating point, as in ``"latency_ms@fast"``."""
        if name == "size_bytes":
            if size_counts in FILES:
                return None if self.file_bytes is None else float(self.file_bytes)
            return float(self.weight_bytes if size_counts == "weights" else self.total_bytes)
        base, _, at = name.partition("@")
        owner = next((point for point in self.operating_points if point.name == at), None) if at else self
        value = None if owner is None else getattr(owner, base)
        return None if value is None else float(value)

    def to_dict(self) -> dict[str, Any]:
        """All quantities and the total, for JSON; operating points where the profile has some."""
        document = {**self.__dict__, "total_bytes": self.total_bytes}
        del document["operating_points"]
        for name in ("flash_bytes", "file_bytes", "macs"):
            if document[name] is None:
                del document[name]
        if self.operating_points:
            document["operating_points"] = [dict(point.__dict__) for point in self.operating_points]
        return document


@dataclass(frozen=True)
class Limits:
    """A budget in absolute numbers.

    Attributes:
        upper: largest allowed cost by resource name (keys of `RESOURCES`).
        accuracy_floor: lowest allowed metric, or None.
        size_counts: which bytes ``size_bytes`` counts.
    """

    upper: Mapping[str, float]
    accuracy_floor: float | None = None
    size_counts: SizeCounts = "total"

    def to_dict(self) -> dict[str, float]:
        """The limits by name, the floor as ``"accuracy"``; for JSON."""
        floor = {} if self.accuracy_floor is None else {"accuracy": self.accuracy_floor}
        return {**self.upper, **floor}

    def ratios(self, cost: Cost) -> dict[str, float]:
        """Cost divided by limit for every limited resource; above 1 is a violation.

        Raises:
            BudgetError: the cost lacks a limited resource.
        """
        result = {}
        for name, limit in self.upper.items():
            value = cost.resource(name, self.size_counts)
            if value is None:
                points = ", ".join(point.name for point in cost.operating_points) or "none"
                raise BudgetError(
                    f"the budget limits the {label(name)}, which this hardware profile does not give"
                    f"{f' (its operating points: {points})' if '@' in name else ''}. "
                    "Choose a profile that has it (hardware=...) or drop that limit."
                )
            result[name] = value / limit
        return result

    def violations(self, cost: Cost, accuracy: float | None = None) -> dict[str, float]:
        """How far each broken constraint is exceeded, normalised: 0.1 is ten percent over (or below the floor).

        A floor near zero, as of a metric that may be negative, counts as 0.01: there percents say nothing.
        """
        broken = {name: ratio - 1 for name, ratio in self.ratios(cost).items() if ratio > 1}
        if self.accuracy_floor is not None and accuracy is not None and accuracy < self.accuracy_floor:
            broken["accuracy"] = (self.accuracy_floor - accuracy) / max(abs(self.accuracy_floor), _SMALLEST_FLOOR)
        return broken

    def binding(self, cost: Cost) -> str | None:
        """The limited resource with the largest cost/limit ratio; None when no cost is limited."""
        ratios = self.ratios(cost)
        return max(ratios, key=lambda name: ratios[name]) if ratios else None


def _plain(value: object) -> object:
    """NumPy's numbers as Python's, which JSON can hold."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return value
    return int(value) if isinstance(value, Integral) and abs(int(value)) < 2**63 else float(value)


def _at_points(
    resource: str, text: str | float, parse: Callable[[str | float], float | Ratio]
) -> dict[str, float | Ratio]:
    """The limits of a text such as ``"15 ms"`` or ``"9 ms @ fast and 40 ms @ slow"``, by resource and point.

    Raises:
        UnitsError: a quantity that cannot be read.
        BudgetError: a point without a name, or one that stands twice.
    """
    if not isinstance(text, str):
        return {resource: parse(text)}
    found: dict[str, float | Ratio] = {}
    for part in re.split(r"\s+and\s+", text.strip()):
        quantity, at, point = (piece.strip() for piece in part.partition("@"))
        if at and not point:
            raise BudgetError(f"the {LABELS[resource]} limit {part!r} names no operating point after the @.")
        name = f"{resource}@{point}" if at else resource
        if name in found:
            raise BudgetError(f"the {LABELS[resource]} limit {text!r} names {point or 'no point'} twice.")
        found[name] = parse(quantity)
    return found


class Budget:
    """What the user allows. A constraint that is not given does not bind.

    Args:
        size: bytes, ``"180 KB"`` or a reduction such as ``"8x"`` of the float32 model.
        energy: such as ``"2 mJ"``; needs a hardware profile that gives energy. ``"2 mJ @ slow"`` holds at an operating
            point of the profile, and ``"3 mJ @ fast and 2 mJ @ slow"`` at two.
        latency: such as ``"15 ms"``; needs a hardware profile that gives latency. Operating points as for energy.
        bops: bit operations, such as ``"2.5G"`` or ``"16x"`` of the float32 model (32 x 32 bits).
        macs: multiply-accumulates, such as ``"5M"`` or ``"2x"`` of the whole network; only removed channels lower them.
        ram: peak activation memory, such as ``"64 KB"``; on profiles of microcontrollers that of the exported C
            program: its arena, scratch included, inputs and outputs.
        flash: of that program: packed weights, tables and code, such as ``"256 KiB"``.
        accuracy: a floor (``"90 %"``, 0.9) or the largest drop from the float network (``"-1 %"``).
        size_counts: ``"total"`` (default) counts everything stored: codes, scales, biases and unquantized
            parameters; ``"weights"`` the packed codes alone, as papers do; ``"onnx"``, ``"litert"``, ``"tflm"`` and
            ``"c"`` the file of that kind, of C its constants. A reduction such as ``"8x"`` compares
            with the float32 bytes of the same parameters; one of packed weights that is exactly b bits a weight
            admits b bits everywhere, although every layer's bytes are rounded up.

    Raises:
        UnitsError: a quantity that cannot be read.
        BudgetError: no constraint at all.

    Example:
        >>> Budget(size="8x", accuracy="-1 %")
        Budget(size='8x', accuracy='-1 %')
    """

    def __init__(
        self,
        *,
        size: str | int | float | None = None,
        energy: str | None = None,
        latency: str | None = None,
        bops: str | int | float | None = None,
        macs: str | int | float | None = None,
        ram: str | int | float | None = None,
        flash: str | int | float | None = None,
        accuracy: str | float | None = None,
        size_counts: SizeCounts = "total",
    ) -> None:
        if size_counts not in ("total", "weights", *FILES):
            kinds = ", ".join(map(repr, FILES))
            raise BudgetError(
                f"size_counts must be 'total', 'weights' or a kind of file ({kinds}), not {size_counts!r}."
            )
        self._given: dict[str, Any] = {
            name: _plain(value)
            for name, value in (
                ("size", size),
                ("energy", energy),
                ("latency", latency),
                ("bops", bops),
                ("macs", macs),
                ("ram", ram),
                ("flash", flash),
                ("accuracy", accuracy),
            )
            if value is not None
        }
        if not self._given:
            raise BudgetError("the budget is empty. Give at least one limit, such as size='8x' or accuracy='-1 %'.")
        self.size_counts: SizeCounts = size_counts
        self._upper: dict[str, float | Ratio] = {}
        if size is not None:
            self._upper["size_bytes"] = parse_size(size)
        if energy is not None:
            self._upper.update(_at_points("energy_pj", energy, parse_energy_pj))
        if latency is not None:
            self._upper.update(_at_points("latency_ms", latency, parse_latency_ms))
        if bops is not None:
            self._upper["bops"] = parse_count(bops)
        if macs is not None:
            self._upper["macs"] = parse_count(macs)
        if ram is not None:
            self._upper["ram_bytes"] = parse_size(ram)
        if flash is not None:
            self._upper["flash_bytes"] = parse_size(flash)
        self.accuracy: AccuracyTarget | None = None if accuracy is None else parse_accuracy(accuracy)

    def __repr__(self) -> str:
        given = dict(self._given)
        if self.size_counts != "total":
            given["size_counts"] = self.size_counts
        return f"Budget({', '.join(f'{name}={value!r}' for name, value in given.items())})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Budget) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash(tuple(self.to_dict().items()))

    @property
    def limited(self) -> tuple[str, ...]:
        """The limited costs, by their names in `Limits.upper`.

        Example:
            >>> Budget(size="8x", latency="15 ms @ slow").limited
            ('size_bytes', 'latency_ms@slow')
        """
        return tuple(self._upper)

    @property
    def weight_bits(self) -> int | None:
        """The bitwidth that every weight could have at exactly this size, where it counts packed weights; else None.

        Example:
            >>> Budget(size=f"{32 / 3}x", size_counts="weights").weight_bits
            3
        """
        size = self._upper.get("size_bytes")
        if self.size_counts != "weights" or not isinstance(size, Ratio):
            return None
        bits = round(_FLOAT_BITS / size.factor)
        return bits if 2 <= bits <= 8 and abs(bits * size.factor / _FLOAT_BITS - 1) < _EXACT else None

    def to_dict(self) -> dict[str, Any]:
        """The budget as the user wrote it, for JSON."""
        return {**self._given, "size_counts": self.size_counts}

    def resolve(self, reference: Cost, float_accuracy: float | None) -> Limits:
        """The budget in absolute numbers.

        Args:
            reference: cost of the float32 model on the same profile; reductions such as ``"8x"`` divide it.
            float_accuracy: the float network's metric on the validation data; needed for an allowed drop.

        Raises:
            BudgetError: a reduction of what is not known of the float32 model, or a drop without a float accuracy.
        """
        upper: dict[str, float] = {}
        for name, value in self._upper.items():
            if not isinstance(value, Ratio):
                upper[name] = float(value)
                continue
            base = reference.resource(name, self.size_counts)
            if base is None:
                raise BudgetError(
                    f"the budget asks for a {value.factor:g}x reduction of the {label(name)}, but how much of it a "
                    "float32 network takes is not known. Give an absolute limit instead, such as '120 uJ' or '15 ms'."
                )
            upper[name] = base / value.factor
        floor = None
        if self.accuracy is not None:
            if self.accuracy.relative and float_accuracy is None:
                raise BudgetError(
                    "an allowed accuracy drop needs the float network's accuracy, but it was not measured."
                )
            floor = self.accuracy.floor(float_accuracy if float_accuracy is not None else 0.0)
        return Limits(upper, floor, self.size_counts)
