"""The activations inside a LiteRT file, for telling where it first leaves the reference."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sigmaquant.errors import ArtifactError
from sigmaquant.export.litert.flatbuffer import FILE_IDENTIFIER, AlignedBuffer, litert_module
from sigmaquant.export.litert.runner import LitertRunner
from sigmaquant.export.litert.values import HIGHEST, LOWEST, image_shape
from sigmaquant.lowering.model import IntegerModel
from sigmaquant.operators import Edge


class LitertWatch:
    """The codes of a file's activations, computed by the runtime's default kernels.

    Every activation is made a result of the graph, so that the runtime keeps it. Left out are those that the file
    has under no name of their own, and those whose two layouts cannot be told apart by their shape.

    Args:
        path: the file.
        model: the network that it was made from; names and grids are taken from it.

    Raises:
        ArtifactError: no file, or none that the runtime can load.
        MissingExtraError: the extra ``litert`` is not installed.
    """

    def __init__(self, path: str | Path, model: IntegerModel) -> None:
        schema = litert_module("ai_edge_litert.schema_py_generated")
        flatbuffers = litert_module("flatbuffers")
        try:
            file = schema.ModelT.InitFromPackedBuf(Path(path).read_bytes(), 0)
            (graph,) = file.subgraphs
        except Exception as error:  # the reader goes wherever the bytes point
            raise ArtifactError(f"{path} is no LiteRT file that can be read: {type(error).__name__}") from error
        before = [int(index) for index in graph.outputs]
        self._found = shown_tensors(graph, model)
        graph.outputs = np.array([*before, *(shown.tensor for shown in self._found)], dtype=np.int32)
        file.buffers = [AlignedBuffer(schema, b"" if b.data is None else bytes(b.data)) for b in file.buffers]
        file.signatureDefs = []  # they name the results that there were
        builder = flatbuffers.Builder(1 << 20)
        builder.Finish(file.Pack(builder), file_identifier=FILE_IDENTIFIER)
        self._runner, self._skip = LitertRunner(bytes(builder.Output())), len(before)

    def __call__(self, *inputs: Tensor) -> dict[str, Tensor]:
        """Codes by activation, int8, from float inputs."""
        codes = self._runner.raw(*inputs)[self._skip :]
        result: dict[str, Tensor] = {}
        for shown, values in zip(self._found, codes, strict=True):
            result.setdefault(shown.edge.name, shown.codes(values))  # the first of two layouts
        return result


@dataclass(frozen=True)
class Shown:
    """A tensor of a file that holds an activation's codes.

    Attributes:
        edge: the activation.
        tensor: its index.
        image: whether its channels are last.
    """

    edge: Edge
    tensor: int
    image: bool

    def codes(self, values: NDArray[Any]) -> Tensor:
        """The tensor's integers as the activation's codes, in the network's layout."""
        edge = self.edge
        own = torch.from_numpy((values.astype(np.int16) - (HIGHEST - edge.range[1])).clip(LOWEST).astype(np.int8))
        return own.movedim(-1, 1).reshape(len(own), *edge.shape) if self.image else own


def shown_tensors(graph: Any, model: IntegerModel) -> tuple[Shown, ...]:
    """Of a graph that was read from a file, the tensors inside that can be compared with a model's activations."""
    written = {int(index) for operator in graph.operators for index in operator.outputs}
    found = []
    for index in sorted(written - {int(index) for index in graph.outputs}):
        tensor = graph.tensors[index]
        edge = None if tensor.name is None else model.edges.get(tensor.name.decode())
        layout = None if edge is None or not edge.has_grid else _is_image(edge, tuple(int(n) for n in tensor.shape[1:]))
        if edge is not None and layout is not None:
            found.append(Shown(edge, index, layout))
    return tuple(found)


def _is_image(edge: Edge, shape: tuple[int, ...]) -> bool | None:
    """Whether a tensor holds an edge with its channels last; None where its shape leaves that open, or fits neither."""
    plain = shape == tuple(edge.shape)
    image = len(edge.shape) <= 3 and shape == image_shape(edge)
    same = plain and (len(edge.shape) <= 1 or edge.shape[0] == 1 or all(n == 1 for n in edge.shape[1:]))
    if same:
        return False
    return None if plain == image else image
