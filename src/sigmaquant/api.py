"""The main job: a trained network and a budget in, a mixed-precision network out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Unpack

from torch import nn

from sigmaquant.budget import Budget
from sigmaquant.errors import ExportError, SigmaQuantError
from sigmaquant.export.feasibility import check_feasible
from sigmaquant.hardware.profile import HardwareProfile
from sigmaquant.nested.files import export_plans
from sigmaquant.nested.run import named_budgets, plan_settings, run_plans
from sigmaquant.parallel import alone, function_processes, is_main
from sigmaquant.runs import Progress, shown_progress
from sigmaquant.search.callbacks import Callback
from sigmaquant.search.settings import Options, Settings
from sigmaquant.tasks import Metric, Task, TaskLoss
from sigmaquant.workflow.exporting import export_run
from sigmaquant.workflow.job import Job, make_settings
from sigmaquant.workflow.results import QuantizationResult

_EXAMPLES = 1000
"""Files that are written at the end of a run are verified on so many."""


def quantize(
    model: nn.Module,
    train_data: Any,
    *,
    budget: Budget | str | None = None,
    plans: Sequence[Budget | str] | None = None,
    validation_data: Any = None,
    test_data: Any = None,
    task: Task | str | None = None,
    metric: Metric | str | None = None,
    loss: TaskLoss | None = None,
    hardware: str | Path | HardwareProfile = "ideal",
    run_dir: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    settings: Settings | None = None,
    device: str = "auto",
    devices: int | None = None,
    progress: Progress | bool | None = None,
    export: Sequence[str] = (),
    callbacks: Sequence[Callback] = (),
    **options: Unpack[Options],
) -> QuantizationResult:
    """Fit a trained network into a budget: choose a bitwidth for every layer, train briefly, write the result.

    The model is not changed. The test data, if given, are scored once at the end and decide nothing.

    Args:
        model: a trained `nn.Module` that `torch.export` accepts.
        train_data: a pair ``(inputs, targets)``, a torch ``Dataset``, a ``DataLoader`` or any re-iterable of batches.
        budget: what is allowed; a text is a size, such as ``"8x"`` or ``"134 KB"``.
        plans: several budgets in place of one: as many plans from one set of weights, whose codes are nested, so that
            a device can switch between them. The result is about the largest; `QuantizationResult.plans` has them all.
        validation_data: judges every decision; None: a part of the training data is held out, and the result says so.
        test_data: scored at the end.
        task: what counts: which outputs, metric, loss, distance to the float network, equal decisions; a `Task`, or the
            name of one (`sigmaquant.tasks.TASKS`); None: one output, for which the next two are enough.
        metric: ``"top1"`` or a callable ``(outputs, targets) -> float`` on a whole data set, higher is better; in place
            of the task's.
        loss: ``(outputs, targets) -> scalar``, in place of the task's; None: cross-entropy, where there is no task.
            Only used where `Settings.distill` is below 1.
        hardware: the profile that gives the costs: a shipped one by name, a file by path, or a `HardwareProfile`.
        run_dir: where plan, checkpoint, trajectory and result go; None: nothing is written.
        resume: continue the run in `run_dir` from its last complete step.
        overwrite: discard the run in `run_dir`.
        settings: how to search and train.
        device: ``"auto"``, ``"cpu"``, ``"cuda"``, ….
        devices: processes that train and measure together, one on each GPU, or on a CPU; model and data are pickled for
            the others. None: as many as ``torchrun`` has started, else one. The result is in the first one; in those of
            ``torchrun`` all have it, and the first one writes the files.
        progress: a display; True: the one that suits the terminal, notebook or file; None: silent.
        export: kinds of files that are written and verified at the end (``"onnx"``, ``"litert"``, ``"tflm"``,
            ``"c"``, ``"packed"``), into ``export`` in `run_dir`. Whether they can hold the network is checked before
            any work.
        callbacks: called with every step while the run goes on, as ``trajectory.jsonl`` has it, and at the end with the
            result as ``result.json`` has it, whose ``stage`` is ``"result"``: for loggers. With `plans`, a step says by
            ``plan`` which one it is of.
        **options: fields of `Settings`, such as ``seed=1`` or ``pin={"conv1": 8}``.

    Returns:
        The result; `QuantizationResult.met` says whether the budget holds. Where it cannot be met, the least violating
        network found is returned.

    Raises:
        SigmaQuantError: bad input, see `sigmaquant.errors`; `UnreachableBudgetError` before any training where no plan
            fits, `ExportError` where a file cannot hold the network.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> inputs = torch.randn(64, 1, 4, 4, generator=torch.Generator().manual_seed(0))
        >>> targets = (inputs.sum((1, 2, 3)) > 0).long()
        >>> result = quantize(model, (inputs, targets), budget=Budget(size="6x", size_counts="weights"), final_epochs=1)
        >>> result.met, result.cost.weight_bytes <= result.reference.weight_bytes / 6
        (True, True)
    """
    if (budget is None) == (plans is None):
        raise SigmaQuantError("give either a budget, such as budget='8x', or plans, such as plans=['8x', '16x'].")
    budgets = None if plans is None else named_budgets(plans)
    chosen = make_settings(settings, options)
    progress = shown_progress(progress)
    again = {
        "model": model,
        "train_data": train_data,
        "budget": budget,
        "plans": plans,
        "validation_data": validation_data,
        "test_data": test_data,
        "task": task,
        "metric": metric,
        "loss": loss,
        "hardware": hardware,
        "run_dir": run_dir,
        "resume": resume,
        "overwrite": overwrite,
        "settings": chosen,
        "device": device,
        "export": export,
    }
    with function_processes(devices, device, quantize, again) as own:
        main = is_main()
        job = Job(
            model,
            train_data,
            validation_data=validation_data,
            test_data=test_data,
            task=task,
            metric=metric,
            loss=loss,
            hardware=hardware,
            settings=chosen if budgets is None else plan_settings(chosen),
            device=own,
        )
        if export:
            if run_dir is None:
                raise ExportError("files are exported from a run directory. Give run_dir.")
            check_feasible(job.graph, export)
        if budgets is not None:
            result = run_plans(
                job,
                budgets,
                run_dir=run_dir,
                resume=resume,
                overwrite=overwrite,
                progress=progress,
                callbacks=callbacks if main else (),
            )
        else:
            assert budget is not None, "one of the two is given"
            result = job.run(
                budget,
                run_dir=run_dir,
                resume=resume,
                overwrite=overwrite,
                progress=progress,
                callbacks=callbacks if main else (),
            )
    if run_dir is not None:
        held_out = validation_data if validation_data is not None else train_data
        write = export_run if budgets is None else export_plans
        exporter = partial(write, model, str(run_dir), task=job.task)
        result = replace(result, exporter=exporter, own_data=test_data if test_data is not None else held_out)
    if export and main:
        with alone():
            result = replace(result, files=result.export(*export, examples=_EXAMPLES, progress=progress))
    return result
