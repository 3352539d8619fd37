"""What an exported folder needs of a device."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

FILE = "export.json"
FORMAT = "sigmaquant.c"


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
    """An input or output: ``x = (code - zero_point) * scale``.

    Attributes:
        name: of the edge.
        shape: of one example.
        bits: of the codes.
        scale: of one step.
        zero_point: the code of 0.0.
    """

    name: str
    shape: tuple[int, ...]
    bits: int
    scale: float
    zero_point: int


@dataclass(frozen=True)
class CActivation:
    """How ``sq_watch`` gets an activation; its number is its place in `CReport.activations`.

    Attributes:
        name: of the edge.
        shape: of one example, in the order of the model's dimensions.
        strides: codes from one index to the next, by dimension.
    """

    name: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]


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

    def to_json(self, digests: Mapping[str, str]) -> str:
        """The report as a document, without the folder.

        Args:
            digests: SHA-256 of every other file of the folder, by name.
        """
        document = {"format": FORMAT, "version": 2, **asdict(self), "files": dict(digests)}
        del document["folder"]
        return json.dumps(document, indent=2) + "\n"
