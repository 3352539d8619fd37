"""An ONNX file as plain Python: its operators with their attributes, its stored tensors, its inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sigmaquant.errors import MissingExtraError, ModelFileError

Array = NDArray[Any]

OLDEST_OPSET = 11
_QUANTIZED = {
    "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul", "QLinearAdd",
    "QLinearMul", "QLinearConcat", "QLinearGlobalAveragePool", "QLinearAveragePool", "QLinearSigmoid", "QGemm",
    "QLinearLeakyRelu", "QLinearSoftmax", "ConvInteger", "MatMulInteger", "MatMulNBits", "DynamicQuantizeMatMul",
}  # fmt: skip
_OWN_DOMAINS = ("", "ai.onnx")


@dataclass(frozen=True)
class Operation:
    """One node of the graph: its inputs and outputs by name, ``""`` where one is left out."""

    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    proto: Any


@dataclass(frozen=True)
class InputDescription:
    """One input: its shape with None for what is not fixed, and its type."""

    name: str
    shape: tuple[int | None, ...]
    dtype: Any


@dataclass(frozen=True)
class OnnxFile:
    """A graph with everything that is stored in it."""

    path: Path
    proto: Any
    opset: int
    operations: tuple[Operation, ...]
    stored: Mapping[str, Array]
    inputs: tuple[InputDescription, ...]
    outputs: tuple[str, ...]

    @property
    def batch(self) -> int | None:
        """The batch size that the file is fixed to; None: any."""
        return self.inputs[0].shape[0]


def onnx_library(what: str = "Reading ONNX files") -> Any:
    """The library ``onnx``.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import onnx
        import onnx.inliner
        import onnx.numpy_helper
    except ImportError:
        raise MissingExtraError(what, "onnx") from None
    return onnx


def read_onnx(path: Path) -> OnnxFile:
    """The file's graph; functions that it defines are put where they are called.

    Raises:
        ModelFileError: no such file, no ONNX, damaged, quantized, or older than opset 11.
        MissingExtraError: the extra ``onnx`` is not installed.
    """
    onnx = onnx_library()
    if not path.is_file():
        raise ModelFileError(f"there is no file {path}.")
    try:
        proto = onnx.load(str(path))
        onnx.checker.check_model(proto)
        if len(proto.functions):
            proto = onnx.inliner.inline_local_functions(proto)
    except Exception as error:  # every one of the library's, and protobuf's
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ModelFileError(
            f"{path} cannot be read as an ONNX file: {reason} Export it again; weights in a file of their own must lie "
            "beside it."
        ) from error
    opset = {entry.domain: entry.version for entry in proto.opset_import}
    _refuse(path, proto, opset)
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    if len(proto.graph.sparse_initializer):
        raise ModelFileError(f"{path} stores sparse weights. Store them densely.")
    return OnnxFile(
        path=path,
        proto=proto,
        opset=next(opset[domain] for domain in _OWN_DOMAINS if domain in opset),
        operations=tuple(_operation(onnx, node) for node in proto.graph.node),
        stored=stored,
        inputs=tuple(_input(path, onnx, value) for value in proto.graph.input if value.name not in stored),
        outputs=tuple(value.name for value in proto.graph.output),
    )


def _refuse(path: Path, proto: Any, opset: Mapping[str, int]) -> None:
    quantized = sorted({node.op_type for node in proto.graph.node} & _QUANTIZED)
    if quantized:
        raise ModelFileError(
            f"{path} is quantized already ({', '.join(quantized)}). Give the float file that it was made from."
        )
    own = [opset[domain] for domain in _OWN_DOMAINS if domain in opset]
    if not own:
        raise ModelFileError(f"{path} has no operators of ONNX itself, only of {', '.join(sorted(opset))}.")
    if own[0] < OLDEST_OPSET:
        raise ModelFileError(
            f"{path} is of opset {own[0]}; the oldest that is read is {OLDEST_OPSET}. Export it anew, or convert it: "
            'onnx.save(onnx.version_converter.convert_version(onnx.load("old.onnx"), 17), "new.onnx").'
        )


def _operation(onnx: Any, node: Any) -> Operation:
    attributes = {}
    for attribute in node.attribute:
        value = onnx.helper.get_attribute_value(attribute)
        attributes[attribute.name] = value.decode() if isinstance(value, bytes) else value
    domain = "" if node.domain in _OWN_DOMAINS else f"{node.domain}."
    return Operation(domain + node.op_type, node.name, tuple(node.input), tuple(node.output), attributes, node)


def _input(path: Path, onnx: Any, value: Any) -> InputDescription:
    tensor = value.type.tensor_type
    if not value.type.HasField("tensor_type") or not tensor.HasField("shape"):
        raise ModelFileError(f"{path}: the input {value.name!r} is no tensor of known rank. Export it with its shape.")
    sizes = [dim.dim_value if dim.HasField("dim_value") else 0 for dim in tensor.shape.dim]
    shape = tuple(size if size > 0 else None for size in sizes)
    if not shape:
        raise ModelFileError(f"{path}: the input {value.name!r} is a single number, not a batch. Leave it out.")
    return InputDescription(value.name, shape, onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))


def tensor_of(values: Array) -> torch.Tensor:
    """A tensor with the same values; every floating type becomes float32, as networks are read in it."""
    if values.dtype.kind == "u" and values.dtype.itemsize > 1:
        values = values.astype(np.int64)
    if values.dtype.kind == "f" or values.dtype.name == "bfloat16":
        values = values.astype(np.float32)
    return torch.from_numpy(np.array(values, order="C"))


def torch_dtype(dtype: Any) -> torch.dtype:
    """The type that `tensor_of` gives."""
    return tensor_of(np.zeros(1, dtype)).dtype
