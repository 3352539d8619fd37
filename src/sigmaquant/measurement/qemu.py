"""Running exported C under QEMU: an emulated Cortex-M board counts the instructions of kernels or of a whole network.

Needs arm-none-eabi-gcc with newlib, and qemu-system-arm. Instructions are not cycles: loads, multiplications and
branches count one each.

As a runner of ``sigmaquant hardware measure --to c``::

    python -m sigmaquant.measurement.qemu {model} {runs} [m4|m7]
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from sigmaquant.errors import MeasurementError

TOOLS = ("arm-none-eabi-gcc", "arm-none-eabi-size", "qemu-system-arm")
TICK = 40
"""Instructions for each tick of SysTick: 25 MHz on both machines, one nanosecond an instruction (icount shift 0)."""

LINKER_SCRIPT = """
ENTRY(reset)
MEMORY { FLASH (rx): ORIGIN = 0x00000000, LENGTH = 4M - 256  RAM (rwx): ORIGIN = 0x20000000, LENGTH = 4M - 256 }
SECTIONS {
  .vectors : { KEEP(*(.vectors)) } > FLASH
  .text : { *(.text*) *(.rodata*) KEEP(*(.init)) KEEP(*(.fini)) . = ALIGN(4); } > FLASH
  .ARM.extab : { *(.ARM.extab*) } > FLASH
  .ARM.exidx : { __exidx_start = .; *(.ARM.exidx*) __exidx_end = .; } > FLASH
  data_source = LOADADDR(.data);
  .data : { data_start = .; *(.data*) . = ALIGN(4); data_end = .; } > RAM AT> FLASH
  .bss : { bss_start = .; *(.bss*) *(COMMON) . = ALIGN(8); bss_end = .; end = .; } > RAM
  stack_end = ORIGIN(RAM) + LENGTH(RAM);
}
"""
STARTUP = """
#include <stdint.h>
#include <stdlib.h>
extern uint32_t stack_end, data_source, data_start, data_end, bss_start, bss_end;
extern void initialise_monitor_handles(void);
extern int board_main(void);
void reset(void);
static void fault(void) { exit(3); }
__attribute__((section(".vectors"), used)) static void *const vectors[] = {
    &stack_end, (void *)reset, (void *)fault, (void *)fault, (void *)fault, (void *)fault, (void *)fault};
__attribute__((used, noreturn)) void reset(void) {
    *(volatile uint32_t *)0xE000ED88 |= 0xFU << 20; /* floating point on: the C library may use it */
    __asm volatile("dsb\\nisb");
    for (uint32_t *from = &data_source, *to = &data_start; to < &data_end;) { *to++ = *from++; }
    for (uint32_t *to = &bss_start; to < &bss_end;) { *to++ = 0; }
    initialise_monitor_handles();
    exit(board_main());
}
"""
TIMING_HEADER = """
#ifndef TIMING_H
#define TIMING_H
#include "sq.h"
void timing_start(void);
void timing_stop(const char *kernel);
#define TIMED(kernel, ...) (timing_start(), (kernel)(__VA_ARGS__), timing_stop(#kernel))
"""
TIMING_SOURCE = """
#include <stdio.h>
#include <stdint.h>
#define CONTROL (*(volatile uint32_t *)0xE000E010)
#define RELOAD (*(volatile uint32_t *)0xE000E014)
#define VALUE (*(volatile uint32_t *)0xE000E018)
static struct { const char *kernel; uint32_t ticks; } calls[1024];
static int count;
static uint32_t begin;
void timing_start(void);
void timing_stop(const char *kernel);
int example_main(void);
int board_main(void);
void timing_start(void) { begin = VALUE; }
void timing_stop(const char *kernel) {
    calls[count].ticks = (begin - VALUE) & 0xFFFFFFU;
    calls[count].kernel = kernel;
    count++;
}
int board_main(void) {
    RELOAD = 0xFFFFFFU;
    VALUE = 0;
    CONTROL = 5;
    int result = example_main();
    for (int i = 0; i < count; i++) { printf("ticks %s %lu\\n", calls[i].kernel, (unsigned long)calls[i].ticks); }
    return result;
}
"""


@dataclass(frozen=True)
class Board:
    """A machine of QEMU.

    Attributes:
        machine: its name there.
        flags: of the compiler.
    """

    machine: str
    flags: tuple[str, ...]


BOARDS = {
    "m4": Board("mps2-an386", ("-mcpu=cortex-m4", "-mthumb")),
    "m7": Board("mps2-an500", ("-mcpu=cortex-m7", "-mthumb")),
}


def missing_tools() -> list[str]:
    """Commands that are not installed."""
    return [tool for tool in TOOLS if shutil.which(tool) is None]


def kernel_instructions(board: Board, folder: Path, name: str, optimization: str = "-O2") -> list[tuple[str, int]]:
    """Kernels of an exported folder in the order of their calls, and their instructions.

    Args:
        board: what it is compiled for and runs on.
        folder: of the export.
        name: of the network there.
        optimization: the compiler's level.

    Raises:
        MeasurementError: it does not build, or its result is not the reference's.
    """
    kernels = sorted(set(re.findall(r"\b(sq_\w+)\(&", (folder / f"{name}.c").read_text(encoding="utf-8"))))
    return _run(board, folder, name, (f"{name}.c", "sq.h", kernels), optimization)


def network_instructions(board: Board, folder: Path, name: str, optimization: str = "-O2") -> int:
    """Instructions of one inference.

    Raises:
        MeasurementError: it does not build, or its result is not the reference's.
    """
    return _run(board, folder, name, ("main.c", f"{name}.h", [f"{name}_run"]), optimization)[0][1]


def _run(
    board: Board, folder: Path, name: str, timed: tuple[str, str, list[str]], optimization: str
) -> list[tuple[str, int]]:
    """Instructions of calls of some functions, which a header declares, in one source file."""
    where, declared, functions = timed
    folder = folder.resolve()
    with tempfile.TemporaryDirectory(prefix="sigmaquant-") as scratch:
        build = Path(scratch)
        macros = [f"#define {k}(...) TIMED({k}, __VA_ARGS__)" for k in functions]
        lines = [TIMING_HEADER.replace("sq.h", declared), *macros, "#endif\n"]
        (build / "timing.h").write_text("\n".join(lines))
        (build / "timing.c").write_text(TIMING_SOURCE)
        (build / "startup.c").write_text(STARTUP)
        (build / "board.ld").write_text(LINKER_SCRIPT)
        common = ["arm-none-eabi-gcc", *board.flags, "-std=c99", optimization, "-ffunction-sections", "-I", str(folder)]
        objects = []
        for source in [*sorted(folder.glob("*.c")), build / "timing.c", build / "startup.c"]:
            extra = ["-include", str(build / "timing.h")] if source.name == where else []
            extra += ["-Dmain=example_main"] if source.name == "main.c" else []
            objects.append(str(build / f"{source.stem}.o"))
            command([*common, *extra, "-c", str(source), "-o", objects[-1]])
        image = build / "image.elf"
        link = ["--specs=rdimon.specs", "-nostartfiles", "-Wl,--gc-sections", "-T", str(build / "board.ld")]
        command([*common, *link, *objects, "-o", str(image)])
        emulate = ["qemu-system-arm", "-M", board.machine, "-nographic", "-monitor", "none", "-serial", "none"]
        emulate += ["-semihosting-config", "enable=on,target=native", "-icount", "shift=0", "-kernel", str(image)]
        printed = command(emulate)
    if "\nas the reference" not in printed:
        raise MeasurementError(f"{name} on {board.machine}: its result is not the reference's: {printed[-500:]}")
    return [(name, int(ticks) * TICK) for name, ticks in re.findall(r"^ticks (\w+) (\d+)", printed, re.MULTILINE)]


def command(words: list[str]) -> str:
    """What a command prints; its error text is in the exception where it fails."""
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=900)
    if done.returncode:
        raise MeasurementError(f"{words[0]} failed ({done.returncode}): {(done.stderr + done.stdout)[-2000:]}")
    return done.stdout


def _main(folder: Path, core: str) -> int:
    absent = missing_tools()
    if absent:
        print(f"needs {', '.join(absent)}", file=sys.stderr)
        return 2
    try:
        document = json.loads((folder / "export.json").read_text(encoding="utf-8"))
        print(json.dumps({"cycles": network_instructions(BOARDS[core], folder, document["name"])}))
    except (MeasurementError, OSError, KeyError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(_main(Path(sys.argv[1]), sys.argv[3] if len(sys.argv) > 3 else "m4"))
