"""`ModuleBuilder`: a network of stock modules, written call by call, whose every shape is known as it grows."""

from __future__ import annotations

import contextlib
import keyword
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode

BATCHES = (2, 3)
"""The batch sizes that every shape is known at: a dimension that differs between the two depends on the batch."""


class ModuleBuilder:
    """Collects modules and calls, and knows every intermediate tensor's shape at two batch sizes.

    A file's graph is read by running it: each call that is added runs at once on tensors without values. So a converter
    can ask for shapes, and a batch size that was written into the file shows itself.
    """

    def __init__(self) -> None:
        self._root = nn.Module()
        self._graph = fx.Graph()
        self._mode = FakeTensorMode(allow_non_fake_inputs=True)
        self._results: dict[fx.Node, tuple[Any, Any]] = {}
        self._size: fx.Node | None = None
        self._inputs: list[fx.Node] = []
        self._leaves: set[str] = set()

    def input(self, name: str, shape: Sequence[int], dtype: torch.dtype) -> fx.Node:
        """One more argument of ``forward``.

        Args:
            name: wished for.
            shape: of one example, without the batch.
            dtype: of its values.
        """
        node = self._graph.placeholder(identifier(name))
        with self._mode:
            self._results[node] = tuple(torch.zeros(batch, *shape, dtype=dtype) for batch in BATCHES)  # type: ignore[assignment]
        self._inputs.append(node)
        return node

    def module(self, name: str, module: nn.Module) -> str:
        """Keep a module under a name like the one wished for; the name that it has."""
        found = self._free(name)
        _install(self._root, found, module.eval())
        self._leaves.add(found)
        return found

    def call(self, target: str, *arguments: Any) -> fx.Node:
        """Call a module that is kept."""
        return self._add(self._graph.call_module(target, arguments))

    def function(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> fx.Node:
        """Call a function of PyTorch or of `operator`."""
        return self._add(self._graph.call_function(function, arguments, options))

    def method(self, name: str, *arguments: Any, **options: Any) -> fx.Node:
        """Call a tensor's method."""
        return self._add(self._graph.call_method(name, arguments, options))

    def tensor(self, name: str, values: Tensor, trained: bool) -> fx.Node:
        """A parameter (`trained`) or buffer of the network, under a name like the one wished for."""
        found = self._free(name)
        if trained and values.is_floating_point():
            _install(self._root, found, nn.Parameter(values))
        else:
            _install(self._root, found, values)
        self._leaves.add(found)
        return self._add(self._graph.get_attr(found), values)

    def reused(self, target: str, values: Tensor) -> fx.Node:
        """One more read of a tensor that is kept."""
        return self._add(self._graph.get_attr(target), values)

    def batch(self) -> fx.Node:
        """The number of examples, as the network reads it from its first input."""
        if self._size is None:
            after = self._graph.inserting_after(self._inputs[-1])
            with after:
                self._size = self._graph.call_method("size", (self._inputs[0], 0))
            self._results[self._size] = BATCHES
        return self._size

    def results(self, node: fx.Node) -> tuple[Any, Any]:
        """What the node gives at the two batch sizes: tensors without values, or containers of them."""
        return self._results[node]

    def shapes(self, node: fx.Node) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The shape of a node's tensor at the two batch sizes."""
        small, large = self._results[node]
        return tuple(small.shape), tuple(large.shape)

    def rank(self, node: fx.Node) -> int:
        """Number of a node's dimensions, the batch among them."""
        return len(self.shapes(node)[0])

    def dtype(self, node: fx.Node) -> torch.dtype:
        """Type of a node's values."""
        found: torch.dtype = self._results[node][0].dtype
        return found

    def finish(self, outputs: Any, name: str) -> nn.Module:
        """The network that returns these nodes, in evaluation mode.

        Args:
            outputs: a node or a tuple of nodes.
            name: of its class.
        """
        self._graph.output(outputs)
        module = fx.GraphModule(self._root, self._graph, class_name=identifier(name))
        module.graph.eliminate_dead_code()
        module.delete_all_unused_submodules()
        module.graph.lint()
        module.recompile()
        return module.eval()

    def _add(self, node: fx.Node, value: Any = None) -> fx.Node:
        if value is not None:
            self._results[node] = (value, value)
            return node
        try:
            results = tuple(self._run(node, which) for which in range(len(BATCHES)))
        except Exception:
            self._graph.erase_node(node)
            raise
        self._results[node] = results
        return node

    def _run(self, node: fx.Node, which: int) -> Any:
        arguments = fx.map_arg(node.args, lambda n: self._results[n][which])
        options = fx.map_arg(node.kwargs, lambda n: self._results[n][which])
        with _quiet(), self._mode, torch.no_grad():
            if node.op == "call_module":
                return self._root.get_submodule(str(node.target))(*arguments, **options)
            if node.op == "call_method":
                return getattr(arguments[0], str(node.target))(*arguments[1:], **options)
            assert callable(node.target)
            return node.target(*arguments, **options)

    def _free(self, name: str) -> str:
        """A dotted name that nothing has, whose parents are no modules with parameters of their own."""
        parts = [_part(part) for part in name.split(".") if part] or ["part"]
        for end in range(1, len(parts)):
            if ".".join(parts[:end]) in self._leaves:
                parts = [*parts[: end - 1], "_".join(parts[end - 1 :])]
                break
        wished = found = ".".join(parts)
        number = 1
        while self._taken(found):
            number += 1
            found = f"{wished}_{number}"
        return found

    def _taken(self, name: str) -> bool:
        module: nn.Module = self._root
        *parents, last = name.split(".")
        for parent in parents:
            child = module._modules.get(parent)
            if child is None:
                return parent in module._parameters or parent in module._buffers
            module = child
        return hasattr(module, last)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """PyTorch logs what fails on tensors without values, although it raises it, too."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


def _install(root: nn.Module, name: str, value: nn.Module | Tensor) -> None:
    *parents, last = name.split(".")
    for parent in parents:
        if parent not in root._modules:
            root.add_module(parent, nn.Module())
        root = root.get_submodule(parent)
    if isinstance(value, nn.Module):
        root.add_module(last, value)
    elif isinstance(value, nn.Parameter):
        root.register_parameter(last, value)
    else:
        root.register_buffer(last, value)


def identifier(name: str) -> str:
    """A Python identifier like the name.

    Example:
        >>> identifier("input.1"), identifier("3x/class"), identifier("class")
        ('input_1', '_3x_class', 'class_')
    """
    found = re.sub(r"\W", "_", name) or "_"
    if found[0].isdigit():
        found = f"_{found}"
    return f"{found}_" if keyword.iskeyword(found) else found


def _part(name: str) -> str:
    """One part of a module's name; unlike an identifier it may be a number."""
    found = re.sub(r"\W", "_", name)
    return f"{found}_" if keyword.iskeyword(found) else found
