"""A LiteRT file piece by piece: tensors, operators and their buffers, through the schema's object interface."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sigmaquant.errors import MissingExtraError
from sigmaquant.operators.node import free_name

FILE_IDENTIFIER = b"TFL3"
_ALIGNMENT = 16
"""Kernels read weights in vectors; the schema asks for it, which the object interface does not heed."""


def litert_module(name: str) -> Any:
    """A module of the LiteRT package.

    Raises:
        MissingExtraError: the package is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingExtraError("LiteRT", "litert") from error


@dataclass(frozen=True)
class Grid:
    """How a tensor's integers stand for real numbers.

    Attributes:
        scales: float32, one for the tensor or one for each index of `axis`.
        zero_point: of all.
        axis: of several scales.
    """

    scales: tuple[float, ...]
    zero_point: int = 0
    axis: int = 0


class AlignedBuffer:
    """A buffer that packs itself aligned; the schema's own class puts its bytes anywhere."""

    def __init__(self, schema: Any, data: bytes) -> None:
        self.schema, self.data = schema, data

    def Pack(self, builder: Any) -> int:  # noqa: N802 - the schema's name
        """Write the bytes and their table; returns the table's offset."""
        vector = None
        if self.data:
            builder.StartVector(1, len(self.data), _ALIGNMENT)
            builder.head -= len(self.data)
            builder.Bytes[builder.head : builder.head + len(self.data)] = self.data
            vector = builder.EndVector()
        self.schema.BufferStart(builder)
        if vector is not None:
            self.schema.BufferAddData(builder, vector)
        return int(self.schema.BufferEnd(builder))


def _sharing_builder(size: int) -> Any:
    """A builder that writes equal vectors once: a tensor's zero-points, all zero, would take twice its scales' room."""
    base: Any = litert_module("flatbuffers").Builder
    known: dict[tuple[str, bytes], int] = {}

    class SharingBuilder(base):  # type: ignore[misc]
        def CreateNumpyVector(self, x: Any) -> Any:  # noqa: N802 - the builder's name
            key = (x.dtype.str, x.tobytes())
            if key not in known:
                known[key] = super().CreateNumpyVector(x)
            return known[key]

    return SharingBuilder(size)


class FlatGraph:
    """One graph being written. Tensors are known by their index."""

    def __init__(self) -> None:
        self.schema = litert_module("ai_edge_litert.schema_py_generated")
        self.tensors: list[Any] = []
        self.operators: list[Any] = []
        self._codes: dict[tuple[int, int], int] = {}
        self._buffers: dict[bytes, int] = {b"": 0}  # equal contents are written once; the first must be empty
        self._names: set[str] = set()
        self._reserved: set[str] = set()

    def reserve(self, names: Iterable[str]) -> None:
        """Keep names for tensors that are given exactly these."""
        self._reserved.update(names)

    def tensor(
        self,
        name: str,
        shape: Sequence[int],
        kind: str,
        grid: Grid | None = None,
        data: bytes = b"",
    ) -> int:
        """A new tensor, constant where it has data.

        Args:
            name: made unique by a number.
            shape: with the batch dimension, where there is one.
            kind: a name of the schema's `TensorType`.
            grid: of integers that stand for real numbers.
            data: the elements in C order, as they are in the file.
        """
        tensor = self.schema.TensorT()
        tensor.name = name if name not in self._names else free_name(name, self._names | self._reserved)
        self._names.add(tensor.name)
        tensor.shape = np.array(shape, dtype=np.int32)
        tensor.type = getattr(self.schema.TensorType, kind)
        tensor.buffer = self._buffer(data)
        if grid is not None:
            quantization = tensor.quantization = self.schema.QuantizationParametersT()
            quantization.scale = np.array(grid.scales, dtype=np.float32)
            quantization.zeroPoint = np.full(len(grid.scales), grid.zero_point, dtype=np.int64)
            quantization.quantizedDimension = grid.axis
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def integers(self, name: str, values: Sequence[int]) -> int:
        """A constant int32 vector, as operators take shapes and axes."""
        return self.tensor(name, [len(values)], "INT32", data=np.array(values, dtype="<i4").tobytes())

    def shape(self, tensor: int) -> tuple[int, ...]:
        """A tensor's shape, with the batch dimension."""
        return tuple(int(size) for size in self.tensors[tensor].shape)

    def name(self, tensor: int) -> str:
        """A tensor's name."""
        return str(self.tensors[tensor].name)

    def operator(
        self,
        code: str,
        inputs: Sequence[int],
        output: int | Sequence[int],
        version: int,
        options: str = "",
        **fields: Any,
    ) -> None:
        """The next operator.

        Args:
            code: a name of the schema's `BuiltinOperator`.
            inputs: tensors read.
            output: tensor written, or several.
            version: the first version of the operator that takes these types, so that older runtimes refuse the file.
            options: a name of the schema's `BuiltinOptions`.
            fields: of the options.
        """
        number = getattr(self.schema.BuiltinOperator, code)
        operator = self.schema.OperatorT()
        operator.opcodeIndex = self._codes.setdefault((number, version), len(self._codes))
        outputs = [output] if isinstance(output, int) else list(output)
        operator.inputs, operator.outputs = np.array(inputs, dtype=np.int32), np.array(outputs, dtype=np.int32)
        if options:
            operator.builtinOptionsType = getattr(self.schema.BuiltinOptions, options)
            operator.builtinOptions = getattr(self.schema, options + "T")()
            for field, value in fields.items():
                setattr(operator.builtinOptions, field, value)
        self.operators.append(operator)

    def grid(self, tensor: int) -> Grid:
        """The grid of a tensor that has one scale."""
        quantization = self.tensors[tensor].quantization
        return Grid((float(quantization.scale[0]),), int(quantization.zeroPoint[0]))

    def activation(self, name: str) -> int:
        """A value of the schema's `ActivationFunctionType`."""
        return int(getattr(self.schema.ActivationFunctionType, name))

    def _buffer(self, data: bytes) -> int:
        return self._buffers.setdefault(data, len(self._buffers))

    def to_bytes(
        self,
        name: str,
        description: str,
        inputs: Mapping[str, int],
        outputs: Mapping[str, int],
        metadata: Mapping[str, bytes],
    ) -> bytes:
        """The file.

        Args:
            name: of the graph.
            description: for whoever opens the file.
            inputs: tensors that the caller gives, by the name of the signature.
            outputs: tensors that are the result, by the name of the signature.
            metadata: contents by name.
        """
        schema, model, graph = self.schema, self.schema.ModelT(), self.schema.SubGraphT()
        graph.name, graph.tensors, graph.operators = name, self.tensors, self.operators
        graph.inputs = np.array(list(inputs.values()), dtype=np.int32)
        graph.outputs = np.array(list(outputs.values()), dtype=np.int32)
        model.version, model.description, model.subgraphs = 3, description, [graph]
        model.operatorCodes = [self._code(*code) for code in self._codes]
        model.signatureDefs = [self._signature(inputs, outputs)]
        model.metadata = []
        for key, content in metadata.items():
            entry = schema.MetadataT()
            entry.name, entry.buffer = key, self._buffer(content)
            model.metadata.append(entry)
        model.buffers = [AlignedBuffer(schema, data) for data in self._buffers]
        builder = _sharing_builder(sum(map(len, self._buffers)) + 4096)
        builder.Finish(model.Pack(builder), file_identifier=FILE_IDENTIFIER)
        return bytes(builder.Output())

    def _code(self, number: int, version: int) -> Any:
        code = self.schema.OperatorCodeT()
        code.builtinCode, code.version = number, version
        code.deprecatedBuiltinCode = min(number, self.schema.BuiltinOperator.PLACEHOLDER_FOR_GREATER_OP_CODES)
        return code

    def _signature(self, inputs: Mapping[str, int], outputs: Mapping[str, int]) -> Any:
        signature = self.schema.SignatureDefT()
        signature.signatureKey, signature.subgraphIndex = "serving_default", 0
        signature.inputs, signature.outputs = (
            [self._named(k, v) for k, v in side.items()] for side in (inputs, outputs)
        )
        return signature

    def _named(self, name: str, tensor: int) -> Any:
        entry = self.schema.TensorMapT()
        entry.name, entry.tensorIndex = name, tensor
        return entry
