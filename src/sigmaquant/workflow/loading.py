"""A finished run's network, back from its files, and its score on data."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from sigmaquant.data import Keys, as_source
from sigmaquant.errors import CheckpointError, MetricError
from sigmaquant.graph import trace
from sigmaquant.graph.copying import copied
from sigmaquant.graph.inputs import ExampleInputs, argument_names, map_tensors
from sigmaquant.graph.reading import readable
from sigmaquant.numerics import raw_bytes
from sigmaquant.pruning.removal import pruned_model
from sigmaquant.quant import QuantizedNetwork, prepare, restore_plan_
from sigmaquant.runs import RunFiles
from sigmaquant.search.settings import Settings
from sigmaquant.tasks import METRICS, Metric, OneOutput, Task, as_task, known_task
from sigmaquant.training.devices import choose_device
from sigmaquant.training.metrics import evaluate, outputs_of, scored
from sigmaquant.training.teacher import make_teacher

log = logging.getLogger("sigmaquant")


def weights_digest(model: nn.Module) -> str:
    """SHA-256 over names, types, shapes and values of all parameters and buffers, as the program reads them.

    Raises:
        ModelError: see `sigmaquant.graph.reading.check_readable`.
    """
    digest = hashlib.sha256()
    for name, tensor in readable(model).state_dict().items():
        if isinstance(tensor, Tensor):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(raw_bytes(tensor))
    return digest.hexdigest()


def load_quantized(model: nn.Module, example_inputs: ExampleInputs, run: str | Path) -> QuantizedNetwork:
    """The quantized network of a finished run, on the CPU.

    Args:
        model: the float model's architecture, on any device; its weights do not matter.
        example_inputs: as for `sigmaquant.graph.trace`.
        run: the run directory.

    Raises:
        CheckpointError: the checkpoint is missing, damaged, or of another model or plan.
        PlanError: the plan is malformed or of another model.
        RunDirectoryError: there is no plan, or a file of the run is damaged.
    """
    files = RunFiles(run)
    plan = files.read_plan()
    tensors, metadata = files.read_checkpoint()
    if metadata.get("format") != "sigmaquant.checkpoint":
        raise CheckpointError(f"{files.checkpoint_path} is no checkpoint of this program: its metadata do not say so.")
    graph = trace(pruned_model(model, plan).cpu(), map_tensors(example_inputs, Tensor.cpu))
    plan.check(graph.layer, graph.activation_names, graph.fingerprint)  # first: it can name what was misspelt
    if metadata.get("plan") != plan.to_json():
        raise CheckpointError(
            f"{files.checkpoint_path} was made under another plan than {files.plan_path}. Restore the plan, or repeat "
            "the run's command with --resume, which writes both anew."
        )
    network = prepare(graph)
    restore_plan_(network, plan, tensors)
    return network.eval()


def batch_size_of(config: Mapping[str, Any]) -> int:
    """Examples in a batch of a run, by its configuration.

    An evaluation repeats them: how a sum of floats is rounded depends on its batches.
    """
    size: int = config.get("settings", {}).get("batch_size", Settings.batch_size)
    return size


def keys_of(model: nn.Module, task: Task) -> Keys:
    """What the entries of batches that are mappings mean: the model's arguments, and the task's targets."""
    names = argument_names(model) if isinstance(model, nn.Module) else ()  # what is none is told where it is read
    return Keys(tuple(name for name in names if name != task.target), task.target)


def task_of(config: Mapping[str, Any], task: Task | str | None = None, metric: Metric | str | None = None) -> Task:
    """The task that is asked for, or else the run's.

    Args:
        config: the run's configuration.
        task, metric: what the user asks for; None: nothing.

    Raises:
        MetricError: nothing is asked for, and the run's task is made of code that is not part of it.
    """
    if task is not None:
        return as_task(task, metric)
    own = run_task(config)
    if own is not None:
        return own if metric is None else as_task(own, metric)
    if metric is not None:
        return as_task(metric=metric)
    name, known = config.get("metric", "top1"), config.get("task", {}).get("name", OneOutput.name)
    if known == OneOutput.name:
        raise MetricError(
            f"the run was scored by {name!r}, a function that is not part of it. Give it: metric=, or --metric "
            f"path/file.py:{name}. Other metrics go the same way, such as 'top1'."
        )
    raise MetricError(
        f"the run's task is {known!r}, made of functions that are not part of it. Give it: task=, or --task "
        "path/file.py:NAME."
    )


def run_task(config: Mapping[str, Any]) -> Task | None:
    """The task of a run by its configuration; None where it takes the user's code to make it."""
    if "task" in config:
        return known_task(config["task"])
    name = config.get("metric", "top1")  # as runs of earlier releases have it
    return as_task(metric=name) if name in METRICS else None


def evaluate_run(
    model: nn.Module,
    data: Any,
    run: str | Path,
    *,
    task: Task | str | None = None,
    metric: Metric | str | None = None,
    device: str = "auto",
) -> dict[str, float]:
    """The metric of a run's network and of the float model on data.

    Args:
        model: the trained float model.
        data: as for `quantize`.
        run: the run directory.
        task, metric: as for `quantize`; None: the run's.
        device: as for `quantize`.

    Returns:
        ``{"quantized": …, "float": …, "examples": …}``.

    Raises:
        SigmaQuantError: bad input.
    """
    where, config = choose_device(device), RunFiles(run).read_config()
    chosen = task_of(config, task, metric)
    chosen.check()
    own, other = config.get("metric", "top1"), chosen.metric_name
    if other != own:
        log.warning("the run was scored by %r, not by %r: do not compare the two", own, other)
    keys = keys_of(model, chosen)
    source = as_source(data, batch_size=batch_size_of(config), name="evaluation data", keys=keys)
    small = map_tensors(source.example_structure(), lambda x: x[:2])
    network = load_quantized(model, small, run)
    if config.get("float_sha256") not in (None, weights_digest(model)):
        log.warning("the float model's weights are not those that the run in %s began with", run)
    where.put_module(network)
    plan, graph = network.plan, network.graph
    if plan is not None and plan.removed:  # the float network has all its channels
        graph = trace(copied(model).cpu(), map_tensors(small, Tensor.cpu))
    teacher = make_teacher(graph)
    where.put_module(teacher)
    outputs, targets = outputs_of(network, source.batches(), chosen, where)
    return {
        "quantized": scored(chosen, outputs, targets),
        "float": evaluate(teacher, source.batches(), chosen, where),
        "examples": float(len(targets)),
    }
