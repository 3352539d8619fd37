"""`CRunner`: an exported folder, compiled for this machine and run."""

from __future__ import annotations

import hashlib
import math
import re
import shutil
import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sigmaquant.errors import ArtifactError, ExportError
from sigmaquant.export.c.driver import CODES, ENDED, FLOATS, GRID, driver_source
from sigmaquant.export.c.endings import FUNCTIONS
from sigmaquant.export.c.names import ending_name
from sigmaquant.export.c.report import FILE, FORMAT, PLANS_FORMAT
from sigmaquant.export.c.translate import argument
from sigmaquant.json_text import read_json
from sigmaquant.operators import Edge, decode, encode
from sigmaquant.runs.scratch import ScratchFolder

_COMPILERS = ("cc", "gcc", "clang")
_FLAGS = ("-std=c99", "-O2")
_HEAD = struct.Struct("=ii")


def _found_compiler() -> str:
    for name in _COMPILERS:
        if shutil.which(name):
            return name
    raise ExportError(f"there is no C compiler here ({', '.join(_COMPILERS)}). Install one, or name another.")


class CRunner:
    """Calls an exported network.

    Of the folder only what ``export.json`` lists is compiled, and only if its digest is the one that stands there. It
    becomes a program of its own, so that a fault there ends no Python.

    Args:
        folder: what `export_c` wrote.
        compiler: a command that takes gcc's options; None: ``cc``, ``gcc`` or ``clang``, the first that is there.
        flags: instead of ``-std=c99 -O2``.
        plan: which one of a folder with several plans, 0 the largest.

    Raises:
        ArtifactError: no such export, files that are not the listed ones, code that does not compile, or constants in
            the header that are not those of ``export.json``.
        ExportError: no such compiler.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        compiler: str | None = None,
        flags: Sequence[str] = _FLAGS,
        plan: int = 0,
    ) -> None:
        self._folder = Path(folder)
        self._document, self._plan = _document(self._folder, plan)
        try:
            self._name = str(self._document["name"])
            self._inputs = [_edge(item) for item in self._document["inputs"]]
            self._outputs = [_edge(item) for item in self._document["outputs"]]
            self._endings = [_functions(item) for item in self._document["outputs"]]
            self._files = {str(file): str(digest) for file, digest in self._document["files"].items()}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ArtifactError(
                f"{self._folder / FILE} is damaged, or by an earlier release: {error!r}. Export the network again."
            ) from error
        self._read = [edge for edge in self._inputs if not edge.is_float]
        self._written = [edge for edge in self._outputs if not edge.is_float]
        self._compiler, self._flags = compiler or _found_compiler(), flags
        self._build = ScratchFolder()
        self._sources = self._copied()
        self._program = self._compiled("run")
        self._check_constants()

    @property
    def edges(self) -> tuple[tuple[Edge, ...], tuple[Edge, ...]]:
        """The grids of inputs and outputs, as the folder has them."""
        return tuple(self._inputs), tuple(self._outputs)

    @property
    def endings(self) -> tuple[tuple[str, ...], ...]:
        """The functions in float behind each output."""
        return tuple(self._endings)

    def _copied(self) -> Path:
        """The listed files, as they were when their digests were looked at."""
        copy = self._build.path / "folder"
        copy.mkdir()
        if f"{self._name}.c" not in self._files or not re.fullmatch(r"[A-Za-z_]\w*", self._name):
            raise ArtifactError(f"{self._folder / FILE} is damaged: it does not list {self._name}.c.")
        for file, digest in self._files.items():
            try:
                content = (self._folder / file).read_bytes() if PurePath(file).name == file else b""
            except OSError as error:
                raise ArtifactError(f"{self._folder / file} is listed in {FILE} and cannot be read: {error}.") from None
            if hashlib.sha256(content).hexdigest() != digest:
                raise ArtifactError(
                    f"{self._folder / file} is not the file that was written: its SHA-256 is not the one in {FILE}. "
                    "Export the network again."
                )
            (copy / file).write_bytes(content)
        return copy

    def _compiled(self, name: str, *options: str) -> Path:
        build = self._build.path
        program, driver = build / name, build / "driver.c"
        if shutil.which(self._compiler) is None:
            raise ExportError(f"there is no compiler {self._compiler!r} here. Install it, or name another one.")
        driver.write_text(self._driver(), encoding="utf-8")
        listed = sorted(str(self._sources / file) for file in self._files if file.endswith(".c") and file != "main.c")
        given = [str(driver), *listed, *(["-lm"] if any(self._endings) else [])]
        command = [self._compiler, *self._flags, *options, "-I", str(self._sources), "-o", str(program), *given]
        _run(command, b"", f"compiling {self._folder}")
        return program

    def _driver(self) -> str:
        inputs = [argument("input", i, len(self._inputs)) for i, e in enumerate(self._inputs) if not e.is_float]
        outputs = {}
        for number, (edge, functions) in enumerate(zip(self._outputs, self._endings, strict=True)):
            place = argument("output", number, len(self._outputs))
            if not edge.is_float:
                outputs[place] = ending_name(self._name, functions, place) if functions else ""
        integers = {argument("input", i, len(self._inputs)) for i, e in enumerate(self._inputs) if e.integers}
        return driver_source(self._name, inputs, outputs, self._plan, integers)

    def _records(self, program: Path, mode: str, data: bytes) -> list[tuple[int, bytes]]:
        printed = _run([str(program), mode], data, f"running {self._folder}")
        found, place = [], 0
        while place < len(printed):
            tag, size = _HEAD.unpack_from(printed, place)
            place += _HEAD.size
            found.append((tag, printed[place : place + size]))
            place += size
        return found

    def _check_constants(self) -> None:
        """The header's constants against those that the folder's document has."""
        records = [
            struct.unpack("=ddd", data) for tag, data in self._records(self._program, "grids", b"") if tag == GRID
        ]
        for edge, (size, scale, zero) in zip([*self._read, *self._written], records, strict=True):
            wanted = (edge.rows * math.prod(edge.shape), float(np.float32(edge.scale)), edge.zero_point)
            if (size, scale, zero) != wanted:
                raise ArtifactError(
                    f"{self._folder / self._name}.h has size, scale and zero-point {size:.0f}, {scale:.9g} and "
                    f"{zero:.0f} for {edge.name!r}; {FILE} has {wanted[0]}, {wanted[1]:.9g} and {wanted[2]}. "
                    "Export the network again."
                )

    def __call__(self, *inputs: Tensor) -> Any:
        """Outputs of a batch: one tensor, or a tuple of them.

        Args:
            inputs: [N * rows, ...], one for each input of the network; all int8 codes, or all float, which the
                network's own helpers turn into codes, and its outputs back into floats. Those that the network does
                not read may be anything.

        Returns:
            Codes for codes; for floats what the network returns, float32, a softmax at its end included:
            [N * rows, ...] each. An output that is an unread input is that tensor.

        Raises:
            ExportError: inputs of another number or shape.
            ArtifactError: the program failed, or its helpers' floats are not those of its codes.
        """
        flat, is_codes = self._flat(inputs)
        records = self._records(self._program, "codes" if is_codes else "floats", flat.tobytes())
        results, number = [], 0
        for edge, ending in zip(self._outputs, self._endings, strict=True):
            if edge.is_float:
                results.append(inputs[[item.name for item in self._inputs].index(edge.name)])
                continue
            codes = self._joined(records, CODES - number, np.int8, len(flat), edge)
            if is_codes:
                results.append(codes)
            else:
                real = self._joined(records, FLOATS - number, np.float32, len(flat), edge)
                if not torch.equal(real, decode(codes, edge)):
                    raise ArtifactError(
                        f"{self._folder}: the helper for floats of {edge.name!r} does not fit its codes."
                    )
                ended = self._joined(records, ENDED - number, np.float32, len(flat), edge) if ending else real
                results.append(ended)
            number += 1
        return results[0] if len(results) == 1 else tuple(results)

    def _joined(self, records: list[tuple[int, bytes]], tag: int, kind: Any, count: int, edge: Edge) -> Tensor:
        data = b"".join(content for found, content in records if found == tag)
        if len(data) != count * edge.rows * math.prod(edge.shape) * np.dtype(kind).itemsize:
            raise ArtifactError(f"{self._folder}: the program gives another number of values for {edge.name!r}.")
        return torch.from_numpy(np.frombuffer(data, dtype=kind).reshape(count * edge.rows, *edge.shape).copy())

    def watch(self, *inputs: Tensor) -> dict[str, Tensor]:
        """Codes of the activations inside, by name: int8 [N * rows, ...]; what is only another view is left out.

        Args:
            inputs: as for a call.

        Raises:
            ExportError, ArtifactError: as for a call.
        """
        program = self._compiled("watch", "-DSQ_WATCH")
        flat, is_codes = self._flat(inputs)
        found: dict[int, list[bytes]] = {}
        for tag, content in self._records(program, "codes" if is_codes else "floats", flat.tobytes()):
            if tag >= 0:
                found.setdefault(tag, []).append(content)
        result = {}
        for number, rows in found.items():
            item = self._document["activations"][number]
            codes = torch.from_numpy(np.frombuffer(b"".join(rows), dtype=np.int8).reshape(len(rows), -1).copy())
            strides = (codes.shape[1], *item["strides"])
            whole = codes.as_strided((len(codes), *item["shape"]), strides).contiguous()
            result[str(item["name"])] = whole.flatten(0, 1) if item["rows"] > 1 else whole
        return result

    def _flat(self, inputs: Sequence[Tensor]) -> tuple[NDArray[np.uint8], bool]:
        """The bytes of all inputs of one example after the other, as codes or floats, and whether they are codes."""
        if len(inputs) != len(self._inputs):
            raise ExportError(f"{len(inputs)} inputs were given, the network has {len(self._inputs)}.")
        pairs = [(x, edge) for x, edge in zip(inputs, self._inputs, strict=True) if not edge.is_float]
        kinds = {x.dtype for x, edge in pairs if not edge.integers}
        is_codes = kinds == {torch.int8}
        examples = {divmod(len(x) if x.dim() else 0, edge.rows) for x, edge in pairs}
        for x, edge in pairs:
            if tuple(x.shape[1:]) != edge.shape or len(examples) > 1 or min(examples)[1]:
                rows = "N" if edge.rows == 1 else f"N * {edge.rows}"
                expected = f"[{', '.join([rows, *map(str, edge.shape)])}]"
                raise ExportError(f"input {edge.name!r} has shape {list(x.shape)} instead of {expected}.")
        kind, count = torch.int8 if is_codes else torch.float32, min(examples)[0]
        parts = []
        for x, edge in pairs:
            values = encode(x.detach().cpu(), edge).to(torch.int32) if edge.integers else x.detach().cpu().to(kind)
            parts.append(values.reshape(count, -1).numpy().view(np.uint8).reshape(count, -1))
        return np.concatenate(parts, axis=1), is_codes


def _document(folder: Path, plan: int) -> tuple[dict[str, Any], int | None]:
    """What the folder says of a plan, and the plan's number; None where there is but one."""
    try:
        document = read_json((folder / FILE).read_bytes())
    except (OSError, ValueError):
        document = None
    if isinstance(document, dict) and document.get("format") == PLANS_FORMAT:
        try:
            own = document["plans"][plan]
            return {**own, "name": document["name"], "files": document["files"]}, plan
        except (KeyError, IndexError, TypeError) as error:
            raise ArtifactError(f"{folder / FILE} has no plan {plan}, or is damaged: {error!r}.") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ArtifactError(f"{folder} is no C export: its {FILE} is missing or damaged.")
    return document, None


def _edge(item: dict[str, Any]) -> Edge:
    shape = tuple(int(size) for size in item["shape"])
    bits, zero, rows = (int(item[key]) for key in ("bits", "zero_point", "rows"))
    return Edge(str(item["name"]), shape, bits, float(item["scale"]), zero, rows, integers=int(item.get("integers", 0)))


def _functions(item: dict[str, Any]) -> tuple[str, ...]:
    """The functions behind an output, which become part of a C name."""
    found = tuple(str(ending["function"]) for ending in item["endings"])
    if not set(found) <= FUNCTIONS:
        raise ValueError(f"functions {found}")
    return found


def _run(command: list[str], data: bytes, what: str) -> bytes:
    done = subprocess.run(command, input=data, capture_output=True, check=False)
    if done.returncode:
        raise ArtifactError(f"{what} failed ({done.returncode}): {done.stderr.decode(errors='replace').strip()}")
    return done.stdout
