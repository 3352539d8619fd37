"""Running a LiteRT file on batches of the network's own inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sigmaquant.errors import ArtifactError, ExportError
from sigmaquant.export.litert.flatbuffer import litert_module


class LitertRunner:
    """A .tflite file as a function of batches.

    Args:
        file: its path, or its content.
        xnnpack: the runtime's default kernels; False for its own, which are slower and round twice.
        threads: for kernels that can use several.

    Raises:
        ArtifactError: no file, or none that the runtime can load; or later, run.
        MissingExtraError: the extra ``litert`` is not installed.
    """

    def __init__(self, file: str | Path | bytes, *, xnnpack: bool = True, threads: int = 1) -> None:
        module = litert_module("ai_edge_litert.interpreter")
        resolvers = module.OpResolverType
        resolver = resolvers.AUTO if xnnpack else resolvers.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        try:
            given = {"model_content": file} if isinstance(file, bytes) else {"model_path": str(file)}
            self._interpreter = module.Interpreter(**given, num_threads=threads, experimental_op_resolver_type=resolver)
        except ValueError as error:
            name = "this content" if isinstance(file, bytes) else file
            raise ArtifactError(f"{name} is no LiteRT file that the runtime can load: {error}") from error
        self._shapes: list[tuple[int, ...]] = []

    def __call__(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Float outputs from float inputs, each with the batch first and in the network's layout."""
        details = self._interpreter.get_output_details()
        outputs = tuple(map(_decoded, self.raw(*inputs), details))
        return outputs[0] if len(outputs) == 1 else outputs

    @property
    def input_shapes(self) -> list[tuple[int, ...]]:
        """Of the file's inputs, batch included."""
        return [tuple(map(int, detail["shape"])) for detail in self._interpreter.get_input_details()]

    def raw(self, *inputs: Tensor) -> list[NDArray[Any]]:
        """The outputs as the file has them, codes where it gives codes; from float inputs."""
        try:
            return self._run(inputs)
        except (ValueError, RuntimeError, TypeError) as error:  # what the runtime raises
            raise ArtifactError(f"the file does not run: {' '.join(str(error).split())[:300]}") from error

    def _run(self, inputs: tuple[Tensor, ...]) -> list[NDArray[Any]]:
        details = self._interpreter.get_input_details()
        shapes = [tuple(x.shape) for x in inputs]
        if shapes != self._shapes:
            if len(shapes) != len(details):
                raise ExportError(f"this file takes {len(details)} input(s), but {len(shapes)} were given.")
            self._resize(details, shapes)
        for detail, x in zip(details, inputs, strict=True):
            self._interpreter.set_tensor(detail["index"], _encoded(x, detail))
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(detail["index"]) for detail in self._interpreter.get_output_details()]

    def _resize(self, details: list[dict[str, Any]], shapes: list[tuple[int, ...]]) -> None:
        self._shapes = []
        try:
            for detail, shape in zip(details, shapes, strict=True):
                self._interpreter.resize_tensor_input(detail["index"], shape)
            self._interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            shown = ", ".join(map(str, shapes))
            raise ExportError(f"the runtime cannot run this file on inputs of shape {shown}: {error}") from error
        self._shapes = shapes


def _encoded(x: Tensor, detail: dict[str, Any]) -> NDArray[Any]:
    if detail["dtype"] in (np.int32, np.int64):
        integers: NDArray[Any] = x.detach().cpu().numpy().astype(detail["dtype"])
        return integers
    values: NDArray[Any] = x.detach().cpu().numpy().astype(np.float32)
    if detail["dtype"] == np.float32:
        return values
    scale, zero_point = detail["quantization"]
    codes: NDArray[Any] = np.rint(values / np.float32(scale)) + zero_point
    return codes.clip(-128, 127).astype(np.int8)


def _decoded(values: NDArray[Any], detail: dict[str, Any]) -> Tensor:
    result: Tensor = torch.from_numpy(values)
    if detail["dtype"] == np.float32:
        return result
    scale, zero_point = detail["quantization"]
    return result.float().sub_(zero_point).mul_(torch.tensor(scale))
