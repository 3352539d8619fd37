"""`CRunner`: an exported folder, compiled for this machine and run."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sigmaquant.errors import ExportError
from sigmaquant.export.c.report import FILE, FORMAT
from sigmaquant.lowering.executor import decode, encode
from sigmaquant.lowering.model import Edge

_COMPILERS = ("cc", "gcc", "clang")
_FLAGS = ("-std=c99", "-O2")


def _found_compiler() -> str:
    for name in _COMPILERS:
        if shutil.which(name):
            return name
    raise ExportError(f"there is no C compiler here ({', '.join(_COMPILERS)}). Install one, or name another.")


class CRunner:
    """Calls an exported network.

    It is compiled with its ``main.c`` into a program of its own, so that a fault there ends no Python.

    Args:
        folder: what `export_c` wrote.
        compiler: a command that takes gcc's options; None: ``cc``, ``gcc`` or ``clang``, the first that is there.
        flags: instead of ``-std=c99 -O2``.

    Raises:
        ExportError: no such export, no such compiler, or it does not compile.
    """

    def __init__(self, folder: str | Path, *, compiler: str | None = None, flags: Sequence[str] = _FLAGS) -> None:
        self._folder = Path(folder)
        self._document = _document(self._folder)
        self._inputs = [_edge(item) for item in self._document["inputs"]]
        self._outputs = [_edge(item) for item in self._document["outputs"]]
        self._compiler, self._flags = compiler or _found_compiler(), flags
        self._build = tempfile.TemporaryDirectory(prefix="sigmaquant-")
        self._program = self._compiled("run")

    def _compiled(self, name: str, *options: str) -> Path:
        program = Path(self._build.name) / name
        if shutil.which(self._compiler) is None:
            raise ExportError(f"there is no compiler {self._compiler!r} here. Install it, or name another one.")
        sources = sorted(str(path) for path in self._folder.glob("*.c"))
        command = [self._compiler, *self._flags, "-DSQ_STDIN", *options, "-o", str(program), *sources]
        _run(command, b"", f"compiling {self._folder}")
        return program

    def __call__(self, *inputs: Tensor) -> Any:
        """Outputs of a batch: one tensor, or a tuple of them.

        Args:
            inputs: [N, ...], one for each input; all int8 codes, or all float.

        Returns:
            Codes for codes, float32 for float: [N, ...] each.

        Raises:
            ExportError: inputs of another number or shape, or the program failed.
        """
        is_codes = all(x.dtype == torch.int8 for x in inputs)
        flat = self._flat(inputs, is_codes)
        printed = _run([str(self._program)], flat.numpy().tobytes(), f"running {self._folder}")
        sizes = [math.prod(edge.shape) for edge in self._outputs]
        values = np.array(printed.split(), dtype=np.int8).reshape(len(flat), sum(sizes))
        parts = torch.split(torch.from_numpy(values), sizes, 1)
        results = [part.reshape(len(flat), *edge.shape) for part, edge in zip(parts, self._outputs, strict=True)]
        if not is_codes:
            results = [decode(part, edge) for part, edge in zip(results, self._outputs, strict=True)]
        return results[0] if len(results) == 1 else tuple(results)

    def watch(self, *inputs: Tensor) -> dict[str, Tensor]:
        """Codes of the activations inside, by name: int8 [N, ...] each; what is only another view is left out.

        Args:
            inputs: as for a call.

        Raises:
            ExportError: as for a call.
        """
        program = self._compiled("watch", "-DSQ_WATCH")
        flat = self._flat(inputs, all(x.dtype == torch.int8 for x in inputs))
        printed = _run([str(program)], flat.numpy().tobytes(), f"running {self._folder}")
        found: dict[int, list[NDArray[np.int8]]] = {}
        for line in printed.splitlines():
            if line.startswith(b"@"):
                first, *values = line[1:].split()
                found.setdefault(int(first), []).append(np.array(values, dtype=np.int8))
        result = {}
        for number, rows in found.items():
            item, codes = self._document["activations"][number], torch.from_numpy(np.stack(rows))
            strides = (codes.shape[1], *item["strides"])
            result[str(item["name"])] = codes.as_strided((len(codes), *item["shape"]), strides).contiguous()
        return result

    def _flat(self, inputs: Sequence[Tensor], is_codes: bool) -> Tensor:
        """All inputs of one example after the other, as codes."""
        if len(inputs) != len(self._inputs):
            raise ExportError(f"{len(inputs)} inputs were given, the network has {len(self._inputs)}.")
        for x, edge in zip(inputs, self._inputs, strict=True):
            if tuple(x.shape[1:]) != edge.shape or len(x) != len(inputs[0]):
                raise ExportError(f"input {edge.name!r} has shape {list(x.shape)} instead of [N, *{list(edge.shape)}].")
        codes = [x if is_codes else encode(x, edge) for x, edge in zip(inputs, self._inputs, strict=True)]
        return torch.cat([x.cpu().reshape(len(x), -1) for x in codes], 1)


def _document(folder: Path) -> dict[str, Any]:
    try:
        document = json.loads((folder / FILE).read_text("utf-8"))
    except (OSError, ValueError):
        document = None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ExportError(f"{folder} is no C export: its {FILE} is missing or damaged.")
    return document


def _edge(item: dict[str, Any]) -> Edge:
    return Edge(item["name"], tuple(item["shape"]), item["bits"], item["scale"], item["zero_point"])


def _run(command: list[str], data: bytes, what: str) -> bytes:
    done = subprocess.run(command, input=data, capture_output=True, check=False)
    if done.returncode:
        raise ExportError(f"{what} failed ({done.returncode}): {done.stderr.decode(errors='replace').strip()}")
    return done.stdout
