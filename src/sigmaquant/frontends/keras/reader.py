"""`KerasReader`: walks a Keras network's graph and writes it as calls of PyTorch, channels first inside."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from sigmaquant.errors import ModelFileError, SigmaQuantError
from sigmaquant.frontends.building import ModuleBuilder


@dataclass(frozen=True)
class Value:
    """A tensor of the network.

    Attributes:
        node: what computes it.
        moved: whether its channels, last in the file, are dimension 1 here.
        flat: of a flattened one, the shape ``[channels, …]`` that it has been flattened from, whose order is not the
            file's; empty where it is.
    """

    node: fx.Node
    moved: bool = False
    flat: tuple[int, ...] = ()


Handler = Callable[..., Any]
LAYERS: dict[str, Handler] = {}
"""By class of layer: what it becomes. A handler takes reader, layer and the call's arguments."""
OPERATIONS: dict[str, Handler] = {}
"""By class of ``keras.ops``, likewise."""


def reads(*kinds: str) -> Callable[[Handler], Handler]:
    """Register the function below as what layers of these classes become."""

    def register(handler: Handler) -> Handler:
        LAYERS.update(dict.fromkeys(kinds, handler))
        return handler

    return register


def reads_operation(*kinds: str) -> Callable[[Handler], Handler]:
    """Register the function below as what operations of these classes become."""

    def register(handler: Handler) -> Handler:
        OPERATIONS.update(dict.fromkeys(kinds, handler))
        return handler

    return register


class KerasReader:
    """Everything that handlers need to know and to write to.

    Args:
        keras: the library.
        model: the network.
        path: of its file, for messages.
    """

    def __init__(self, keras: Any, model: Any, path: Path) -> None:
        self.keras = keras
        self.builder = ModuleBuilder()
        self._model = model
        self._path = path
        self._kept: dict[Any, str] = {}
        self._prefix: list[str] = []

    def read(self, shapes: Sequence[tuple[int, ...]], dtypes: Sequence[torch.dtype]) -> nn.Module:
        """The network.

        Args:
            shapes: of one example of each input, without the batch.
            dtypes: of each input.

        Raises:
            ModelFileError: layers that are used in a way that has no form in PyTorch.
        """
        inputs = [
            Value(self.builder.input(tensor.name, shape, dtype))
            for tensor, shape, dtype in zip(self._model.inputs, shapes, dtypes, strict=True)
        ]
        outputs = tuple(self.plain(value) for value in _leaves(self._run(self._model, inputs)))
        return self.builder.finish(outputs[0] if len(outputs) == 1 else outputs, self._path.stem)

    # -- what handlers ask -----------------------------------------------------------------------------------------

    def plain(self, value: Value) -> fx.Node:
        """The tensor as the file has it."""
        if value.flat:
            channels, *sizes = value.flat
            whole = self.builder.function(torch.unflatten, value.node, 1, (channels, *sizes))
            return self.builder.function(torch.flatten, self._last(whole), 1)
        return self._last(value.node) if value.moved else value.node

    def first(self, value: Value) -> fx.Node:
        """The tensor with its channels as dimension 1."""
        if value.moved:
            return value.node
        node = self.plain(value)
        rank = self.builder.rank(node)
        _, *sizes, channels = self.builder.shapes(node)[0]
        if all(size == 1 for size in sizes):
            return self.builder.function(torch.reshape, node, (-1, channels, *sizes))
        return self.builder.function(torch.permute, node, (0, rank - 1, *range(1, rank - 1)))

    def _last(self, node: fx.Node) -> fx.Node:
        rank = self.builder.rank(node)
        _, channels, *sizes = self.builder.shapes(node)[0]
        if all(size == 1 for size in sizes):
            return self.builder.function(torch.reshape, node, (-1, *sizes, channels))
        return self.builder.function(torch.permute, node, (0, *range(2, rank), 1))

    def images(self, value: Value, layer: Any) -> fx.Node:
        """What a layer with a ``data_format`` works on, channels as dimension 1."""
        return self.first(value) if layer.data_format == "channels_last" else self.plain(value)

    def made(self, node: fx.Node, layer: Any) -> Value:
        """What such a layer gives."""
        return Value(node, moved=layer.data_format == "channels_last")

    def sizes(self, node: fx.Node) -> tuple[int, ...]:
        """A tensor's spatial sizes, channels being dimension 1."""
        return self.builder.shapes(node)[0][2:]

    def shape(self, value: Value) -> tuple[int, ...]:
        """The shape of one example, as the file has it."""
        _, *sizes = self.builder.shapes(value.node)[0]
        return (*sizes[1:], sizes[0]) if value.moved else tuple(sizes)

    def kept(self, layer: Any, make: Callable[[], nn.Module], part: str = "", key: Any = None) -> str:
        """The name of a layer's module, made at its first call.

        Args:
            layer: it.
            make: gives the module.
            part: of the layer, where it becomes several.
            key: what the module depends on besides the layer.

        Raises:
            ModelFileError: the layer is called in two ways that need two modules.
        """
        whole = (id(layer), part)
        if (*whole, key) not in self._kept:
            if any(other[:2] == whole for other in self._kept):
                raise ModelFileError("it is called on inputs of several sizes, which no one layer of PyTorch takes.")
            path = ".".join([*self._prefix, layer.name] + ([part] if part else []))
            self._kept[(*whole, key)] = self.builder.module(path.replace("/", "."), make())
        return self._kept[(*whole, key)]

    def tensor(self, variable: Any) -> Tensor:
        """A variable's values."""
        values = np.asarray(self.keras.ops.convert_to_numpy(variable))
        return torch.from_numpy(np.array(values, np.float32 if values.dtype.kind == "f" else None))

    # -- how it works ----------------------------------------------------------------------------------------------

    def _run(self, model: Any, inputs: Sequence[Value]) -> Any:
        if isinstance(model, self.keras.Sequential):
            (value,) = inputs
            for layer in model.layers:
                value = self._call(layer, [value], {})
            return value
        config = model.get_config()
        operations = {operation.name: operation for operation in model.operations}
        values: dict[tuple[str, int], Any] = {}
        starts = [entry[0] for entry in _entries(config["input_layers"])]
        for name, value in zip(starts, inputs, strict=True):
            values[name, 0] = value
        waiting = [
            (entry["name"], index, node)
            for entry in config["layers"]
            for index, node in enumerate(entry["inbound_nodes"])
        ]
        while waiting:
            later = []
            for name, index, node in waiting:
                try:
                    arguments = [_resolved(argument, values) for argument in node["args"]]
                    options = {key: _resolved(option, values) for key, option in node["kwargs"].items()}
                except LookupError:
                    later.append((name, index, node))
                    continue
                values[name, index] = self._call(operations[name], arguments, options)
            if len(later) == len(waiting):
                raise ModelFileError(f"{self._path}: the layers {[name for name, _, _ in later][:3]} have no input.")
            waiting = later
        found = [_leaves(values[name, index])[number] for name, index, number in _entries(config["output_layers"])]
        return found[0] if len(found) == 1 else found

    def _call(self, layer: Any, arguments: Sequence[Any], options: Mapping[str, Any]) -> Any:
        kind = type(layer).__name__
        if isinstance(layer, self.keras.Model):
            self._prefix.append(layer.name)
            try:
                return self._run(layer, _leaves(arguments[0] if len(arguments) == 1 else list(arguments)))
            finally:
                self._prefix.pop()
        table = LAYERS if isinstance(layer, self.keras.layers.Layer) else OPERATIONS
        try:
            if getattr(layer, "quantization_mode", None):
                raise ModelFileError("it is quantized already. Give the float network that it was made from.")
            given = {key: value for key, value in options.items() if key not in ("training", "mask") or value}
            return table[kind](self, layer, *arguments, **given)
        except KeyError as error:
            if kind in table:
                raise
            raise ModelFileError(f"{self._path}: the operation {kind} ({layer.name!r}) is not read.") from error
        except ModelFileError as error:
            raise ModelFileError(f"{self._path}: {kind} {layer.name!r}: {error}") from error
        except SigmaQuantError:
            raise
        except Exception as error:
            raise ModelFileError(
                f"{self._path}: {kind} {layer.name!r} is used in a way that is not read: "
                f"{type(error).__name__}: {error}"
            ) from error


def _entries(described: Any) -> list[tuple[str, int, int]]:
    """Input or output layers, which a single one is without its list."""
    if isinstance(described, dict):
        return [entry for value in described.values() for entry in _entries(value)]
    if described and isinstance(described[0], str):
        return [tuple(described)]
    return [entry for value in described for entry in _entries(value)]


def _resolved(argument: Any, values: Mapping[tuple[str, int], Any]) -> Any:
    """An argument of a call with the tensors in the place of their descriptions."""
    if isinstance(argument, dict):
        if argument.get("class_name") == "__keras_tensor__":
            name, index, number = argument["config"]["keras_history"]
            return _leaves(values[name, index])[number]
        return {key: _resolved(value, values) for key, value in argument.items()}
    if isinstance(argument, list | tuple):
        return [_resolved(value, values) for value in argument]
    return argument


def _leaves(value: Any) -> list[Any]:
    if isinstance(value, list | tuple):
        return [leaf for part in value for leaf in _leaves(part)]
    if isinstance(value, dict):
        return [leaf for part in value.values() for leaf in _leaves(part)]
    return [value]
