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
_UNPACKS = re.compile(r"^\.(sq_unpack_(?:odd_)?\d)$")
_WHOLE_BYTES = 32_000
_CALL_BYTES = 400
"""The bound without a compiler: all kernels that there are, of 24.7 KB compiled so, and more than any call took."""
_SECONDS = 120.0


@dataclass(frozen=True)
class CodeBytes:
    """Code and its constants, without weights and tables.

    Attributes:
        shared: of all functions but those that unpack weights.
        unpacking: of each function that unpacks weights of one width, by name.
        measured: whether a compiler said so; else it is a bound.
    """

    shared: int
    unpacking: dict[str, int]
    measured: bool

    def total(self, used: Collection[str]) -> int:
        """With the functions that are used; the linker leaves the others out."""
        return self.shared + sum(size for name, size in self.unpacking.items() if name in used)


def unpacker(bits: int, midrise: bool) -> str:
    """The function that unpacks weights of a width."""
    return f"sq_unpack_{'odd_' if midrise else ''}{bits}"


def code_bytes(folder: Path) -> CodeBytes:
    """Of an exported folder: compiled for Cortex-M4 where its compiler is installed, else a bound."""
    sources = [path for path in sorted(folder.glob("*.c")) if path.name != "main.c" and "_weights" not in path.name]
    if shutil.which(COMPILER) is None or shutil.which(_SIZE) is None:
        return _bound(folder)
    shared, unpacking = 0, dict[str, int]()
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
                    if found := _UNPACKS.match(name):
                        unpacking[found[1]] = int(size)
                    else:
                        shared += int(size)
        except (OSError, subprocess.SubprocessError):  # a compiler without its library, say
            return _bound(folder)
    return CodeBytes(shared, unpacking, True)


def _bound(folder: Path) -> CodeBytes:
    calls = sum(path.read_text(encoding="utf-8").count("_params = {") for path in folder.glob("*.c"))
    return CodeBytes(_WHOLE_BYTES + _CALL_BYTES * calls, {}, False)
