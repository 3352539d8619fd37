"""The program that the runner compiles an exported folder with: codes or floats in, records out.

It is our own, not the folder's ``main.c``: it also calls the helpers for floats, and says what the header's constants
are, so that a file that was changed by hand cannot stay unnoticed behind a right network.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from string import Template

GRID, CODES, FLOATS, ENDED = -1, -(2**20), -(2**21), -(2**22)
"""Tags of records: a grid's constants, an output's codes, its floats, and what functions behind it make of these (minus
its number among those written); others are activations."""

_DRIVER = Template("""\
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "$name.h"

$buffers

static void record(int32_t tag, const void *data, size_t size)
{
    const int32_t head[2] = {tag, (int32_t)size};
    (void)fwrite(head, sizeof head, 1, stdout);
    (void)fwrite(data, 1, size, stdout);
}

#ifdef SQ_WATCH
void sq_watch(int32_t number, const int8_t *codes, int32_t count);

void sq_watch(int32_t number, const int8_t *codes, int32_t count)
{
    record(number, codes, (size_t)count);
}
#endif

static void grid(double size, double scale, double zero)
{
    const double values[3] = {size, scale, zero};
    record($grid_tag, values, sizeof values);
}

static int next(int floats)
{
    if (floats == 0) {
        return ($read_codes) ? 1 : 0;
    }
    if (!($read_floats)) {
        return 0;
    }
$quantize
    return 1;
}

int main(int argc, char **argv)
{
    const char *mode = (argc > 1) ? argv[1] : "";
    const int floats = (strcmp(mode, "floats") == 0) ? 1 : 0;
$setup    if (strcmp(mode, "grids") == 0) {
$grids
        return 0;
    }
    while (next(floats) != 0) {
        ${name}_run($arguments);
$codes
        if (floats != 0) {
$dequantize
        }
    }
    return 0;
}
""")


def driver_source(
    name: str,
    inputs: Sequence[str],
    outputs: Mapping[str, str],
    plan: int | None = None,
    integers: Collection[str] = (),
) -> str:
    """The driver for a network of that name.

    Its argument is ``codes``, ``floats`` or ``grids``. It reads examples from the standard input, all inputs of one
    after the other, until they end, and writes records: int32 tag, int32 bytes, data.

    Args:
        name: prefix of the folder's symbols.
        inputs: C arguments.
        integers: those of them that are int32 as they are.
        outputs: C arguments, each with the function of its floats; empty: there is none.
        plan: which one of several runs; None: there is one.
    """
    macros = name.upper() if plan is None else f"{name.upper()}_PLAN_{plan}"
    size = {place: f"{macros}_{place.upper()}" for place in (*inputs, *outputs)}

    def read(prefix: str) -> str:
        names = [p if p in integers else f"{prefix}{p}" for p in inputs]
        return " && ".join(f"(fread({p}, sizeof {p}, 1, stdin) == 1)" for p in names)

    def buffer(place: str) -> str:
        if place in integers:
            return f"static int32_t {place}[{size[place]}_SIZE];"
        return f"static int8_t {place}[{size[place]}_SIZE];\nstatic float real_{place}[{size[place]}_SIZE];"

    def floats(number: int, place: str, ending: str) -> str:
        lines = [f"{name}_dequantize_{place}({place}, real_{place});"]
        lines.append(f"record({FLOATS} - {number}, real_{place}, sizeof real_{place});")
        if ending:
            lines.append(f"{ending}(real_{place});")
            lines.append(f"record({ENDED} - {number}, real_{place}, sizeof real_{place});")
        return "\n".join(f"            {line}" for line in lines)

    return _DRIVER.substitute(
        name=name,
        setup="" if plan is None else f"    if ({name}_set_plan({plan}) != 1) {{\n        return 1;\n    }}\n",
        buffers="\n".join(map(buffer, size)),
        grid_tag=GRID,
        read_codes=read(""),
        read_floats=read("real_"),
        quantize="\n".join(f"    {name}_quantize_{p}(real_{p}, {p});" for p in inputs if p not in integers),
        grids="\n".join(
            f"        grid({at}_SIZE, {'1.0, 0' if p in integers else f'{at}_SCALE, {at}_ZERO_POINT'});"
            for p, at in size.items()
        ),
        arguments=", ".join(size),
        codes="\n".join(f"        record({CODES} - {i}, {p}, sizeof {p});" for i, p in enumerate(outputs)),
        dequantize="\n".join(floats(i, *item) for i, item in enumerate(outputs.items())),
    )
