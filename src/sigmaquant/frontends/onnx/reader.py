"""`Reader`: walks an ONNX graph, computes what is known, and writes the rest as calls of PyTorch."""

from __future__ import annotations

import logging
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from sigmaquant.errors import ModelFileError, SigmaQuantError
from sigmaquant.frontends.building import BATCHES, ModuleBuilder
from sigmaquant.frontends.onnx.file import Array, OnnxFile, Operation, onnx_library, tensor_of, torch_dtype
from sigmaquant.frontends.onnx.values import Known, Value, at_batch, known

Handler = Callable[["Reader", Operation, list[Any]], Any]
HANDLERS: dict[str, Handler] = {}
"""By operator: what it becomes. A handler takes reader, operation and input values, and gives one value or a tuple."""

_MOVES = {"Identity", "Transpose", "Reshape", "Cast", "Unsqueeze", "Squeeze", "Expand", "Slice", "Flatten"}
"""After these a stored weight still is one."""
_RANDOM = {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial"}
_ANONYMOUS = re.compile(r"^(onnx::.*|.*::.*|\d+|_v_\d+|val_\d+|const.*fold.*|.*const_fold.*)$")
_SUFFIXES = re.compile(r"(\.|(?<=\.in_proj)_)(weight|bias|running_mean|running_var|weight_[ih]h_l\d.*)$")

_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.modules.batchnorm._NormBase)

log = logging.getLogger("sigmaquant")


def handles(*kinds: str) -> Callable[[Handler], Handler]:
    """Register the function below as what these operators become."""

    def register(handler: Handler) -> Handler:
        for kind in kinds:
            HANDLERS[kind] = handler
        return handler

    return register


class Reader:
    """Everything that handlers need to know and to write to.

    Args:
        file: the graph.
        shapes: of one example of each input, without the batch.
    """

    def __init__(self, file: OnnxFile, shapes: Sequence[tuple[int, ...]]) -> None:
        self.file = file
        self.builder = ModuleBuilder()
        self.values: dict[str, Value] = {}
        self.readers: dict[str, list[Operation]] = defaultdict(list)
        self._tensors: dict[int, tuple[str, Array]] = {}
        self._layers: dict[Hashable, str] = {}
        for operation in file.operations:
            for name in operation.inputs:
                self.readers[name].append(operation)
        for name in file.outputs:
            self.readers[name].append(Operation("output", "", (name,), (), {}, None))
        for name, array in file.stored.items():
            self.values[name] = known(array, name, stored=True)
        self._inputs = [(description, shape) for description, shape in zip(file.inputs, shapes, strict=True)]

    def read(self) -> nn.Module:
        """The network.

        Raises:
            ModelFileError: operators that are not known, or used in a way that has no form in PyTorch.
        """
        self._compute_constants()
        self._refuse_unknown()
        for description, shape in self._inputs:
            self.values[description.name] = self.builder.input(description.name, shape, torch_dtype(description.dtype))
        for operation in self.file.operations:
            if any(name in self.values for name in operation.outputs if name):
                continue  # computed already, or part of an earlier layer
            self._translate(operation)
        results = tuple(self.node(self.values[name], name) for name in self.file.outputs)
        return self.builder.finish(results[0] if len(results) == 1 else results, self.file.path.stem)

    # -- what handlers ask -----------------------------------------------------------------------------------------

    def node(self, value: Value, name: str | None = None) -> fx.Node:
        """The value as a node of the network; what is known becomes a parameter or buffer of it.

        Args:
            value: it.
            name: for what has none.
        """
        if isinstance(value, fx.Node):
            return value
        wished = self._tensor_name(value.name or name)
        if value.fixed:
            return self._stored(value.array, wished, value.stored)
        if value.small.shape == value.large.shape:
            return self._counted(value)
        return self._repeated(value, wished)

    def operand(self, value: Value, name: str | None = None) -> Any:
        """As `node`, but a single known number is written as such."""
        if isinstance(value, Known) and value.fixed and value.array.size == 1 and value.array.dtype.kind in "fiub":
            return value.array.reshape(()).item()
        return self.node(value, name)

    def sizes(self, value: Value) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The value's shape at the two batch sizes."""
        return (value.small.shape, value.large.shape) if isinstance(value, Known) else self.builder.shapes(value)

    def rank(self, value: Value) -> int:
        """Number of the value's dimensions."""
        return len(self.sizes(value)[0])

    def file_shape(self, value: Value) -> tuple[int, ...] | None:
        """The value's shape at the batch size that the file is fixed to; None where it is to none."""
        if self.file.batch is None:
            return None
        return tuple(at_batch(small, large, self.file.batch) for small, large in zip(*self.sizes(value), strict=True))

    def size_node(self, small: int, large: int) -> Any:
        """A size as the network computes it: a number, or a multiple of its batch."""
        if small == large:
            return small
        step = (large - small) // (BATCHES[1] - BATCHES[0])
        rest = small - step * BATCHES[0]
        size: Any = self.builder.batch()
        if step != 1:
            size = size * step
        return size + rest if rest else size

    def layer(self, operation: Operation, module: nn.Module, *stored: Any, key: Hashable = ()) -> str:
        """Keep a layer under the name of its weights or its node; where the file uses them twice it is the same one.

        Args:
            operation: it.
            module: the layer.
            stored: the values that it was made of.
            key: what else tells two layers apart.
        """
        names = [value.name for value in stored if isinstance(value, Known)]
        # Exporters store equal tensors once: norms that have not been trained look alike and are not the same.
        place = operation.name.rpartition("/")[0] or operation.name if isinstance(module, _NORMS) else ""
        whole: Hashable = (type(module), tuple(names), key, place)
        if names and all(names) and whole in self._layers:
            return self._layers[whole]
        name = self.layer_name(operation, names)
        if name in self._layers.values():
            name = self.layer_name(operation, [])
        self._layers[whole] = self.builder.module(name, module)
        return self._layers[whole]

    def layer_name(self, operation: Operation, names: Sequence[str | None]) -> str:
        """``conv1`` for the weight ``conv1.weight``, or for the node ``/conv1/Conv``; else the node's own name."""
        for name in names:
            if name is not None and not _ANONYMOUS.match(name) and (match := _SUFFIXES.search(name)):
                return name[: match.start()]
        parts = [part for part in operation.name.split("/") if part]
        kept: list[str] = []
        for part in parts:  # /features/features.0/features.0.0/Conv: each part repeats the one before
            if kept and part.startswith(f"{kept[-1]}."):
                kept.pop()
            kept.append(part)
        if len(kept) > 1 and re.fullmatch(rf"{operation.kind}(_\d+)?", kept[-1]):
            kept.pop()
        return ".".join(kept) or f"{operation.kind.lower()}_{operation.outputs[0]}"

    def only_reader(self, name: str) -> Operation | None:
        """The one operation that reads a value; None where there are several."""
        found = self.readers[name]
        return found[0] if len(found) == 1 else None

    # -- how it works ----------------------------------------------------------------------------------------------

    def _compute_constants(self) -> None:
        for operation in self.file.operations:
            inputs = [self.values.get(name) if name else None for name in operation.inputs]
            if operation.kind in _RANDOM or "." in operation.kind:
                continue
            if all(value is not None or not name for value, name in zip(inputs, operation.inputs, strict=True)):
                self._fold(operation, inputs)

    def _fold(self, operation: Operation, inputs: Sequence[Any]) -> None:
        given = [value for value in inputs if value is not None]
        name = next((value.name for value in given if value.name), None) if operation.kind in _MOVES else None
        stored = operation.kind in _MOVES and any(value.stored for value in given[:1])
        names = [name for name in operation.inputs if name]
        small = self._compute(operation, dict(zip(names, (value.small for value in given), strict=True)))
        if all(value.fixed for value in given):
            large = small
        else:
            large = self._compute(operation, dict(zip(names, (value.large for value in given), strict=True)))
        for output, first, second in zip(operation.outputs, small, large, strict=True):
            if output:
                named = operation.kind == "Constant" or (operation.kind == "Identity" and not _ANONYMOUS.match(output))
                own = output if named else name  # equal weights are stored once, and named apart by Identity
                self.values[output] = Known(first, second, own, stored)

    def _compute(self, operation: Operation, arrays: Mapping[str, Array]) -> list[Array]:
        """By ONNX' own reference."""
        onnx = onnx_library()
        from onnx.reference import ReferenceEvaluator

        helper = onnx.helper
        described = [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
            for name, array in arrays.items()
        ]
        outputs = [helper.make_empty_tensor_value_info(name) for name in operation.outputs if name]
        graph = helper.make_graph([operation.proto], "constant", described, outputs)
        model = helper.make_model(graph, opset_imports=self.file.proto.opset_import)
        try:
            found = iter(ReferenceEvaluator(model).run(None, dict(arrays)))
        except Exception as error:
            raise self._error(operation, f"its value cannot be computed: {error}") from error
        return [np.asarray(next(found)) if name else np.zeros(0) for name in operation.outputs]

    def _refuse_unknown(self) -> None:
        certain, unknown = set(self.values), []
        for operation in self.file.operations:
            if operation.kind in ("Shape", "Size") or (
                (operation.kind in HANDLERS or operation.kind not in _RANDOM)
                and all(name in certain for name in operation.inputs if name)
            ):
                certain.update(operation.outputs)
            elif operation.kind not in HANDLERS:
                unknown.append(operation)
        if unknown:
            counts = Counter(operation.kind for operation in unknown)
            first = {operation.kind: operation.name or operation.outputs[0] for operation in reversed(unknown)}
            listed = ", ".join(f"{kind} ({count}, first {first[kind]!r})" for kind, count in sorted(counts.items()))
            raise ModelFileError(
                f"{self.file.path} has operators that are not read: {listed}. If they come after the network, such as "
                "the selection of boxes, leave them out with onnx.utils.extract_model; otherwise give the PyTorch "
                "module that the file was made from."
            )

    def _translate(self, operation: Operation) -> None:
        inputs = [self.values[name] if name else None for name in operation.inputs]
        if operation.kind in ("Shape", "Size"):
            self.values[operation.outputs[0]] = self._measured(operation, inputs[0])
            return
        if all(isinstance(value, Known) for value in inputs if value is not None) and "." not in operation.kind:
            self._fold(operation, inputs)
            return
        try:
            found = HANDLERS[operation.kind](self, operation, inputs)
        except ModelFileError as error:
            raise self._error(operation, str(error)) from error
        except SigmaQuantError:
            raise
        except Exception as error:
            raise self._error(operation, f"{type(error).__name__}: {error}") from error
        results = found if isinstance(found, tuple) else (found,)
        for output, value in zip(operation.outputs, results, strict=False):
            if output:
                self.values[output] = value

    def _measured(self, operation: Operation, value: Any) -> Known:
        small, large = self.sizes(value)
        if operation.kind == "Size":
            return Known(np.array(int(np.prod(small))), np.array(int(np.prod(large))))
        part = slice(operation.attributes.get("start", 0), operation.attributes.get("end"))
        return Known(np.array(small[part], np.int64), np.array(large[part], np.int64))

    def _error(self, operation: Operation, message: str) -> ModelFileError:
        name = operation.name or operation.outputs[0]
        return ModelFileError(f"{self.file.path}: {operation.kind} {name!r}: {message}")

    def _tensor_name(self, name: str | None) -> str:
        if name is None or _ANONYMOUS.match(name):
            return "constant"
        return ".".join(part for part in name.split("/") if part)

    def _stored(self, array: Array, name: str, weight: bool) -> fx.Node:
        if id(array) not in self._tensors:
            node = self.builder.tensor(name, tensor_of(array), trained=weight)
            self._tensors[id(array)] = (str(node.target), array)
            return node
        return self.builder.reused(self._tensors[id(array)][0], tensor_of(array))

    def _counted(self, value: Known) -> fx.Node:
        """A number that grows with the batch."""
        if value.small.size != 1:
            raise ModelFileError("values that depend on the batch size enter the network's computation.")
        size = self.size_node(int(value.small.reshape(())), int(value.large.reshape(())))
        return self.builder.function(torch.full, tuple(value.small.shape), size, dtype=tensor_of(value.small).dtype)

    def _repeated(self, value: Known, name: str) -> fx.Node:
        """What is repeated for each example."""
        pairs = list(zip(value.small.shape, value.large.shape, strict=True))
        axes = [axis for axis, (small, large) in enumerate(pairs) if small != large]
        first = value.small[tuple(slice(0, 1) if axis in axes else slice(None) for axis in range(value.small.ndim))]
        if not np.array_equal(np.broadcast_to(first, value.large.shape), value.large):
            raise ModelFileError("values that depend on the batch size enter the network's computation.")
        node = self._stored(np.ascontiguousarray(first), name, value.stored)
        sizes = [self.size_node(*pair) if axis in axes else -1 for axis, pair in enumerate(pairs)]
        return self.builder.method("expand", node, *sizes)
