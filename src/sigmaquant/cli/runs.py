"""The verbs of a run: quantize, inspect, evaluate, compare."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Annotated, cast

import torch
import typer

from sigmaquant import tables
from sigmaquant.api import quantize
from sigmaquant.cli import options
from sigmaquant.cli.common import (
    DATA_HELP,
    DeviceOption,
    JsonOption,
    MetricOption,
    ModelArgument,
    ModelOption,
    QuietOption,
    RunTaskOption,
    TaskOption,
    WeightsOption,
    interruptible,
    print_json,
    print_line,
    print_parts,
    stdout_is_ours,
    whole_numbers,
)
from sigmaquant.cli.configuration import ConfigOption, repeatable
from sigmaquant.cli.options import DEFAULTS
from sigmaquant.data import as_source
from sigmaquant.errors import SigmaQuantError
from sigmaquant.frontends.data import load_data
from sigmaquant.frontends.factories import load_metric, load_task
from sigmaquant.frontends.inputs import load_inputs
from sigmaquant.frontends.models import load_model
from sigmaquant.graph.inputs import ExampleInputs
from sigmaquant.hardware.profile import load_profile
from sigmaquant.parallel import command_processes, is_main
from sigmaquant.runs import RunFiles, make_progress
from sigmaquant.statistics import SigmaVariant
from sigmaquant.tasks import as_task
from sigmaquant.workflow.inspection import inspect_model
from sigmaquant.workflow.loading import batch_size_of, evaluate_run, keys_of, task_of


def quantize_command(
    ctx: typer.Context,
    model: ModelArgument,
    train: options.Train,
    val: options.Val = None,
    test: options.Test = None,
    weights: WeightsOption = None,
    config: ConfigOption = None,
    out: Annotated[Path | None, typer.Option(help="run directory")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="continue the run in --out")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="discard the run in --out")] = False,
    size: Annotated[str | None, typer.Option(help='largest size: "134 KB", "8x", bytes')] = None,
    plans: Annotated[
        str | None, typer.Option(help='several sizes in place of --size, from one set of weights: "8x,12x,16x"')
    ] = None,
    accuracy: Annotated[str | None, typer.Option(help='largest drop "-1 %" or floor "90 %"')] = None,
    bops: Annotated[str | None, typer.Option(help='most bit operations: "2.5G", "16x"')] = None,
    macs: Annotated[str | None, typer.Option(help='most multiply-accumulates: "5M", "2x"; with --prune')] = None,
    energy: Annotated[str | None, typer.Option(help='most energy: "2 mJ"')] = None,
    latency: Annotated[str | None, typer.Option(help='longest latency: "15 ms"')] = None,
    ram: Annotated[
        str | None, typer.Option(help='most activation memory, on a microcontroller that of the C program: "64 KB"')
    ] = None,
    flash: Annotated[str | None, typer.Option(help='most flash of that program, its code included: "256 KiB"')] = None,
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
    prune: options.Prune = DEFAULTS.prune,
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
    export: options.Export = "",
    seed: options.Seed = DEFAULTS.seed,
    device: DeviceOption = "auto",
    devices: options.Devices = None,
    json_output: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Choose a bitwidth for every layer, train briefly, write the run.

    Exit code 1: the budget could not be met, or a file does not compute what it should.
    """
    settings = options.settings_of(locals())
    limits = {
        "size": size,
        "accuracy": accuracy,
        "bops": bops,
        "macs": macs,
        "energy": energy,
        "latency": latency,
        "ram": ram,
        "flash": flash,
    }
    budgets = options.make_plans(plans, limits, size_counts)
    budget = None if budgets else options.make_budget(limits, size_counts)
    with (
        stdout_is_ours(json_output),
        interruptible(out, overwrite),
        repeatable(ctx, out),
        command_processes(devices, device, sys.argv[1:]) as own,
    ):
        main = is_main()
        result = quantize(
            **load_inputs(model, weights, train, val, test, metric, loss, batch_size, task),
            budget=budget,
            plans=budgets,
            hardware=hardware,
            run_dir=out,
            resume=resume,
            overwrite=overwrite,
            settings=settings,
            device=own,
            progress=make_progress(show=not quiet and main),
            export=[item.strip() for item in export.split(",") if item.strip()],
        )
    if not main:
        raise typer.Exit(0)
    if json_output:
        files = {"files": [verdict.to_dict() for verdict in result.files]} if result.files else {}
        print_json({"run": str(out) if out else None, **result.to_dict(), **files})
    else:
        rows = (tables.plans(result), tables.plan_layers(result)) if result.plans else (tables.layers(result),)
        print_parts(tables.summary(result), *tables.operating_points(result), *rows)
        if result.files:
            print_parts(tables.verifications(result.files))
        print_parts(result.verdict)
        if out is not None:
            print_line(f"Files: {out}")
    passed = all(verdict.accepted for verdict in result.files)
    raise typer.Exit(0 if result.met and passed else 1)


def inspect_command(
    model: ModelArgument,
    data: Annotated[str | None, typer.Option(help=f"data with the model's input: {DATA_HELP}")] = None,
    input_shape: Annotated[
        str | None, typer.Option(help="shape of one float input without the batch, like 3x32x32, instead of --data")
    ] = None,
    weights: WeightsOption = None,
    bitwidths: Annotated[str, typer.Option(help="bitwidths to show")] = "2,4,6,8",
    sigma: Annotated[str, typer.Option(help="raw, folded or normalised")] = "raw",
    hardware: Annotated[str | None, typer.Option(help="also costs on this hardware profile")] = None,
    files: Annotated[str | None, typer.Option(help="kinds of files: can they hold the network? default: all")] = None,
    json_output: JsonOption = False,
) -> None:
    """Show every layer: shapes, MACs, sigma, divergence, bytes and device costs at each bitwidth; what stays float."""
    if (data is None) == (input_shape is None):
        raise SigmaQuantError("give either --data or --input-shape, so that the model can be traced.")
    with stdout_is_ours(json_output):
        network = load_model(model, weights)
        if data is not None:
            keys = keys_of(network, as_task())
            source = as_source(load_data(data, "test", "the data"), batch_size=2, name="data", keys=keys)
            inputs: ExampleInputs = source.example_structure()
        else:
            inputs = (_zeros(str(input_shape)),)
        profile = None if hardware is None else load_profile(hardware)
        widths = whole_numbers(bitwidths, "--bitwidths")
        kinds = None if files is None else [item.strip() for item in files.split(",") if item.strip()]
        report = inspect_model(network, inputs, widths, cast(SigmaVariant, sigma), profile, kinds)
    if json_output:
        print_json(report.to_dict())
    else:
        print_parts(*tables.inspection(report))


def _shape(text: str) -> tuple[int, ...]:
    try:
        shape = tuple(int(part) for part in text.lower().replace(",", "x").split("x"))
    except ValueError:
        shape = ()
    if not shape or min(shape) < 1:
        raise SigmaQuantError(f"--input-shape {text!r} is no shape, like 3x32x32.")
    return shape


def _zeros(text: str) -> torch.Tensor:
    shape = _shape(text)
    try:
        return torch.zeros(2, *shape)
    except (RuntimeError, TypeError):  # no memory, or beyond what torch can count
        raise SigmaQuantError(
            f"--input-shape {text!r} is too large: two such inputs have {2 * math.prod(shape):,} values, which do not "
            "fit into memory. Check the shape."
        ) from None


def evaluate_command(
    run: Annotated[Path, typer.Argument(help="run directory")],
    model: ModelOption,
    data: Annotated[str, typer.Option(help=f"data (their test part): {DATA_HELP}")],
    weights: WeightsOption = None,
    task: RunTaskOption = None,
    metric: Annotated[
        str | None, typer.Option(help="top1, or package.module:function; that of the run, if not given")
    ] = None,
    device: DeviceOption = "auto",
    json_output: JsonOption = False,
) -> None:
    """Score a run's plan and checkpoint on data, beside the float model."""
    with stdout_is_ours(json_output):
        config = RunFiles(run).read_config()
        chosen = task_of(config, load_task(task), load_metric(metric))
        scores = evaluate_run(
            load_model(model, weights),
            load_data(data, "test", "the data", batch_size_of(config)),
            run,
            task=chosen,
            device=device,
        )
    if json_output:
        print_json({"run": str(run), "metric": chosen.metric_name, **scores})
    else:
        print_parts(tables.scores(scores, chosen.metric_name))


def compare_command(
    runs: Annotated[list[Path], typer.Argument(help="two or more run directories")],
    json_output: JsonOption = False,
) -> None:
    """Show finished runs side by side."""
    if len(runs) < 2:
        raise SigmaQuantError("compare needs two or more run directories.")
    rows = tables.read_runs(runs)
    if json_output:
        print_json(rows)
    else:
        print_parts(*tables.comparison(rows))
