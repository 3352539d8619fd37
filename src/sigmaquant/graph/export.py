"""`torch.export` of a model in evaluation mode with a dynamic batch, leaving the model as it was."""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
import warnings
from collections.abc import Iterator

import torch
from torch import Tensor, fx, nn
from torch.export import Dim

from sigmaquant.errors import GraphExportError
from sigmaquant.graph.diagnosis import GuardRecorder, SourceLine, explain, is_batch_violation, line_of

_log = logging.getLogger(__name__)
_EXPORT_BATCH = 2  # sizes 0 and 1 are specialised by export, a batch of 1 would be frozen into the graph


def export_graph(model: nn.Module, inputs: tuple[Tensor, ...]) -> fx.GraphModule:
    """The model as a graph of torch operators (module form, parameters under the user's names).

    Args:
        model: any module; its mode, attributes and parameters are the same afterwards.
        inputs: one example of each positional input; dimension 0 is the batch wherever its size is that of the first
            input's.

    Raises:
        GraphExportError: the model does not run on the example, cannot be exported, or fixes its batch size.
    """
    batch = inputs[0].shape[0] if inputs[0].dim() else 0
    batched = tuple(x.dim() > 0 and x.shape[0] == batch for x in inputs)
    examples = tuple(_resized(x) if has_batch else x for x, has_batch in zip(inputs, batched, strict=True))
    with _evaluation(model):
        _check_runs(model, examples)
        failure = None
        with GuardRecorder():
            try:
                return _export(model, examples, batched, Dim("batch")).module(check_guards=False)
            except Exception as error:  # torch.export raises whatever the model and its many passes raise
                failure = error
        _log.debug("torch.export failed", exc_info=failure)
        raise _diagnosed(model, examples, batched, failure) from None


def _resized(x: Tensor) -> Tensor:
    """The example with exactly `_EXPORT_BATCH` items, repeated or sliced."""
    if x.shape[0] == 0:
        raise GraphExportError("the example batch is empty. Give at least one example.")
    return torch.cat([x] * _EXPORT_BATCH)[:_EXPORT_BATCH].detach()


def _export(
    model: nn.Module, examples: tuple[Tensor, ...], batched: tuple[bool, ...], batch: object
) -> torch.export.ExportedProgram:
    # non-strict: the model runs in plain Python, which follows far more programs than bytecode analysis
    shapes = tuple({0: batch} if has_batch else None for has_batch in batched)
    named = dict(inspect.signature(model.forward).bind(*shapes).arguments)  # forward(*inputs) takes them as one tuple
    # all three repeat what the error says
    with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings(), _torch_logs_nothing():
        warnings.simplefilter("ignore")
        return torch.export.export(model, examples, dynamic_shapes=named, strict=False)


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


def _diagnosed(
    model: nn.Module, examples: tuple[Tensor, ...], batched: tuple[bool, ...], failure: Exception
) -> GraphExportError:
    """The error for the user: line, reason, remedy."""
    line = _batch_line(model, examples, batched) if is_batch_violation(failure) else line_of(failure)
    at = "." if line is None else f" at {line}\n"
    return GraphExportError(f"torch.export cannot turn the model into a graph{at} {explain(failure, line)}")


def _check_runs(model: nn.Module, examples: tuple[Tensor, ...]) -> None:
    """Raise what the model raises by itself on the example inputs, for the user."""
    try:
        with torch.no_grad():
            model(*(x.clone() for x in examples))
    except Exception as error:  # the model is the user's program and may raise anything
        where = line_of(error)
        at = "" if where is None else f" at {where}\n"
        raise GraphExportError(
            f"the model does not run on the example inputs {[tuple(x.shape) for x in examples]}:{at} "
            f"{type(error).__name__}: {error}. Give an example input that model(*inputs) accepts."
        ) from None


def _batch_line(model: nn.Module, examples: tuple[Tensor, ...], batched: tuple[bool, ...]) -> SourceLine | None:
    """The user's line that fixes the batch size: a second export that may specialise, watched by a recorder."""
    with GuardRecorder(record_guards=True) as recorder, contextlib.suppress(Exception):
        _export(model, examples, batched, Dim.AUTO)
    return recorder.lines[0] if recorder.lines else None


@contextlib.contextmanager
def _evaluation(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode; afterwards mode and attributes of every module are as they were.

    Gradients are on and torch's fused attention is off, because both hide the layers of a Transformer from the graph:
    without gradients, whole encoder layers become a single operator.
    """
    before = {module: dict(vars(module)) for module in model.modules()}
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.enable_grad():
            model.eval()
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        for module, attributes in before.items():
            # a forward that stores tensors on self leaves fake ones there
            vars(module).clear()
            vars(module).update(attributes)
