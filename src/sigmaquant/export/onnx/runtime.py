"""`OnnxRunner`: an exported file in ONNX Runtime, for verification and measurement."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sigmaquant.errors import ArtifactError, ExportError, MissingExtraError, SigmaQuantError
from sigmaquant.export.onnx.naming import names
from sigmaquant.lowering.model import IntegerModel
from sigmaquant.operators import Edge, encode

_UNSIGNED = 128
"""What the file's codes have on top of the model's."""
_AGAIN = " Export the network again."


def as_given(x: Tensor, edge: Edge, kind: str) -> Tensor:
    """A float input as the file takes it.

    Args:
        x: [N, ...].
        edge: of the input.
        kind: the file's type of it, such as ``"tensor(uint8)"``.

    Raises:
        DataError: integers that the network has no row for.
    """
    if edge.integers:
        return encode(x, edge)
    if edge.is_float or kind == "tensor(float)":
        return x
    codes = encode(x, edge)
    return codes if kind == "tensor(int8)" else (codes.to(torch.int16) + _UNSIGNED).to(torch.uint8)


class OnnxRunner:
    """Runs an ONNX file on the processor, as the network itself is called.

    Args:
        path: the file.
        fused: with the runtime's default optimizations, which make integer kernels of the QDQ form; False computes
            each node as ONNX defines it, in float.
        threads: of the runtime.

    Raises:
        ArtifactError: the runtime cannot load the file; or later, run it.
        MissingExtraError: the extra ``onnx`` is not installed.
    """

    def __init__(self, path: str | Path, *, fused: bool = True, threads: int = 1) -> None:
        self.session = _session(str(path), fused, threads, str(path))

    @property
    def input_types(self) -> list[str]:
        """The runtime's names for the types of the inputs, such as ``"tensor(float)"``."""
        return [value.type for value in self.session.get_inputs()]

    def __call__(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Float outputs from inputs of the file's type, batch first."""
        outputs = tuple(torch.from_numpy(y) for y in _run(self.session, None, inputs))
        return outputs[0] if len(outputs) == 1 else outputs


class OnnxWatch:
    """The codes of all activations inside a file, each node computed as ONNX defines it.

    Args:
        path: the file.
        model: the network that it was made from; names and inputs' grids are taken from it.

    Raises:
        ArtifactError: no ONNX file, or none that can be run.
        MissingExtraError: the extra ``onnx`` is not installed.
    """

    def __init__(self, path: str | Path, model: IntegerModel) -> None:
        try:
            import onnx
        except ImportError:
            raise MissingExtraError("ONNX", "onnx") from None
        with _told(f"{path} is damaged", _AGAIN):
            proto = onnx.load(str(path))
        made = {name for node in proto.graph.node for name in node.output}
        self._edges = {}
        for name, tensor in names(model).values.items():
            if tensor in made and model.edges[name].has_grid:  # two moves in one have nothing between them
                self._edges[tensor] = name
                value = onnx.helper.make_tensor_value_info(tensor, onnx.TensorProto.UINT8, None)
                proto.graph.output.append(value)
        with _told(f"{path} is damaged", _AGAIN):
            content = proto.SerializeToString()
        self._model, self._session = model, _session(content, False, 1, str(path))

    def __call__(self, *inputs: Tensor) -> dict[str, Tensor]:
        """Codes by activation, int8, from float inputs."""
        edges = [self._model.edges[name] for name in self._model.inputs]
        types = [value.type for value in _expected(self._session, inputs)]
        given = [as_given(x, edge, kind) for x, edge, kind in zip(inputs, edges, types, strict=True)]
        values = _run(self._session, list(self._edges), given)
        found = {}
        for name, value in zip(self._edges.values(), values, strict=True):
            codes = (torch.from_numpy(value).to(torch.int16) - _UNSIGNED).to(torch.int8)
            found[name] = codes.reshape(-1, *self._model.edges[name].shape)  # some are written as vectors
        return found


def _session(model: str | bytes, fused: bool, threads: int, path: str) -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise MissingExtraError("ONNX Runtime", "onnx") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    if not fused:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    with _told(f"{path} is damaged", _AGAIN):
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _expected(session: Any, inputs: Sequence[Tensor]) -> list[Any]:
    """What the file takes, as many values as are given."""
    found: list[Any] = session.get_inputs()
    if len(inputs) != len(found):
        raise ExportError(f"the ONNX file takes {len(found)} inputs, but {len(inputs)} are given.")
    return found


def _run(session: Any, outputs: list[str] | None, inputs: Sequence[Tensor]) -> list[NDArray[Any]]:
    expected = _expected(session, inputs)
    feed = {}
    for value, x in zip(expected, inputs, strict=True):
        array = x.detach().cpu().numpy()
        kind = {"tensor(float)": np.float32, "tensor(int64)": np.int64}.get(value.type)
        feed[value.name] = array if kind is None else array.astype(kind, copy=False)
    takes = ", ".join(f"{value.name!r}: {value.type[7:-1]} {value.shape}" for value in expected)
    with _told(f"ONNX Runtime cannot run the file on these inputs (it takes {takes})"):
        found: list[NDArray[Any]] = session.run(outputs, feed)
    return found


@contextlib.contextmanager
def _told(what: str, remedy: str = "") -> Iterator[None]:
    """The runtime's own errors, which have no common class, as ours in one line."""
    try:
        yield
    except (SigmaQuantError, KeyboardInterrupt):
        raise
    except Exception as error:
        told = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise ArtifactError(f"{what}: {told}{remedy}") from error
