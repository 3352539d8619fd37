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
    """One graph being written. Tensors are known by their index.

    Args:
        schema: the classes of the file's schema; None: those of the LiteRT package.

    Attributes:
        owner: what the operators that are written now are for.
        owners: what each operator is for.
        contents: elements of each tensor as they are in the file; empty where it is not constant.
    """

    def __init__(self, schema: Any = None) -> None:
        self.schema = litert_module("ai_edge_litert.schema_py_generated") if schema is None else schema
        self.tensors: list[Any] = []
        self.contents: list[bytes] = []
        self.operators: list[Any] = []
        self.owners: list[Any] = []
        self.owner: Any = None
        self._codes: dict[tuple[int, int, str], int] = {}
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
        if grid is not None:
            quantization = tensor.quantization = self.schema.QuantizationParametersT()
            quantization.scale = np.array(grid.scales, dtype=np.float32)
            quantization.zeroPoint = np.full(len(grid.scales), grid.zero_point, dtype=np.int64)
            quantization.quantizedDimension = grid.axis
        self.tensors.append(tensor)
        self.contents.append(data)
        return len(self.tensors) - 1

    def without_data(self, tensor: int) -> int:
        """A tensor that an operator writes, of the type, shape and grid of a constant one."""
        twin = self.tensor(self.name(tensor), self.shape(tensor), "INT8")
        for field in ("type", "quantization"):
            setattr(self.tensors[twin], field, getattr(self.tensors[tensor], field))
        return twin

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
        outputs = [output] if isinstance(output, int) else list(output)
        operator = self._operator(getattr(self.schema.BuiltinOperator, code), version, "", inputs, outputs)
        if options:
            operator.builtinOptionsType = getattr(self.schema.BuiltinOptions, options)
            operator.builtinOptions = getattr(self.schema, options + "T")()
            for field, value in fields.items():
                setattr(operator.builtinOptions, field, value)
        self.operators.append(operator)
        self.owners.append(self.owner)

    def insert_custom(self, place: int, name: str, inputs: Sequence[int], outputs: Sequence[int]) -> None:
        """A runtime's own operator without options, before the operator at a place and for the same purpose."""
        operator = self._operator(self.schema.BuiltinOperator.CUSTOM, 1, name, inputs, outputs)
        self.operators.insert(place, operator)
        self.owners.insert(place, self.owners[place])

    def code(self, operator: Any) -> str:
        """A name of the schema's `BuiltinOperator`, that of an operator of this graph."""
        number = list(self._codes)[operator.opcodeIndex][0]
        return next(str(name) for name, value in vars(self.schema.BuiltinOperator).items() if value == number)

    def _operator(self, number: int, version: int, name: str, inputs: Sequence[int], outputs: Sequence[int]) -> Any:
        operator = self.schema.OperatorT()
        operator.opcodeIndex = self._codes.setdefault((number, version, name), len(self._codes))
        operator.inputs, operator.outputs = np.array(inputs, dtype=np.int32), np.array(outputs, dtype=np.int32)
        return operator

    def grid(self, tensor: int) -> Grid:
        """The grid of a tensor that has one scale."""
        quantization = self.tensors[tensor].quantization
        return Grid((float(quantization.scale[0]),), int(quantization.zeroPoint[0]))

    def activation(self, name: str) -> int:
        """A value of the schema's `ActivationFunctionType`."""
        return int(getattr(self.schema.ActivationFunctionType, name))

    def to_bytes(
        self,
        name: str,
        description: str,
        inputs: Mapping[str, int],
        outputs: Mapping[str, int],
        metadata: Mapping[str, bytes],
        signature: bool = True,
    ) -> bytes:
        """The file.

        Args:
            name: of the graph.
            description: for whoever opens the file.
            inputs: tensors that the caller gives, by the name of the signature.
            outputs: tensors that are the result, by the name of the signature.
            metadata: contents by name.
            signature: whether the names of inputs and outputs are in the file.
        """
        schema, model, graph = self.schema, self.schema.ModelT(), self.schema.SubGraphT()
        buffers: dict[bytes, int] = {b"": 0}  # equal contents are written once; the first must be empty
        for tensor, data in zip(self.tensors, self.contents, strict=True):
            tensor.buffer = buffers.setdefault(data, len(buffers))
        graph.name, graph.tensors, graph.operators = name, self.tensors, self.operators
        graph.inputs = np.array(list(inputs.values()), dtype=np.int32)
        graph.outputs = np.array(list(outputs.values()), dtype=np.int32)
        model.version, model.description, model.subgraphs = 3, description, [graph]
        model.operatorCodes = [self._code(*code) for code in self._codes]
        model.signatureDefs = [self._signature(inputs, outputs)] if signature else []
        model.metadata = []
        for key, content in metadata.items():
            entry = schema.MetadataT()
            entry.name, entry.buffer = key, buffers.setdefault(content, len(buffers))
            model.metadata.append(entry)
        model.buffers = [AlignedBuffer(schema, data) for data in buffers]
        builder = _sharing_builder(sum(map(len, buffers)) + 4096)
        builder.Finish(model.Pack(builder), file_identifier=FILE_IDENTIFIER)
        return bytes(builder.Output())

    def _code(self, number: int, version: int, name: str) -> Any:
        code = self.schema.OperatorCodeT()
        code.builtinCode, code.version = number, version
        if name:
            code.customCode = name
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
