"""Tasks by name, and what `quantize` makes of its arguments."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from sigmaquant.errors import SigmaQuantError, near_matches
from sigmaquant.outputs import OutputKind
from sigmaquant.tasks.dense import Segmentation, TokenTagging
from sigmaquant.tasks.detection import Detection
from sigmaquant.tasks.embedding import Embedding
from sigmaquant.tasks.identity import identity
from sigmaquant.tasks.losses import TaskLoss
from sigmaquant.tasks.metrics import Metric
from sigmaquant.tasks.shortforms import Classification, OneOutput, Regression, with_functions
from sigmaquant.tasks.task import Task

TASKS: Mapping[str, type[Task]] = MappingProxyType(
    {kind.name: kind for kind in (Classification, Regression, Detection, Segmentation, Embedding, TokenTagging)}
)
"""Every shipped task by name."""


def as_task(
    task: Task | str | None = None,
    metric: Metric | str | None = None,
    loss: TaskLoss | None = None,
    outputs: OutputKind = "auto",
) -> Task:
    """The task that arguments stand for.

    Args:
        task: a task, or the name of one that needs no options; None: one output, by metric, loss and outputs.
        metric: in place of the task's; None: the task's own, or top-1.
        loss: in place of the task's.
        outputs: what the one output means; only without a task.

    Raises:
        SigmaQuantError: no such task, or arguments that do not go together.
    """
    if task is None:
        return OneOutput(metric or "top1", loss, outputs)
    if isinstance(task, str):
        task = make_task(task, {})
    if isinstance(task, type) or not isinstance(task, Task):
        what = f"the class {task.__name__}, not one of its objects" if isinstance(task, type) else type(task).__name__
        raise SigmaQuantError(f"the task is {what}. Pass a name, {', '.join(TASKS)}, or a sigmaquant.Task.")
    if outputs != "auto":
        raise SigmaQuantError(f"outputs={outputs!r} cannot be given together with a task, which says what they are.")
    return task if metric is None and loss is None else with_functions(task, metric, loss)


def make_task(name: str, options: Mapping[str, Any]) -> Task:
    """A shipped task by its name.

    Raises:
        SigmaQuantError: no such task, or options that it does not take.
    """
    if name not in TASKS:
        raise SigmaQuantError(
            f"there is no task {name!r}. {near_matches(name, TASKS)} Or pass a Task of yours; on the command line: "
            "path/file.py:NAME."
        )
    try:
        return TASKS[name](**options)
    except TypeError as error:
        told = str(error).partition(".__init__() ")[2] or str(error)
        raise SigmaQuantError(f"the task {name!r} cannot be made of the options {dict(options)}: it {told}.") from error


def known_task(document: Mapping[str, Any] | None) -> Task | None:
    """The task that a run's configuration describes (`identity`), but for its loss.

    None where it takes the user's code to make it.
    """
    kinds = {**TASKS, OneOutput.name: OneOutput}
    if document is None or document.get("name") not in kinds:
        return None
    kind, options = kinds[document["name"]], document.get("options", {})
    given = {**options, "metric": document.get("metric"), "outputs": options.get("kind"), "output": document["output"]}
    names = set(inspect.signature(kind).parameters) - {"loss"}
    try:
        made = kind(**{name: value for name, value in given.items() if name in names and value is not None})
    except (TypeError, SigmaQuantError):
        return None
    return made if _without_loss(identity(made)) == _without_loss(document) else None


def _without_loss(document: Mapping[str, Any]) -> dict[str, Any]:
    return {**document, "options": {key: value for key, value in document["options"].items() if key != "loss"}}
