"""The files around the generated code: a program that runs it, a Makefile, a few lines of explanation."""

from __future__ import annotations

import math
import textwrap
from string import Template

from torch import Tensor

from sigmaquant.export.c.code import about_places, run_signature
from sigmaquant.export.c.names import comment
from sigmaquant.export.c.report import CGrid, CReport

_MAIN = Template("""\
/* Runs $name once on the example below, prints the output codes, and returns 0 if they are the reference's.
 * With SQ_STDIN: reads input codes (int8, integers as int32; all inputs of one example after the other) from the
 * standard input until it ends, and prints one line for each output; with SQ_WATCH also one for each activation,
 * "@number codes".
$endings_about */
#include <stdio.h>

#include "$name.h"

$buffers

static void run(void)
{
    ${name}_run($arguments);
}

static void show(const int8_t *codes, int size)
{
    for (int i = 0; i < size; i++) {
        (void)printf((i > 0) ? " %d" : "%d", codes[i]);
    }
    (void)printf("\\n");
}

$endings_shows
static void show_all(void)
{
$shows
}

#ifdef SQ_WATCH
void sq_watch(int32_t number, const int8_t *codes, int32_t count);

void sq_watch(int32_t number, const int8_t *codes, int32_t count)
{
    (void)printf("@%d ", (int)number);
    show(codes, (int)count);
}
#endif

#ifdef SQ_STDIN
int main(void)
{
    while ($reads) {
        run();
        show_all();
    }
    return 0;
}
#else
$examples

static int differences(const int8_t *codes, const int8_t *expected, int size)
{
    int count = 0;
    for (int i = 0; i < size; i++) {
        count += (codes[i] != expected[i]) ? 1 : 0;
    }
    return count;
}

int main(void)
{
    int count = 0;
$copies
    run();
    show_all();
$compares
    (void)printf("%s\\n", (count == 0) ? "as the reference" : "NOT as the reference");
    return (count == 0) ? 0 : 1;
}
#endif
""")

_ABOUT_VALUES = ' * With SQ_ENDINGS also one for what the network returns in place of an output, "= values".\n'

_SHOW_VALUES = """\
#ifdef SQ_ENDINGS
static void show_values(const float *values, int size)
{
    (void)printf("=");
    for (int i = 0; i < size; i++) {
        (void)printf(" %.9g", (double)values[i]);
    }
    (void)printf("\\n");
}
#endif

"""

_MAKEFILE = Template("""\
# make            builds ./$name for this machine and runs its example
# make library    builds lib$name.a; for a microcontroller:
#                 make library CC=arm-none-eabi-gcc AR=arm-none-eabi-ar TARGET="-mcpu=cortex-m4 -mthumb"
CC = cc
AR = ar
TARGET =
CFLAGS = -std=c99 -O2 -Wall -Wextra -pedantic -ffunction-sections -fdata-sections
OBJECTS = $objects

test: $name
	./$name

$name: main.o lib$name.a
	$$(CC) $$(TARGET) $$(CFLAGS) -o $$@ main.o lib$name.a$libraries

library: lib$name.a

lib$name.a: $$(OBJECTS)
	rm -f $$@
	$$(AR) rcs $$@ $$(OBJECTS)

%.o: %.c
	$$(CC) $$(TARGET) $$(CFLAGS) -c -o $$@ $$<

clean:
	rm -f *.o lib$name.a $name

.PHONY: test library clean
""")

_README = Template("""\
# $name

A quantized network in C99, integer arithmetic only, written by SigmaQuant. `$name.h` is its interface.

- This machine: `make` builds it and runs its example against the reference's result.
- Cortex-M: `make library CC=arm-none-eabi-gcc AR=arm-none-eabi-ar TARGET="-mcpu=cortex-m4 -mthumb"`, then link
  `lib$name.a` with `--gc-sections`. Add `main.c` to check the result on the device. `TARGET` must be the same as for
  the rest of your firmware (`make clean` in between).

| memory | bytes |
| --- | --- |
| flash: packed weights | $weights |
| flash: biases, factors, tables | $tables |
| RAM: arena (activations and scratch) | $arena |
| RAM: inputs and outputs, the caller's | $caller |

| layer | kernel | bits | weights, bytes | scratch, bytes | multiplications |
| --- | --- | --- | --- | --- | --- |
$layers

## Calling it

```c
$signature;
```

$arguments

One call at a time: the arena is static. `SQ_PLAIN` turns the DSP instructions off that Cortex-M4, M7, M33 and M55 have.
""")


def main_source(report: CReport, inputs: list[Tensor], outputs: list[Tensor]) -> str:
    """``main.c``; `inputs` and `outputs` are the codes of one example and the reference's result."""
    ins, outs = [grid.place for grid in report.read], [grid.place for grid in report.written]
    size = {place: _size(report, place) for place in ins + outs}
    kinds = {grid.place: grid.kind for grid in (*report.read, *report.written)}
    examples = [
        codes_array(f"example_{place}", size[place], t, kinds[place])
        for place, t in zip(ins + outs, inputs + outputs, strict=True)
    ]
    return _MAIN.substitute(
        name=report.name,
        buffers="\n".join(f"static {kinds[place]} {place}[{size[place]}];" for place in ins + outs),
        arguments=", ".join(ins + outs),
        shows="\n".join(_shown(report, grid) for grid in report.written),
        reads=" && ".join(f"(fread({p}, 1, sizeof {p}, stdin) == sizeof {p})" for p in ins),
        examples="\n\n".join(examples),
        copies="\n".join(
            f"    for (int i = 0; i < {size[p]}; i++) {{\n        {p}[i] = example_{p}[i];\n    }}" for p in ins
        ),
        compares="\n".join(f"    count += differences({p}, example_{p}, {size[p]});" for p in outs),
        endings_about=_ABOUT_VALUES * report.has_endings,
        endings_shows=_SHOW_VALUES * report.has_endings,
    )


def _size(report: CReport, place: str) -> str:
    return f"{report.name.upper()}_{place.upper()}_SIZE"


def _shown(report: CReport, grid: CGrid) -> str:
    size, lines = _size(report, grid.place), [f"    show({grid.place}, {_size(report, grid.place)});"]
    if grid.endings:
        lines += [
            "#ifdef SQ_ENDINGS",
            "    {",
            f"        static float values[{size}];",
            f"        {report.name}_dequantize_{grid.place}({grid.place}, values);",
            f"        {report.ending(grid)}(values);",
            f"        show_values(values, {size});",
            "    }",
            "#endif",
        ]
    return "\n".join(lines)


def makefile(report: CReport, sources: list[str]) -> str:
    """The Makefile; `sources` are all C files but ``main.c``."""
    objects = " ".join(name.removesuffix(".c") + ".o" for name in sources)
    return _MAKEFILE.substitute(name=report.name, objects=objects, libraries=" -lm" * report.has_endings)


def readme(report: CReport) -> str:
    """README.md."""
    layers = [
        f"| {comment(n.name)} | {n.kernel} | {n.bits} | {n.weight_bytes} | {n.scratch_bytes} | {n.macs} |"
        for n in report.layers
    ]
    return _README.substitute(
        name=report.name,
        weights=report.weight_bytes,
        tables=report.table_bytes,
        arena=report.arena_bytes,
        caller=report.input_bytes + report.output_bytes,
        layers="\n".join(layers),
        signature=run_signature(report),
        arguments="\n".join(_arguments(report)),
    )


def _arguments(report: CReport) -> list[str]:
    """What is behind each argument, and what the network has besides."""
    lines = ["| argument | values | shape | codes of |", "| --- | --- | --- | --- |"]
    for grid in (*report.read, *report.written):
        ending = "".join(f"; `{report.ending(grid)}` makes the network's result of it" for _ in grid.endings[:1])
        lines.append(f"| `{grid.place}` | {grid.count} | {list(grid.whole_shape)} | {comment(grid.name)}{ending} |")
    about = [line.removeprefix(" * ") for line in about_places(report)]
    if report.has_endings:
        about.append(
            "A softmax, log-softmax or sigmoid at the network's end is no part of the integer network. Its outputs are "
            f"what that function reads, with the same largest value. `{report.name}_endings.c` has the function: in "
            "float, in place, for dequantized values. Only who calls it links the C library's mathematics (`-lm`)."
        )
    return [*lines, *([""] if about else []), *about]


def codes_array(name: str, size: str, codes: Tensor, kind: str = "int8_t") -> str:
    """Constants of an example."""
    values = ", ".join(map(str, codes.reshape(-1).tolist()))
    assert math.prod(codes.shape) > 0, "edges have codes"
    text = textwrap.fill(values, 116, initial_indent="    ", subsequent_indent="    ")
    return f"static const {kind} {name}[{size}] = {{\n{text},\n}};"
