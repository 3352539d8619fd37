"""`torch.export` of a model in evaluation mode with a dynamic batch, leaving the model as it was."""

from __future__ import annotations

import contextlib
import copy
import inspect
import io
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx, nn
from torch.export import Dim

from sigmaquant.errors import GraphExportError
from sigmaquant.graph.diagnosis import GuardRecorder, SourceLine, explain, is_batch_violation, line_of
from sigmaquant.graph.inputs import Arguments, name_keywords_
from sigmaquant.graph.results import make_returnable_
from sigmaquant.graph.sizes import excluded_sizes

_log = logging.getLogger(__name__)
_STORES = (dict, list, set)  # in which a module may keep tensors, buffers among them
_OTHER_BATCH = 7  # if something of the model's depends on the first
_EXPORT_BATCH = 2  # sizes 0 and 1 are specialised by export, a batch of 1 would be frozen into the graph


def export_graph(model: nn.Module, example: Arguments) -> fx.GraphModule:
    """The model as a graph of torch operators (module form, parameters under the user's names).

    Args:
        model: any module; its mode, attributes and parameters are the same afterwards.
        example: the arguments of a call; dimension 0 is the batch wherever its size is that of the first tensor's.

    Raises:
        GraphExportError: the model does not run on the example, cannot be exported, or fixes its batch size.
    """
    first = example.tensors[0]
    batch = first.shape[0] if first.dim() else 0
    if batch == 0 and first.dim():
        raise GraphExportError("the example batch is empty. Give at least one example.")
    call = _Call(model, example, batch)
    with _evaluation(model):
        with _attributes_kept(model):  # what a run leaves behind, such as a shape to compare with, fixes the batch
            outputs = _check_runs(model, call.arguments(_EXPORT_BATCH))
        make_returnable_(model, outputs)
        name_keywords_(model, example)
        failure = None
        with GuardRecorder():
            try:
                return _checked(call.export(Dim("batch")).module(check_guards=False))
            except GraphExportError:
                raise
            except Exception as error:  # torch.export raises whatever the model and its many passes raise
                failure = error
        _log.debug("torch.export failed", exc_info=failure)
        if is_batch_violation(failure) and (found := _with_exceptions(call)) is not None:
            return _checked(found)
        raise _diagnosed(call, failure) from None


def _checked(graph: fx.GraphModule) -> fx.GraphModule:
    """The graph, unless it holds what is no operator.

    Raises:
        GraphExportError: `torch.vmap`, whose levels are calls that a graph cannot move or leave out.
    """
    for node in graph.graph.nodes:
        if getattr(node.target, "__module__", "") == "torch._functorch.predispatch":
            line = line_of(RuntimeError(node.meta.get("stack_trace") or ""))
            at = "." if line is None else f" at {line}\n"
            raise GraphExportError(
                f"the model cannot be turned into a graph of operators{at} torch.vmap runs operators item by item. "
                "Write it for the whole batch: with broadcasting, torch.einsum or torch.bmm."
            )
    return graph


@dataclass(frozen=True)
class _Call:
    """A model and what it is called with.

    Attributes:
        model: in evaluation mode.
        example: arguments of the user's.
        batch: their number of examples, 0 where the first tensor has no dimensions.
    """

    model: nn.Module
    example: Arguments
    batch: int

    def batched(self, x: object) -> bool:
        """Whether dimension 0 of an argument is the batch."""
        return isinstance(x, Tensor) and x.dim() > 0 and x.shape[0] == self.batch

    def arguments(self, count: int) -> Arguments:
        """The example with so many items, repeated or cut, in the layout of a plain tensor."""

        def resized(x: Tensor) -> Tensor:
            if self.batched(x):
                x = torch.cat([x] * -(-count // self.batch))[:count]
            return x.detach().contiguous()

        return self.example.map(resized)

    def export(self, batch: object, count: int = _EXPORT_BATCH) -> torch.export.ExportedProgram:
        """The model for a symbolic batch, made with so many examples."""
        given = self.arguments(count)
        spans = {0: batch}
        args, kwargs = pytree.tree_map(
            lambda x: spans if self.batched(x) else None, (self.example.args, self.example.kwargs)
        )
        # forward(*inputs) takes them as one tuple
        shapes = dict(inspect.signature(self.model.forward).bind(*args, **kwargs).arguments)
        # non-strict: the model runs in plain Python, which follows far more programs than bytecode analysis;
        # all three repeat what the error says
        with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings(), _torch_logs_nothing():
            warnings.simplefilter("ignore")
            return torch.export.export(self.model, given.args, given.kwargs, dynamic_shapes=shapes, strict=False)


def _with_exceptions(call: _Call) -> fx.GraphModule | None:
    """The graph of a model that asks whether its batch has one size, and computes the same if it has.

    A model that keeps something of its last call (positions in a map) compares shapes to know whether to make it anew.
    Such a comparison excludes single batch sizes; the graph is good if it gives at these what the model gives.
    """
    for count in (_EXPORT_BATCH, _OTHER_BATCH):  # one of them is not the size of the last call
        with contextlib.suppress(Exception):
            program = call.export(Dim.AUTO, count)
            excluded = excluded_sizes(program)
            if excluded is None:
                continue
            graph = program.module(check_guards=False)
            if all(_agrees(call, graph, size) for size in {*excluded, 1, _EXPORT_BATCH, _OTHER_BATCH}):
                return graph
    return None


def _agrees(call: _Call, graph: fx.GraphModule, size: int) -> bool:
    """Whether graph and model give the same for so many examples."""
    given = call.arguments(size)
    copies = given.map(Tensor.clone)
    with _attributes_kept(call.model), torch.no_grad():
        expected, found = call.model(*copies.args, **copies.kwargs), graph(*given.args, **given.kwargs)
    pairs = zip(pytree.tree_leaves(expected), pytree.tree_leaves(found), strict=True)
    return all(torch.allclose(a, b, 1e-4, 1e-5) if isinstance(a, Tensor) else a == b for a, b in pairs)


@contextlib.contextmanager
def _torch_logs_nothing() -> Iterator[None]:
    """Its handler has stderr in its hands from the start, so that redirection does not reach it."""

    def nothing(_record: logging.LogRecord) -> bool:
        return False

    handlers = list(logging.getLogger("torch").handlers)
    for handler in handlers:
        handler.addFilter(nothing)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(nothing)


def _diagnosed(call: _Call, failure: Exception) -> GraphExportError:
    """The error for the user: line, reason, remedy."""
    line = _batch_line(call) if is_batch_violation(failure) else line_of(failure)
    at = "." if line is None else f" at {line}\n"
    return GraphExportError(f"torch.export cannot turn the model into a graph{at} {explain(failure, line)}")


def _check_runs(model: nn.Module, given: Arguments) -> object:
    """What the model returns for the example; what it raises by itself is raised for the user."""
    try:
        with torch.no_grad():
            copies = given.map(Tensor.clone)
            return model(*copies.args, **copies.kwargs)
    except Exception as error:  # the model is the user's program and may raise anything
        where = line_of(error)
        at = "" if where is None else f" at {where}\n"
        how = "model(**inputs)" if given.kwargs else "model(*inputs)"
        raise GraphExportError(
            f"the model does not run on the example inputs {given.describe()}:{at} "
            f"{type(error).__name__}: {error}. Give an example input that {how} accepts."
        ) from None


def _batch_line(call: _Call) -> SourceLine | None:
    """The user's line that fixes the batch size: a second export that may specialise, watched by a recorder."""
    with GuardRecorder(record_guards=True) as recorder, contextlib.suppress(Exception):
        call.export(Dim.AUTO)
    return recorder.lines[0] if recorder.lines else None


@contextlib.contextmanager
def _evaluation(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode; afterwards mode and attributes of every module are as they were.

    Gradients are on and torch's fused attention is off, because both hide the layers of a Transformer from the graph:
    without gradients, whole encoder layers become a single operator.
    """
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with _attributes_kept(model), torch.enable_grad():
            model.eval()
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


@contextlib.contextmanager
def _attributes_kept(model: nn.Module) -> Iterator[None]:
    """Afterwards every module's attributes are what they were: a forward may store tensors, fake ones too, on self."""
    before = {module: dict(vars(module)) for module in model.modules()}
    stores = [value for kept in before.values() for value in kept.values() if type(value) in _STORES]
    contents = [(store, copy.copy(store)) for store in stores]
    try:
        yield
    finally:
        for module, attributes in before.items():
            vars(module).clear()
            vars(module).update(attributes)
        for store, content in contents:
            store.clear()
            store.extend(content) if isinstance(store, list) else store.update(content)
