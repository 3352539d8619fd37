"""Constants that several plans of one network share: above all bit planes of weights, the most significant first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sigmaquant.errors import ExportError
from sigmaquant.export.c.names import Names
from sigmaquant.export.c.program import Program
from sigmaquant.quant.nesting import levels_of, narrowed

MakeTable = Callable[[str, str, NDArray[Any]], str]
"""Owner, kind and values of constants in, their name out."""


@dataclass(frozen=True)
class Planes:
    """A layer's planes.

    Attributes:
        name: of the C array of pointers to them.
        tables: for each plane the table that it is in.
        offsets: bytes from that table's beginning.
    """

    name: str
    tables: tuple[str, ...]
    offsets: tuple[int, ...]


class SharedConstants:
    """What the programs of all plans have in common; made while the plans are translated one after the other.

    Planes that the same plans read lie in one table, ``<layer>_planes_<k>``: k is the smallest plan that reads it, so
    that a linker script can put apart what plan k and those above need.

    Args:
        bits: bitwidths by layer of every plan, from the largest to the smallest.

    Raises:
        ExportError: a layer grows from one plan to the next.
    """

    def __init__(self, bits: Sequence[Mapping[str, int]]) -> None:
        for wide, narrow in pairwise(bits):
            for layer, width in narrow.items():
                if width > wide[layer]:
                    raise ExportError(
                        f"layer {layer!r} has {width} bits in a plan and {wide[layer]} in the one before it. Order the "
                        "plans from the largest to the smallest."
                    )
        self._bits = bits
        self._plan = -1
        self._place: Counter[str] = Counter()
        self._codes: dict[tuple[str, int], tuple[Planes, NDArray[np.int8]]] = {}
        self.names = Names()
        self._all = Program()

    @property
    def tables(self) -> Program:
        """A program that has all tables."""
        return self._all

    @property
    def planes(self) -> tuple[Planes, ...]:
        """Of all layers that some plan narrows."""
        return tuple(found for found, _ in self._codes.values())

    def program(self) -> Program:
        """An empty program of the next plan."""
        self._plan += 1
        self._place.clear()
        return self._all.sharing()

    def codes(self, layer: str, rows: NDArray[np.int8], bits: int, table: MakeTable) -> dict[str, Any] | None:
        """Fields of ``sq_layer`` for a matrix of a layer in the present plan; None where no plan narrows it.

        Raises:
            ExportError: the codes are not the most significant planes of the largest plan's.
        """
        widths = [plan[layer] for plan in self._bits]
        if widths[0] == widths[-1]:
            return None
        key = layer, self._place[layer]
        self._place[layer] += 1
        if key not in self._codes:
            self._codes[key] = self._planes(layer, rows, widths, table), rows
        found, largest = self._codes[key]
        same = narrowed(torch.from_numpy(largest), widths[0], bits).numpy()
        if same.shape != rows.shape or not np.array_equal(same, rows):
            raise ExportError(
                f"layer {layer!r}: its codes of {bits} bits are not the most significant planes of those of "
                f"{widths[0]} bits, since a BatchNorm has another sign in one of the plans. Export this plan alone."
            )
        return {
            "codes": found.tables[0],
            "unpack": "sq_unpack_planes",
            "plane": found.name,
            "planes": bits,
            "bits": 1,
            "row_bytes": -(-rows.shape[1] // 8),
        }

    def tables_of(self, fields: Mapping[str, Any]) -> tuple[str, ...]:
        """The tables of codes that a layer with these fields reads."""
        if "plane" not in fields:
            return (str(fields["codes"]),)
        found = next(planes for planes in self.planes if planes.name == fields["plane"])
        return tuple(dict.fromkeys(found.tables[: fields["planes"]]))

    def _planes(self, layer: str, rows: NDArray[np.int8], widths: Sequence[int], table: MakeTable) -> Planes:
        levels = levels_of(torch.from_numpy(rows), widths[0]).numpy()
        planes = [np.packbits((levels >> plane) & 1, axis=1, bitorder="little") for plane in reversed(range(widths[0]))]
        tables: list[str] = []
        offsets: list[int] = []
        for end in sorted(set(widths)):
            part = planes[len(tables) : end]
            smallest = max(plan for plan, width in enumerate(widths) if width >= end)
            name = table(layer, f"planes_{smallest}", np.stack(part))
            offsets += [number * part[0].size for number in range(len(part))]
            tables += [name] * len(part)
        return Planes(self.names.unique(f"{tables[0]}_all"), tuple(tables), tuple(offsets))
