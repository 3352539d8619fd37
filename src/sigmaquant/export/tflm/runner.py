"""Running a file in TensorFlow Lite Micro's own interpreter, in a process of its own, where it can crash no other."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sigmaquant.errors import ArtifactError, ExportError, MissingExtraError
from sigmaquant.export.tflm.child import receive, send

_ARENA = re.compile(r"Arena allocation total (\d+) bytes")
_NOISE = ("Traceback", "  ", "RuntimeError", "ValueError", "INFO:")
_SHOWN = 3


@dataclass(frozen=True)
class Port:
    """An input or output of a file.

    Attributes:
        shape: with the batch dimension.
        is_float: whether it takes or gives floats; else codes.
        scale: of the codes.
        zero_point: of the codes.
    """

    shape: tuple[int, ...]
    is_float: bool
    scale: float
    zero_point: int

    def encoded(self, x: Tensor) -> NDArray[Any]:
        """Floats as the file takes them."""
        values: NDArray[Any] = x.detach().cpu().numpy().astype(np.float32)
        if self.is_float:
            return values
        return (np.rint(values / np.float32(self.scale)) + self.zero_point).clip(-128, 127).astype(np.int8)

    def decoded(self, values: NDArray[Any]) -> Tensor:
        """What the file gives as floats."""
        result = torch.from_numpy(values)
        return result if self.is_float else result.float().sub_(self.zero_point).mul_(torch.tensor(self.scale))


class TflmRunner:
    """A .tflite file as a function of batches, one example after the other.

    Args:
        path: of the file.
        show: tensors that are given behind the outputs, by index.

    Attributes:
        inputs: of the file.
        outputs: of the file.

    Raises:
        ArtifactError: no file, or none that the runtime can load; the runtime's own words are in it.
        MissingExtraError: the extra ``tflm`` is not installed.
    """

    def __init__(self, path: str | Path, show: Sequence[int] = ()) -> None:
        if find_spec("tflite_micro") is None:
            raise MissingExtraError("TensorFlow Lite Micro", "tflm")
        self._path = Path(path)
        self._said: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the process
        command = [sys.executable, str(Path(__file__).with_name("child.py")), str(path), *map(str, show)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said, bufsize=-1
        )
        self._ends = weakref.finalize(self, _end, self._process, self._said)
        head = self._received()
        ports = [
            Port(tuple(map(int, shape)), bool(grid[0]), float(np.float32(grid[1])), int(grid[2]))
            for shape, grid in zip(head[1::2], head[2::2], strict=True)
        ]
        self.inputs, self.outputs = ports[: int(head[0][0])], ports[int(head[0][0]) :]

    def __call__(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Float outputs from float inputs, each with the batch first and in the network's layout."""
        found = self.raw(*inputs)[: len(self.outputs)]
        outputs = tuple(port.decoded(values) for port, values in zip(self.outputs, found, strict=True))
        return outputs[0] if len(outputs) == 1 else outputs

    def raw(self, *inputs: Tensor) -> list[NDArray[Any]]:
        """The outputs as the file has them, and what is shown; from float inputs.

        Raises:
            ArtifactError: the file does not run, or crashes the runtime.
            ExportError: inputs that it does not take.
        """
        if len(inputs) != len(self.inputs):
            raise ExportError(f"this file takes {len(self.inputs)} input(s), but {len(inputs)} were given.")
        for x, port in zip(inputs, self.inputs, strict=True):
            if tuple(x.shape[1:]) != port.shape[1:] or (port.shape and len(x) % port.shape[0]):
                raise ExportError(f"this file takes inputs of shape {port.shape}, but {tuple(x.shape)} was given.")
        assert self._process.stdin is not None, "it is a pipe"
        with contextlib.suppress(BrokenPipeError):  # the answer tells why
            send(self._process.stdin, [port.encoded(x) for x, port in zip(inputs, self.inputs, strict=True)])
        return self._received()

    @property
    def arena_bytes(self) -> int | None:
        """Memory that the interpreter has used of its arena on this machine; None before the first run."""
        found = _ARENA.findall(self._words())
        return int(found[-1]) if found else None

    def close(self) -> None:
        """End the process."""
        self._ends()

    def _received(self) -> list[Any]:
        assert self._process.stdout is not None, "it is a pipe"
        try:
            found = receive(self._process.stdout)
        except (ValueError, EOFError, OSError):
            found = None
        if found is None:
            raise ArtifactError(f"{self._path}: {self._ended()}")
        return found

    def _ended(self) -> str:
        code = self._process.wait()
        lines = [line for line in self._words().splitlines() if line.strip()]
        said = [line.strip() for line in lines if not line.startswith(_NOISE)] or lines[-1:]
        if code < 0:
            return f"it crashes TensorFlow Lite Micro ({signal.Signals(-code).name})"
        return f"TensorFlow Lite Micro refuses it: {'; '.join(said[:_SHOWN]) or f'exit code {code}'}"

    def _words(self) -> str:
        self._said.seek(0)
        return self._said.read().decode(errors="replace")


def _end(process: subprocess.Popen[bytes], said: IO[bytes]) -> None:
    if process.poll() is None:
        process.kill()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()
    process.wait()
    said.close()
