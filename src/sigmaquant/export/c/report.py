"""What an exported folder needs of a device."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from sigmaquant.export.c.endings import CEnding
from sigmaquant.export.c.names import ending_name

FILE = "export.json"
FORMAT = "sigmaquant.c"
PLANS_FORMAT = "sigmaquant.c.plans"


@dataclass(frozen=True)
class CLayer:
    """One layer with weights.

    Attributes:
        name: of the user's module.
        kernel: of the C function that computes it.
        bits: of its weights.
        weight_bytes: packed codes, in flash.
        table_bytes: biases and factors, in flash.
        scratch_bytes: columns and unpacked rows in the arena while it runs.
        macs: multiplications of one example, those with padding included.
    """

    name: str
    kernel: str
    bits: int
    weight_bytes: int
    table_bytes: int
    scratch_bytes: int
    macs: int


@dataclass(frozen=True)
class CGrid:
    """An input or output of the network: ``x = (code - zero_point) * scale``.

    Attributes:
        name: of the edge.
        shape: of one example, or of one of its rows.
        bits: of the codes; 32: float values that the C code has nothing to do with, see `place`.
        scale: of one step.
        zero_point: the code of 0.0.
        rows: of one example.
        place: the C argument; empty for an input that the network does not read, and for an output that is such an
            input.
        endings: of an output: functions of its values that the network returns instead; see `CReport`.
        integers: of an input of integers (token indices, a mask), how many different ones: ``0..integers - 1``; else 0.
    """

    name: str
    shape: tuple[int, ...]
    bits: int
    scale: float
    zero_point: int
    rows: int = 1
    place: str = ""
    endings: tuple[CEnding, ...] = ()
    integers: int = 0

    @property
    def kind(self) -> str:
        """The C type of its values."""
        return "int32_t" if self.integers else "int8_t"

    @property
    def count(self) -> int:
        """Values of one example."""
        return self.rows * math.prod(self.shape)

    @property
    def whole_shape(self) -> tuple[int, ...]:
        """Of one example with all its rows."""
        return self.shape if self.rows == 1 else (self.rows, *self.shape)


@dataclass(frozen=True)
class CActivation:
    """How ``sq_watch`` gets an activation; its number is its place in `CReport.activations`.

    Attributes:
        name: of the edge.
        shape: of one example, in the order of the model's dimensions.
        strides: codes from one index to the next, by dimension.
        rows: of one example; several are the first dimension of `shape`.
    """

    name: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    rows: int = 1


@dataclass(frozen=True)
class CReport:
    """What was written.

    Attributes:
        folder: of the files.
        name: prefix of the files and symbols.
        weight_bytes: packed codes in flash; a weight that is used twice is stored once.
        table_bytes: biases, factors, and lookup tables in flash.
        arena_bytes: the static arena: activations and scratch, all the RAM but inputs, outputs, and the stack.
        input_bytes: of one example's input codes, which the caller holds.
        output_bytes: of its output codes, which the caller holds.
        inputs: grids of the inputs.
        outputs: grids of the outputs.
            A function such as a softmax behind the network's last integer is no part of it: outputs are codes of what
            the function reads, and a float function of its own, ``<name>_softmax_output``, does the rest.
        layers: the layers with weights, in order; tied ones each with the bytes they share.
        activations: those that have a buffer of their own, by number.
    """

    folder: Path
    name: str
    weight_bytes: int
    table_bytes: int
    arena_bytes: int
    input_bytes: int
    output_bytes: int
    inputs: tuple[CGrid, ...]
    outputs: tuple[CGrid, ...]
    layers: tuple[CLayer, ...]
    activations: tuple[CActivation, ...]

    @property
    def ram_bytes(self) -> int:
        """Arena, inputs and outputs."""
        return self.arena_bytes + self.input_bytes + self.output_bytes

    @property
    def read(self) -> tuple[CGrid, ...]:
        """The inputs that are C arguments."""
        return tuple(grid for grid in self.inputs if grid.place)

    @property
    def written(self) -> tuple[CGrid, ...]:
        """The outputs that are C arguments."""
        return tuple(grid for grid in self.outputs if grid.place)

    @property
    def has_endings(self) -> bool:
        """Whether functions in float stand behind outputs."""
        return any(grid.endings for grid in self.outputs)

    def ending(self, grid: CGrid) -> str:
        """The C function that makes of an output's values what the network returns."""
        return ending_name(self.name, [item.function for item in grid.endings], grid.place)

    def to_json(self, digests: Mapping[str, str]) -> str:
        """The report as a document, without the folder.

        Args:
            digests: SHA-256 of every other file of the folder, by name.
        """
        document = {"format": FORMAT, "version": 2, **asdict(self), "files": dict(digests)}
        del document["folder"]
        return json.dumps(document, indent=2) + "\n"


def ram_bytes(folder: Path) -> int | None:
    """`CReport.ram_bytes` of a folder that was written; None where that cannot be told."""
    try:
        document = json.loads((folder / FILE).read_text(encoding="utf-8"))
        return sum(int(document[part]) for part in ("arena_bytes", "input_bytes", "output_bytes"))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


@dataclass(frozen=True)
class CPlan:
    """One plan of a folder with several.

    Attributes:
        name: of the plan, such as ``"12x"``.
        report: what it needs of a device; its bytes of weights are those of the planes that it reads.
    """

    name: str
    report: CReport


@dataclass(frozen=True)
class CPlans:
    """What was written of several plans.

    Attributes:
        folder: of the files.
        name: prefix of the files and symbols.
        weight_bytes: all planes in flash.
        table_bytes: biases, factors, lookup tables and pointers to planes, of all plans.
        arena_bytes: the arena that they share.
        plans: from the largest to the smallest.
    """

    folder: Path
    name: str
    weight_bytes: int
    table_bytes: int
    arena_bytes: int
    plans: tuple[CPlan, ...]

    def to_json(self, digests: Mapping[str, str]) -> str:
        """The report as a document, without the folder.

        Args:
            digests: SHA-256 of every other file of the folder, by name.
        """
        plans = []
        for item in self.plans:
            row = {"plan": item.name, **asdict(item.report)}
            del row["folder"]
            plans.append(row)
        document = {
            "format": PLANS_FORMAT,
            "version": 1,
            "name": self.name,
            "weight_bytes": self.weight_bytes,
            "table_bytes": self.table_bytes,
            "arena_bytes": self.arena_bytes,
            "plans": plans,
            "files": dict(digests),
        }
        return json.dumps(document, indent=2) + "\n"
