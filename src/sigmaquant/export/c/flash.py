"""Bytes of code that an exported folder takes in flash: compiled for a microcontroller, or a bound."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

COMPILER = "arm-none-eabi-gcc"
FLAGS = ("-mcpu=cortex-m4", "-mthumb", "-std=c99", "-O2", "-ffunction-sections", "-fdata-sections")
"""As in the figures of the shipped profiles."""
_SIZE = "arm-none-eabi-size"
_SECTION = re.compile(r"^\.(text|rodata)(\S*)\s+(\d+)", re.MULTILINE)
_OF_WIDTHS = re.compile(r"^\.(sq_unpack_(?:odd_)?\d$|sq_narrow)")
_NARROW = "sq_narrow"
_WHOLE_BYTES = 32_000
_CALL_BYTES = 400
"""The bound without a compiler: all kernels that there are, of 24.7 KB compiled so, and more than any call took."""
_SECONDS = 120.0


@dataclass(frozen=True)
class CodeBytes:
    """Code and its constants, without weights and tables.

    Attributes:
        shared: of all functions but those for weights of some widths.
        of_widths: of each function that unpacks weights of one width, and of those that multiply narrow ones, by name.
        measured: whether a compiler said so; else it is a bound.
    """

    shared: int
    of_widths: dict[str, int]
    measured: bool

    def total(self, used: Collection[str]) -> int:
        """With the functions that are used; the linker leaves the others out."""
        return self.shared + sum(size for name, size in self.of_widths.items() if name in used)


def has_narrow_codes(bits: int, midrise: bool) -> bool:
    """Whether all codes of a width are within -3..3, which convolutions have inner loops of their own for."""
    return bits <= (2 if midrise else 3)


def functions_of(bits: int, midrise: bool) -> set[str]:
    """The functions that weights of a width need, of those that not all need."""
    return {f"sq_unpack_{'odd_' if midrise else ''}{bits}"} | ({_NARROW} if has_narrow_codes(bits, midrise) else set())


def code_bytes(folder: Path) -> CodeBytes:
    """Of an exported folder: compiled for Cortex-M4 where its compiler is installed, else a bound."""
    sources = [path for path in sorted(folder.glob("*.c")) if path.name != "main.c" and "_weights" not in path.name]
    if shutil.which(COMPILER) is None or shutil.which(_SIZE) is None:
        return _bound(folder)
    shared, of_widths = 0, dict[str, int]()
    with tempfile.TemporaryDirectory(prefix="sigmaquant-") as build:
        try:
            for source in sources:
                target = str(Path(build) / f"{source.stem}.o")
                for command in ([COMPILER, *FLAGS, "-I", str(folder), "-c", str(source), "-o", target],):
                    subprocess.run(command, check=True, capture_output=True, timeout=_SECONDS)
                listed = subprocess.run(
                    [_SIZE, "-A", target], check=True, capture_output=True, text=True, timeout=_SECONDS
                ).stdout
                for _, name, size in _SECTION.findall(listed):
                    if found := _OF_WIDTHS.match(name):
                        of_widths[found[1]] = of_widths.get(found[1], 0) + int(size)
                    else:
                        shared += int(size)
        except (OSError, subprocess.SubprocessError):  # a compiler without its library, say
            return _bound(folder)
    return CodeBytes(shared, of_widths, True)


def _bound(folder: Path) -> CodeBytes:
    calls = sum(path.read_text(encoding="utf-8").count("_params = {") for path in folder.glob("*.c"))
    return CodeBytes(_WHOLE_BYTES + _CALL_BYTES * calls, {}, False)
