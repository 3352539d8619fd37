"""The activations inside a file for TensorFlow Lite Micro, for telling where it first leaves the reference."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from sigmaquant.errors import ArtifactError
from sigmaquant.export.litert.intermediate_activations import shown_tensors
from sigmaquant.export.tflm.runner import TflmRunner
from sigmaquant.export.tflm.schema import micro_schema
from sigmaquant.lowering.model import IntegerModel


class TflmWatch:
    """The codes of a file's activations, computed by the runtime, which keeps all of them for this.

    Args:
        path: the file.
        model: the network that it was made from; names and grids are taken from it.

    Raises:
        ArtifactError: no file, or none that the runtime can load.
        MissingExtraError: the extra ``tflm`` is not installed.
    """

    def __init__(self, path: str | Path, model: IntegerModel) -> None:
        schema = micro_schema()
        try:
            (graph,) = schema.ModelT.InitFromPackedBuf(Path(path).read_bytes(), 0).subgraphs
        except Exception as error:  # the reader goes wherever the bytes point
            raise ArtifactError(f"{path} is no .tflite file that can be read: {type(error).__name__}") from error
        self._found = shown_tensors(graph, model)
        self._runner = TflmRunner(path, [shown.tensor for shown in self._found])

    def __call__(self, *inputs: Tensor) -> dict[str, Tensor]:
        """Codes by activation, int8, from float inputs."""
        codes = self._runner.raw(*inputs)[len(self._runner.outputs) :]
        result: dict[str, Tensor] = {}
        for shown, values in zip(self._found, codes, strict=True):
            result.setdefault(shown.edge.name, shown.codes(values))
        return result
