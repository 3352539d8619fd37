"""`OnnxRunner`: an exported file in ONNX Runtime, for verification and measurement."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sigmaquant.errors import ArtifactError, MissingExtraError, SigmaQuantError
from sigmaquant.lowering.executor import encode
from sigmaquant.lowering.model import Edge, IntegerModel

_UNSIGNED = 128
"""What the file's codes have on top of the model's."""


def as_given(x: Tensor, edge: Edge, kind: str) -> Tensor:
    """A float input as the file takes it.

    Args:
        x: [N, ...].
        edge: of the input.
        kind: the file's type of it, such as ``"tensor(uint8)"``.
    """
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
        self.session = _session(str(path), fused, threads)
        self._inputs = [value.name for value in self.session.get_inputs()]

    @property
    def input_types(self) -> list[str]:
        """The runtime's names for the types of the inputs, such as ``"tensor(float)"``."""
        return [value.type for value in self.session.get_inputs()]

    def __call__(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Float outputs from inputs of the file's type, batch first."""
        feed = {name: x.detach().cpu().numpy() for name, x in zip(self._inputs, inputs, strict=True)}
        with _told("the file does not run"):
            outputs = tuple(torch.from_numpy(y) for y in self.session.run(None, feed))
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
        with _told(f"{path} is damaged"):
            proto = onnx.load(str(path))
        made = {name for node in proto.graph.node for name in node.output}
        outer = {value.name for value in (*proto.graph.input, *proto.graph.output)}
        self._edges = {}
        for name, edge in model.edges.items():
            if edge.is_float:
                continue
            tensor = f"{name}.codes" if name in outer else name
            if tensor in made:  # a name that was not free in the file cannot be told
                self._edges[tensor] = name
                value = onnx.helper.make_tensor_value_info(tensor, onnx.TensorProto.UINT8, None)
                proto.graph.output.append(value)
        with _told(f"{path} is damaged"):
            self._model, self._session = model, _session(proto.SerializeToString(), False, 1)

    def __call__(self, *inputs: Tensor) -> dict[str, Tensor]:
        """Codes by activation, int8, from float inputs."""
        feed = {}
        for value, name, x in zip(self._session.get_inputs(), self._model.inputs, inputs, strict=True):
            feed[value.name] = as_given(x, self._model.edges[name], value.type).detach().cpu().numpy()
        with _told("the file does not run"):
            values = self._session.run(list(self._edges), feed)
        return {
            name: (torch.from_numpy(value).to(torch.int16) - _UNSIGNED).to(torch.int8)
            for name, value in zip(self._edges.values(), values, strict=True)
        }


def _session(model: str | bytes, fused: bool, threads: int) -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise MissingExtraError("ONNX Runtime", "onnx") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    if not fused:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    with _told("this content is damaged" if isinstance(model, bytes) else f"{model} is damaged"):
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    """The runtime's own errors, which have no common class, as ours in one line."""
    try:
        yield
    except (SigmaQuantError, KeyboardInterrupt):
        raise
    except Exception as error:
        raise ArtifactError(f"{what}: {' '.join(f'{type(error).__name__}: {error}'.split())[:300]}") from error
