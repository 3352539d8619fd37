"""An ONNX graph under construction: nodes, constants and functions, every tensor under a name of its own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from sigmaquant.operators.node import free_name

DOMAIN = "sigmaquant"
"""Of the functions that a file defines for itself."""


class GraphBuilder:
    """Collects one graph.

    Args:
        taken: names that tensors have already.

    Attributes:
        nodes: in an order in which every tensor is written before it is read.
        initializers: the constants.
        functions: by name; the model carries their definitions.
    """

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.functions: dict[str, onnx.FunctionProto] = {}
        self._names = set(taken)
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}

    def unique(self, name: str) -> str:
        """The name, with a number where a tensor has it already; taken from then on."""
        found = free_name(name, self._names)
        self._names.add(found)
        return found

    def node(
        self,
        operator: str,
        inputs: Sequence[str],
        output: str = "",
        *,
        name: str = "",
        hint: str = "",
        domain: str = "",
        **attributes: Any,
    ) -> str:
        """Add a node with one output.

        Args:
            operator: ONNX operator or function.
            inputs: tensors.
            output: a name from `unique`; made from `hint` where it is empty.
            name: of the node; auxiliary nodes have none, which saves bytes.
            hint: what the output is called if nothing else is.
            domain: empty for ONNX' own operators.
            attributes: of the operator.

        Returns:
            the output's name.
        """
        output = output or self.unique(hint)
        self.nodes.append(helper.make_node(operator, list(inputs), [output], name or None, domain=domain, **attributes))
        return output

    def constant(self, value: NDArray[Any] | np.generic, hint: str) -> str:
        """A constant tensor; equal ones are stored once."""
        array = np.asarray(value)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = self.unique(hint)
            self.initializers.append(numpy_helper.from_array(array, self._constants[key]))
        return self._constants[key]

    def integers(self, *values: int) -> str:
        """A constant int64 vector, such as a shape."""
        return self.constant(np.array(values, np.int64), "shape")

    def tensor(self, tensor: onnx.TensorProto, hint: str) -> str:
        """A constant of a type that NumPy does not have."""
        tensor.name = self.unique(hint)
        self.initializers.append(tensor)
        return tensor.name

    def call(self, function: onnx.FunctionProto, inputs: Sequence[str], hint: str, **attributes: Any) -> str:
        """Call a function, whose definition becomes part of the model."""
        self.functions[function.name] = function
        return self.node(function.name, inputs, hint=hint, domain=DOMAIN, **attributes)
