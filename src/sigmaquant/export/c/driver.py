"""The program that the runner compiles an exported folder with: codes or floats in, records out.

It is our own, not the folder's ``main.c``: it also calls the helpers for floats, and says what the header's constants
are, so that a file that was changed by hand cannot stay unnoticed behind a right network.
"""

from __future__ import annotations

from string import Template

from sigmaquant.export.c.translate import argument

GRID, CODES, FLOATS = -1, -1000, -2000
"""Tags of records: a grid's constants, an output's codes and floats (minus its number); others are activations."""

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
    if (strcmp(mode, "grids") == 0) {
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


def driver_source(name: str, inputs: int, outputs: int) -> str:
    """The driver for a network of that name with so many inputs and outputs.

    Its argument is ``codes``, ``floats`` or ``grids``. It reads examples from the standard input, all inputs of one
    after the other, until they end, and writes records: int32 tag, int32 bytes, data.
    """
    ins = [argument("input", i, inputs) for i in range(inputs)]
    outs = [argument("output", i, outputs) for i in range(outputs)]
    size = {place: f"{name.upper()}_{place.upper()}" for place in ins + outs}

    def read(prefix: str) -> str:
        return " && ".join(f"(fread({prefix}{p}, sizeof {prefix}{p}, 1, stdin) == 1)" for p in ins)

    return _DRIVER.substitute(
        name=name,
        buffers="\n".join(
            f"static int8_t {p}[{size[p]}_SIZE];\nstatic float real_{p}[{size[p]}_SIZE];" for p in ins + outs
        ),
        grid_tag=GRID,
        read_codes=read(""),
        read_floats=read("real_"),
        quantize="\n".join(f"    {name}_quantize_{p}(real_{p}, {p});" for p in ins),
        grids="\n".join(f"        grid({size[p]}_SIZE, {size[p]}_SCALE, {size[p]}_ZERO_POINT);" for p in ins + outs),
        arguments=", ".join(ins + outs),
        codes="\n".join(f"        record({CODES} - {i}, {p}, sizeof {p});" for i, p in enumerate(outs)),
        dequantize="\n".join(
            f"            {name}_dequantize_{p}({p}, real_{p});\n"
            f"            record({FLOATS} - {i}, real_{p}, sizeof real_{p});"
            for i, p in enumerate(outs)
        ),
    )
