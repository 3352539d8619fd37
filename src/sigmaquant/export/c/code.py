"""The generated C: header, weights, and the network as a list of calls."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sigmaquant.export.c.layout import View
from sigmaquant.export.c.names import Names, comment
from sigmaquant.export.c.planes import Planes
from sigmaquant.export.c.program import Placed, Program, Step, completed
from sigmaquant.export.c.report import CGrid, CReport

_TYPES = {"uint8": "uint8_t", "int8": "int8_t", "uint16": "uint16_t", "int16": "int16_t", "int32": "int32_t"}
_WIDTH = 116


def header(report: CReport) -> str:
    """``<name>.h``."""
    name, upper = report.name, report.name.upper()
    lines = [
        f"/* {name}: a quantized network in integer arithmetic, written by SigmaQuant.",
        " *",
        f" * Flash: {report.weight_bytes} bytes of packed weights, {report.table_bytes} bytes of tables, and the code.",
        f" * RAM: {report.arena_bytes} bytes in a static arena, so one call at a time; inputs and outputs are the",
        " * caller's and must not overlap. Values are x = (code - ZERO_POINT) * SCALE, one example, laid out row-major",
        " * as the shapes say (channels first, as in PyTorch).",
        *about_places(report),
        " */",
        f"#ifndef {upper}_H",
        f"#define {upper}_H",
        "",
        "#include <stdint.h>",
        "",
        f"#define {upper}_ARENA_BYTES {report.arena_bytes}",
    ]
    for grid in (*report.read, *report.written):
        macro = f"{upper}_{grid.place.upper()}"
        if grid.integers:
            what = f"integers 0..{grid.integers - 1} as they are (int32_t)"
            lines += ["", f"/* {comment(grid.name)}: {list(grid.whole_shape)}, {what} */"]
            lines += [f"#define {macro}_SIZE {grid.count}"]
            continue
        low, high = _codes_range(grid)
        lines += [
            "",
            f"/* {comment(grid.name)}: {list(grid.whole_shape)}, codes {low}..{high} */",
            f"#define {macro}_SIZE {grid.count}",
            f"#define {macro}_SCALE {_float(grid.scale)}",
            f"#define {macro}_ZERO_POINT ({grid.zero_point})",
        ]
    lines += ["", f"{run_signature(report)};", "", "/* For convenience; the network itself computes no floats. */"]
    lines += [f"{signature};" for signature, _, _ in float_functions(report)]
    if report.has_endings:
        lines += [
            "",
            "/* What the network returns, in place of dequantized outputs, which are what these functions read: in",
            f" * {name}_endings.c, which needs the C library's <math.h> (link with -lm). */",
            *(f"{signature};" for signature, _ in ending_functions(report)),
        ]
    return "\n".join([*lines, "", "#endif", ""])


def about_places(report: CReport) -> list[str]:
    """What a caller could not see from the signature."""
    lines = []
    if any(grid.rows > 1 for grid in (*report.inputs, *report.outputs)):
        lines.append(" * Where a shape begins with the rows of an example, PyTorch has them in its batch dimension.")
    for number, grid in enumerate(report.inputs):
        if not grid.place:
            lines.append(f" * Input {number} of the network, {comment(grid.name)}, is not read, and no argument here.")
    for number, grid in enumerate(report.outputs):
        if not grid.place:
            lines.append(f" * Output {number} of the network is its input {comment(grid.name)}, and no argument here.")
    return lines


def weights_header(name: str, program: Program, planes: Sequence[Planes] = ()) -> str:
    """``<name>_weights.h``."""
    guard = f"{name.upper()}_WEIGHTS_H"
    lines = [
        f"/* Constants of {name}. */",
        f"#ifndef {guard}",
        f"#define {guard}",
        "",
        "#include <stdint.h>",
        "",
    ]
    lines += [f"extern const {_TYPES[t.values.dtype.name]} {t.name}[{t.values.size}];" for t in program.tables]
    lines += [f"extern const uint8_t *const {found.name}[{len(found.tables)}];" for found in planes]
    return "\n".join([*lines, "", "#endif", ""])


def weights_source(name: str, program: Program, planes: Sequence[Planes] = ()) -> str:
    """``<name>_weights.c``."""
    parts = [f'/* Constants of {name}, for flash. */\n#include "{name}_weights.h"\n']
    for table in program.tables:
        head = f"const {_TYPES[table.values.dtype.name]} {table.name}[{table.values.size}] = {{\n"
        parts.append(f"{head}{_values(table.values)}\n}};\n")
    for found in planes:
        places = ", ".join(
            f"{table} + {offset}" if offset else table
            for table, offset in zip(found.tables, found.offsets, strict=True)
        )
        text = textwrap.fill(places, _WIDTH, initial_indent="    ", subsequent_indent="    ")
        parts.append(f"const uint8_t *const {found.name}[{len(found.tables)}] = {{\n{text},\n}};\n")
    return "\n".join(parts)


def source(report: CReport, program: Program, placed: Placed, of: str = "") -> str:
    """``<name>.c``.

    Args:
        report: what it needs.
        program: its calls.
        placed: its memory.
        of: the network whose plan this is, which has the constants and the arena; empty: the network itself.
    """
    name, weights = report.name, of or report.name
    shared = f'#include "{of}_arena.h"\n' if of else ""
    parts = [
        f"/* {name}, call by call. SQ_SEPARATE gives every buffer memory of its own, for address sanitizers;\n"
        " * SQ_CHECK (sq.h) destroys buffers outside of their lifetimes. */\n"
        f'#include "{name}.h"\n\n#include "sq.h"\n{shared}#include "{weights}_weights.h"\n',
        _memory(program, placed, of),
    ]
    names, calls, known = Names(), [], dict[str, str]()
    ends, numbers = completed(program), {edge: number for number, edge in enumerate(program.edges)}
    for number, step in enumerate(placed.steps):
        fields = dict(step.parameters) | ({"block": step.block} if step.block else {})
        content = f"static const {step.kernel}_params %s = {{\n{_fields(fields, 1)}\n}};\n"
        if content not in known:
            known[content] = names.unique(f"{step.operator}_params")
            parts.append(content % known[content])
        constant = known[content]
        seen = [
            f"SQ_SEE({numbers[edge]}, {_pointer(program.edges[edge], program)}, {program.edges[edge].whole.count});"
            for edge in ends.get(number, ())
        ]
        calls.append(_call(step, number, constant, seen, program, placed))
    parts.append(f"{run_signature(report)}\n{{\n" + "\n".join(calls) + "\n}\n")
    for signature, kernel, grid in float_functions(report):
        low, high = _codes_range(grid)
        init = f"{{{grid.count}, {_float(grid.scale)}, {grid.zero_point}, {low}, {high}}}"
        arguments = "values, codes" if kernel == "sq_quantize" else "codes, values"
        parts.append(
            f"{signature}\n{{\n    static const sq_grid grid = {init};\n    {kernel}(&grid, {arguments});\n}}\n"
        )
    return "\n".join(parts)


def endings_source(report: CReport) -> str:
    """``<name>_endings.c``."""
    parts = [
        f'/* Float functions behind the outputs of {report.name}. */\n#include "{report.name}.h"\n\n#include "sq.h"\n'
    ]
    for signature, grid in ending_functions(report):
        lines = []
        for number, item in enumerate(grid.endings):
            constant = f"lines_{number}"
            lines.append(f"    static const sq_lines {constant} = {{{item.outer}, {item.size}, {item.inner}}};")
        for number, item in enumerate(grid.endings):
            lines.append(f"    sq_{item.function}(&lines_{number}, values);")
        body = "\n".join(lines)
        parts.append(f"{signature}\n{{\n{body}\n}}\n")
    return "\n".join(parts)


# -- memory ------------------------------------------------------------------------------------------------------


def arena_header(name: str, arena_bytes: int) -> str:
    """``<name>_arena.h``: the memory that all plans use, one at a time."""
    guard = f"{name.upper()}_ARENA_H"
    union = (
        f"typedef union {{\n    int16_t halves[{max(1, arena_bytes // 2)}];\n    int32_t alignment;\n}} {name}_memory;"
    )
    return "\n".join(
        [
            f"/* Memory of {name}, which its plans share. */",
            f"#ifndef {guard}",
            f"#define {guard}",
            "",
            "#include <stdint.h>",
            "",
            union,
            f"extern {name}_memory {name}_arena;",
            "",
            "#endif",
            "",
        ]
    )


def _memory(program: Program, placed: Placed, of: str = "") -> str:
    """Macros for every buffer: a place in the arena, or an array of its own."""
    arena: list[str] = []
    separate: list[str] = []
    union_name = f"{of}_arena" if of else "arena"
    for index, offset in enumerate(placed.offsets):
        if offset is not None:
            arena.append(f"#define BUFFER_{index} ((int8_t *)&{union_name}.halves[{offset // 2}])")
            separate.append(f"static int8_t buffer_{index}[{program.sizes[index]}];")
            separate.append(f"#define BUFFER_{index} buffer_{index}")
    for index, offset in enumerate(placed.scratch):
        if offset is not None:
            arena.append(f"#define SCRATCH_{index} (&{union_name}.halves[{offset // 2}])")
            separate.append(f"static int16_t scratch_{index}[{placed.steps[index].scratch_bytes // 2}];")
            separate.append(f"#define SCRATCH_{index} scratch_{index}")
    if not arena:
        return ""
    halves = f"{placed.arena_bytes // 2}"
    union = f"static union {{\n    int16_t halves[{halves}];\n    int32_t alignment;\n}} arena;"
    if of:
        union = f"/* {union_name}: see {of}_arena.h */"
    return "\n".join(["#ifdef SQ_SEPARATE", *separate, "#else", union, *arena, "#endif", ""])


def _call(step: Step, number: int, constant: str, seen: list[str], program: Program, placed: Placed) -> str:
    views = (*step.inputs, step.output)
    pieces = [
        _pointer(view, program) + "".join(f" + i{depth} * {loop.steps[k]}" for depth, loop in enumerate(step.loops))
        for k, view in enumerate(views)
    ]
    born, dead, taken_over = [], [], set(placed.in_place.values())
    for index in sorted({view.buffer for view in (*step.inputs, step.output)}):
        if placed.offsets[index] is not None:
            area = f"SQ_TRASH(BUFFER_{index}, {program.sizes[index]});"
            if placed.lifetimes[index].first == number and index not in placed.in_place:
                born.append(area)
            if placed.lifetimes[index].last == number and index not in taken_over:
                dead.append(area)
    if placed.scratch[number] is not None:
        pieces.append(f"SCRATCH_{number}")
        born.append(f"SQ_TRASH(SCRATCH_{number}, {step.scratch_bytes});")
    call = f"{step.kernel}(&{constant}, {', '.join(pieces)});"
    for depth, loop in reversed(list(enumerate(step.loops))):
        head = f"for (int32_t i{depth} = 0; i{depth} < {loop.count}; i{depth}++) {{"
        call = f"{head}\n{textwrap.indent(call, '    ')}\n}}"
    lines = [f"/* {comment(step.operator)} */", *born, call, *seen, *dead]
    return textwrap.indent("\n".join(lines), "    ")


def _pointer(view: View, program: Program) -> str:
    base = program.callers.get(view.buffer, f"BUFFER_{view.buffer}")
    return f"{base} + {view.offset}" if view.offset else base


# -- text --------------------------------------------------------------------------------------------------------


def run_signature(report: CReport) -> str:
    """Of the network's function."""
    inputs = [f"const {grid.kind} *{grid.place}" for grid in report.read]
    outputs = [f"int8_t *{grid.place}" for grid in report.written]
    head = f"void {report.name}_run("
    return textwrap.fill(f"{head}{', '.join(inputs + outputs)})", _WIDTH, subsequent_indent=" " * len(head))


def float_functions(report: CReport) -> list[tuple[str, str, CGrid]]:
    """Signatures of the float helpers, the kernel that each calls, and its grid."""
    found = []
    for grid in report.read:
        if grid.integers:
            continue
        signature = f"void {report.name}_quantize_{grid.place}(const float *values, int8_t *codes)"
        found.append((signature, "sq_quantize", grid))
    for grid in report.written:
        signature = f"void {report.name}_dequantize_{grid.place}(const int8_t *codes, float *values)"
        found.append((signature, "sq_dequantize", grid))
    return found


def ending_functions(report: CReport) -> list[tuple[str, CGrid]]:
    """Signatures of the functions behind outputs, and their grids."""
    return [(f"void {report.ending(grid)}(float *values)", grid) for grid in report.written if grid.endings]


def _codes_range(grid: CGrid) -> tuple[int, int]:
    return -(2 ** (grid.bits - 1)), 2 ** (grid.bits - 1) - 1


def _float(value: float) -> str:
    """A float32 exactly: nine digits tell all of them apart."""
    return f"{np.float32(value):.9e}F"


def _fields(fields: Mapping[str, Any], depth: int) -> str:
    indent, lines = "    " * depth, []
    for key, value in fields.items():
        if isinstance(value, Mapping):
            lines.append(f"{indent}.{key} = {{\n{_fields(value, depth + 1)}\n{indent}}},")
        elif isinstance(value, tuple):
            lines.append(f"{indent}.{key} = {{{', '.join(map(str, value))}}},")
        else:
            lines.append(f"{indent}.{key} = {value},")
    return "\n".join(lines)


def _values(values: NDArray[Any]) -> str:
    flat = values.reshape(-1).tolist()
    if values.dtype == np.int32:  # -2147483648 is no int32 in C, but the negation of what is none
        shown = [str(v) if v > -(2**31) else "(-2147483647 - 1)" for v in flat]
    else:
        shown = [str(v) for v in flat]
    return textwrap.fill(", ".join(shown), _WIDTH, initial_indent="    ", subsequent_indent="    ") + ","
