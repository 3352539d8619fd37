"""A network as a list of kernel calls on buffers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from numpy.typing import NDArray

from sigmaquant.export.c.arena import Lifetime, gaps, plan_arena
from sigmaquant.export.c.layout import Ints, Loop, View, natural

_SMALL_BLOCK = 8
_SMALL_BYTES = (4864, 9472)
"""Unpacked rows that are worth more RAM than the smallest possible: at least 8, and 16 of 16 channels by 3 x 3 taps."""
_ENOUGH = 1.15
"""An arena of that many times the peak of its buffers is small enough: below, rows are not taken from scratch."""
_DIVISORS = (1, 1.5, 2, 2.5, 3, 4)
"""Of the bytes that unpacked rows are worth, tried one after the other."""
_CODE_BY_CODE = ("sq_add", "sq_add_strided", "sq_affine", "sq_lookup", "sq_multiply", "sq_rescale")
"""Kernels that read all they need of a code's place before they write there."""
_ROWS = 4
"""Rows that lie interleaved in scratch: ``SQ_ROWS``."""


@dataclass(frozen=True)
class Table:
    """Constants in flash.

    Attributes:
        name: the C identifier.
        values: integers of 8, 16 or 32 bits, of any shape; read-only.
    """

    name: str
    values: NDArray[Any]


@dataclass(frozen=True)
class Scratch:
    """Memory of int16 that one call needs.

    Attributes:
        fixed: elements whatever the block.
        row: elements for each row of the block, of which there are whole fours.
        rows: rows there are; a block of more has no use.
    """

    fixed: int
    row: int = 0
    rows: int = 0

    def bytes(self, block: int) -> int:
        """For a block of so many rows."""
        return 2 * (self.fixed + self.row * _ROWS * -(-block // _ROWS))

    def block(self, divisor: float = 1.0) -> int:
        """As few rows as are worth the work that is done again for each block, with memory worth so many times less."""
        if not self.row:
            return 0
        least, most = (size // (2 * self.row) for size in _SMALL_BYTES)
        return self._even_blocks(min(max(int(least / divisor), _SMALL_BLOCK), most))

    def largest_block(self, available: int) -> int:
        """The most rows that fit into so many bytes, within what is of use."""
        if not self.row:
            return 0
        return self._even_blocks((available // 2 - self.fixed) // self.row)

    def _even_blocks(self, most: int) -> int:
        """Blocks of about the same size, no larger than `most`, and of whole fours, as they lie in scratch."""
        fours, most_fours = -(-self.rows // _ROWS), max(1, most // _ROWS)
        if most_fours >= fours:
            return self.rows
        return _ROWS * -(-fours // -(-fours // most_fours))


@dataclass(frozen=True)
class Step:
    """One call of a kernel, or one in loops.

    Attributes:
        operator: name of the model's operator, for comments.
        kernel: the C function.
        parameters: fields of its parameters: numbers, C expressions, tuples of numbers, or nested fields.
        inputs: what it reads.
        output: what it writes.
        scratch: what it needs besides.
        block: rows in scratch.
        macs: multiplications with weights.
        loops: around the call, the outermost first; each with steps of the inputs and of the output.
    """

    operator: str
    kernel: str
    parameters: Mapping[str, Any]
    inputs: tuple[View, ...]
    output: View
    scratch: Scratch = Scratch(0)
    block: int = 0
    macs: int = 0
    loops: tuple[Loop, ...] = ()

    @property
    def scratch_bytes(self) -> int:
        """At its block."""
        return self.scratch.bytes(self.block)

    @property
    def all_macs(self) -> int:
        """Of all its calls."""
        return self.macs * math.prod(loop.count for loop in self.loops)


@dataclass
class Program:
    """Calls, buffers and constants, filled in by the operators one after the other.

    Attributes:
        sizes: of the buffers, in codes.
        callers: C expressions of the buffers that the caller holds, by index.
        steps: the calls.
        tables: constants.
        edges: where each activation that has a buffer of its own lies.
        used: names of the constants that this program reads; `tables` may have those of other plans as well.
    """

    sizes: list[int] = field(default_factory=list)
    callers: dict[int, str] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    edges: dict[str, View] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    _known: dict[tuple[str, str, bytes], str] = field(default_factory=dict)

    def buffer(self, shape: Ints, strides: Ints | None = None, rows: int = 1, caller: str = "") -> View:
        """A new buffer, dense, one row after the other; `caller` names it where the caller holds it."""
        count = math.prod(shape)
        view = View(len(self.sizes), 0, shape, natural(shape) if strides is None else strides, rows, count)
        self.sizes.append(rows * count)
        if caller:
            self.callers[view.buffer] = caller
        return view

    def table(self, name: str, values: NDArray[Any], owner: str = "") -> str:
        """Constants under a name, or those of the same owner and values that there already are.

        Equal values of two owners are a coincidence that another calibration undoes, and bytes must be known before it.
        """
        content = (owner, values.dtype.name, values.tobytes())
        if content not in self._known:
            self._known[content] = name
            self.tables.append(Table(name, values))
        self.used.add(self._known[content])
        return self._known[content]

    def sharing(self) -> Program:
        """A program without calls whose constants are those of this one as well."""
        return Program(tables=self.tables, _known=self._known)


def completed(program: Program) -> dict[int, list[str]]:
    """The activations that are complete after a step, by the step's number."""
    last = {step.output.buffer: number for number, step in enumerate(program.steps)}
    found: dict[int, list[str]] = {}
    for name, view in program.edges.items():
        if view.buffer in last:
            found.setdefault(last[view.buffer], []).append(name)
    return found


@dataclass(frozen=True)
class Placed:
    """A program whose buffers have their place.

    Attributes:
        steps: with their blocks.
        offsets: bytes of each buffer's place in the arena; None: the caller holds it.
        scratch: bytes of each step's scratch; None: it needs none.
        lifetimes: of each buffer.
        arena_bytes: of the whole arena.
        in_place: by buffer that takes over another's memory, that other one: its step reads a code and writes a result
            there.
    """

    steps: tuple[Step, ...]
    offsets: tuple[int | None, ...]
    scratch: tuple[int | None, ...]
    lifetimes: tuple[Lifetime, ...]
    arena_bytes: int
    in_place: Mapping[int, int] = field(default_factory=dict)


def place(program: Program) -> Placed:
    """Plans the arena with small scratch, then lets scratch grow into what is free anyway."""
    lifetimes = _lifetimes(program)
    in_place = _in_place(program, lifetimes)
    whole = _merged(lifetimes, in_place)
    owned = [i for i in range(len(program.sizes)) if i not in program.callers and i not in in_place]
    peak = _peak([lifetimes[i] for i in range(len(program.sizes)) if i not in program.callers])
    best: tuple[list[Step], list[int], int] | None = None
    for divisor in _DIVISORS:
        steps = [replace(step, block=step.scratch.block(divisor)) for step in program.steps]
        needed = [Lifetime(step.scratch_bytes, i, i) for i, step in enumerate(steps) if step.scratch_bytes]
        found, total = plan_arena([whole[i] for i in owned] + needed)
        if best is None or total < best[2]:
            best = steps, found, total
        if not peak or best[2] <= _ENOUGH * peak:  # of a single layer all memory but scratch is the caller's
            break
    assert best is not None, "there are divisors"
    steps, found, total = best
    scratch_steps = [i for i, step in enumerate(steps) if step.scratch_bytes]
    offsets: list[int | None] = [None] * len(program.sizes)
    for index, offset in zip(owned, found, strict=False):
        offsets[index] = offset
    for index, before in in_place.items():  # in the order of the steps: the one before has its place by now
        offsets[index] = offsets[before]
    scratch: list[int | None] = [None] * len(steps)
    for step in scratch_steps:
        living = [
            (offset, lifetimes[i].size)
            for i, offset in enumerate(offsets)
            if offset is not None and lifetimes[i].first <= step <= lifetimes[i].last
        ]
        size, start = max(((total - s if n is None else n), -s) for s, n in gaps(living))
        scratch[step] = -start
        if steps[step].scratch.row:
            steps[step] = replace(steps[step], block=steps[step].scratch.largest_block(size))
    return Placed(tuple(steps), tuple(offsets), tuple(scratch), tuple(lifetimes), total, in_place)


def _peak(lifetimes: Sequence[Lifetime]) -> int:
    """The largest sum of buffers that live at one step."""
    steps = range(max((item.last for item in lifetimes), default=-1) + 1)
    return max((sum(item.size for item in lifetimes if item.first <= s <= item.last) for s in steps), default=0)


def _in_place(program: Program, lifetimes: Sequence[Lifetime]) -> dict[int, int]:
    """Outputs of steps that go code by code and may overwrite an input that nothing reads after them."""
    found: dict[int, int] = {}
    for number, step in enumerate(program.steps):
        output = step.output
        if step.kernel not in _CODE_BY_CODE or step.loops or lifetimes[output.buffer].first != number:
            continue
        for view in step.inputs:
            same = (view.offset, view.shape, view.strides, view.rows) == (
                output.offset, output.shape, output.strides, output.rows,
            )  # fmt: skip
            ends = lifetimes[view.buffer].last == number and program.sizes[view.buffer] == program.sizes[output.buffer]
            if same and ends and not {view.buffer, output.buffer} & program.callers.keys():
                found[output.buffer] = view.buffer
                break
    return found


def _merged(lifetimes: Sequence[Lifetime], in_place: Mapping[int, int]) -> list[Lifetime]:
    """The lifetimes of areas: a buffer's, and of those that take over its memory, at the first one's index."""
    whole = list(lifetimes)
    first: dict[int, int] = {}
    for index, before in in_place.items():
        first[index] = first.get(before, before)
        area = first[index]
        whole[area] = replace(whole[area], last=max(whole[area].last, lifetimes[index].last))
    return whole


def _lifetimes(program: Program) -> list[Lifetime]:
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    for number, step in enumerate(program.steps):
        for view in (*step.inputs, step.output):
            first.setdefault(view.buffer, number)
            last[view.buffer] = number
    return [Lifetime(size, first.get(i, 0), last.get(i, 0)) for i, size in enumerate(program.sizes)]
