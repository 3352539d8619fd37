"""The verb `sweep`: several budgets, one frontier."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import typer

from sigmaquant import tables
from sigmaquant.budget import Budget
from sigmaquant.cli import options
from sigmaquant.cli.common import (
    DeviceOption,
    JsonOption,
    MetricOption,
    ModelArgument,
    QuietOption,
    TaskOption,
    WeightsOption,
    interruptible,
    print_json,
    print_line,
    print_parts,
    stdout_is_ours,
)
from sigmaquant.cli.configuration import ConfigOption, repeatable
from sigmaquant.cli.options import DEFAULTS
from sigmaquant.errors import SigmaQuantError
from sigmaquant.frontends.inputs import load_inputs
from sigmaquant.runs import make_progress
from sigmaquant.search.session import Statistics
from sigmaquant.search.settings import Settings
from sigmaquant.sweeping import sweep_job
from sigmaquant.workflow.job import Job


def sweep_command(
    ctx: typer.Context,
    model: ModelArgument,
    train: options.Train,
    out: Annotated[Path, typer.Option(help="folder: a run directory per budget, frontier.csv, report.html")],
    val: options.Val = None,
    test: options.Test = None,
    weights: WeightsOption = None,
    config: ConfigOption = None,
    resume: Annotated[bool, typer.Option("--resume", help="continue the sweep in --out")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace the sweep in --out")] = False,
    jobs: Annotated[int, typer.Option(help="worker processes; more than one needs Ray")] = 1,
    address: Annotated[str | None, typer.Option(help="of a Ray cluster; default: this machine")] = None,
    size: Annotated[str | None, typer.Option(help="largest sizes: 6x,8x,10x or 134KB,96KB")] = None,
    accuracy: Annotated[str | None, typer.Option(help='one largest drop "-1 %" or floor "90 %" for all')] = None,
    bops: Annotated[str | None, typer.Option(help="most bit operations")] = None,
    energy: Annotated[str | None, typer.Option(help="most energies")] = None,
    latency: Annotated[str | None, typer.Option(help="longest latencies")] = None,
    ram: Annotated[str | None, typer.Option(help="most activation memory, or RAM of the C program")] = None,
    flash: Annotated[str | None, typer.Option(help="most flash of the C program")] = None,
    size_counts: options.SizeCountsKind = options.SizeCountsOption.total,
    hardware: options.Hardware = "ideal",
    strategy: options.Strategy = DEFAULTS.strategy,
    start: options.Beginning = DEFAULTS.start,
    objective: options.ObjectiveKind = options.ObjectiveOption.auto,
    bitwidths: options.Bitwidths = "2,4,6,8",
    activation_bits: options.ActivationBits = DEFAULTS.activation_bits,
    activation_bitwidths: options.ActivationBitwidths = "",
    midrise_up_to: options.MidriseUpTo = DEFAULTS.midrise_up_to,
    pin: options.Pin = None,
    allow: options.Allow = None,
    sigma: options.Sigma = DEFAULTS.sigma,
    sensitivity: options.SensitivityName = DEFAULTS.sensitivity,
    post_training: options.PostTraining = False,
    minutes: options.Minutes = DEFAULTS.minutes,
    effort: options.EffortName = DEFAULTS.effort,
    epochs: options.Epochs = DEFAULTS.final_epochs,
    steps: options.Steps = DEFAULTS.final_steps,
    cycle_examples: options.CycleExamples = DEFAULTS.cycle_examples,
    max_cycles: options.MaxCycles = DEFAULTS.max_cycles,
    search_minutes: options.SearchMinutes = DEFAULTS.search_minutes,
    batch_size: options.BatchSize = DEFAULTS.batch_size,
    lr: options.LearningRate = DEFAULTS.lr,
    bf16: options.Bf16 = DEFAULTS.bf16,
    distill: options.Distill = DEFAULTS.distill,
    outputs: options.OutputsName = DEFAULTS.outputs,
    task: TaskOption = None,
    metric: MetricOption = None,
    loss: options.Loss = None,
    control: options.Control = False,
    accept_control: options.AcceptControl = False,
    equalize: options.Equalize = DEFAULTS.equalize,
    seed: options.Seed = DEFAULTS.seed,
    device: DeviceOption = "auto",
    json_output: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """A run for each of several limits, like --size 6x,8x,10x, and the frontier. Exit code 1: one could not be met.

    Two options may have several values: every value of one meets every value of the other. So may --strategy.
    """
    strategies = [name.strip() for name in strategy.split(",")]
    settings = options.settings_of({**locals(), "strategy": strategies[0]})
    limits = {"size": size, "bops": bops, "energy": energy, "latency": latency, "ram": ram, "flash": flash}
    budgets = _budgets(limits, accuracy, size_counts, len(strategies) > 1)
    make = partial(
        job_of,
        folder=Path.cwd(),
        model=model,
        weights=weights,
        train=train,
        val=val,
        test=test,
        task=task,
        metric=metric,
        loss=loss,
        hardware=hardware,
        settings=settings,
        device=device,
    )
    with stdout_is_ours(json_output), interruptible(out, overwrite), repeatable(ctx, out):
        found = sweep_job(
            make,
            budgets,
            out.absolute(),
            jobs=jobs,
            address=address,
            resume=resume,
            overwrite=overwrite,
            progress=make_progress(show=not quiet),
            strategies=strategies,
        )
    if json_output:
        print_json(tables.sweep_document(found))
    else:
        print_parts(tables.frontier(found))
        report = "" if found.report_path is None else f", {found.report_path.name}"
        print_line(f"Files: {out} ({found.frontier_path.name}{report})")
    raise typer.Exit(0 if found.met else 1)


def _budgets(
    limits: dict[str, str | None], accuracy: str | None, counts: options.SizeCountsOption, by_strategy: bool
) -> list[Budget]:
    """A budget for each value of the limit that has several; of two such limits, for each pair of values."""
    values = {name: [part.strip() for part in text.split(",")] for name, text in limits.items() if text is not None}
    several = [name for name, parts in values.items() if len(parts) > 1]
    if len(several) > 2 or not (several or by_strategy):
        raise SigmaQuantError(
            f"{', '.join('--' + name for name in several) or 'no option'} has several values. Give one or two of "
            f"--{', --'.join(limits)} as a list with commas, like --size 6x,8x,10x, or several strategies; for one "
            "budget use quantize."
        )
    return [
        options.make_budget({**dict(zip(values, chosen, strict=True)), "accuracy": accuracy}, counts)
        for chosen in product(*values.values())
    ]


def job_of(
    *,
    folder: Path,
    hardware: str,
    settings: Settings,
    device: str,
    statistics: Statistics | None = None,
    strategy: str = "",
    **inputs: Any,
) -> Job:
    """The job that the command line names; called in every worker, whose working directory may be another one.

    Args:
        folder: what relative paths start from.
        hardware, settings, device, statistics: as for `Job`.
        strategy: in place of that of the settings.
        inputs: model, data, metric and loss by name, as for `load_inputs`.
    """
    if Path.cwd() != folder and folder.is_dir():
        os.chdir(folder)
    return Job(
        **load_inputs(**inputs, batch_size=settings.batch_size),
        hardware=hardware,
        settings=replace(settings, strategy=strategy or settings.strategy),
        device=device,
        statistics=statistics,
    )
