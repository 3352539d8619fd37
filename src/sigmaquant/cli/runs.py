"""The verbs of a run: quantize, inspect, evaluate, compare."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, cast

import torch
import typer
from rich.console import Console

from sigmaquant import tables
from sigmaquant.api import quantize
from sigmaquant.budget import Budget
from sigmaquant.cli.common import (
    DeviceOption,
    JsonOption,
    MetricOption,
    ModelArgument,
    QuietOption,
    WeightsOption,
    interruptible,
    named_values,
    one_bitwidth,
    print_json,
    print_parts,
    stdout_is_ours,
    whole_numbers,
)
from sigmaquant.data import as_source
from sigmaquant.errors import SigmaQuantError
from sigmaquant.frontends.factories import load_data, load_model, load_object
from sigmaquant.hardware.profile import load_profile
from sigmaquant.inspection import inspect_model
from sigmaquant.loading import evaluate_run
from sigmaquant.runs import make_progress
from sigmaquant.search.settings import Settings
from sigmaquant.statistics import SigmaVariant

_DEFAULTS = Settings()


class SizeCountsOption(StrEnum):
    """What a size limit counts."""

    total = "total"
    weights = "weights"


class ObjectiveOption(StrEnum):
    """What the search is after."""

    auto = "auto"
    feasible = "feasible"
    smallest = "smallest"
    accurate = "accurate"


def _budget(limits: dict[str, Any], size_counts: SizeCountsOption) -> Budget:
    given = {name: value for name, value in limits.items() if value is not None}
    if not given:
        raise SigmaQuantError("no budget was given. Give at least one of --" + ", --".join(limits) + ".")
    return Budget(**given, size_counts=size_counts.value)


def quantize_command(
    model: ModelArgument,
    train: Annotated[str, typer.Option(help="training data: a factory, or cifar10:DIR")],
    val: Annotated[str | None, typer.Option(help="validation data; default: held out from the training data")] = None,
    test: Annotated[str | None, typer.Option(help="test data, scored once at the end")] = None,
    weights: WeightsOption = None,
    out: Annotated[Path | None, typer.Option(help="run directory")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="continue the run in --out")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="discard the run in --out")] = False,
    size: Annotated[str | None, typer.Option(help='largest size: "134 KB", "8x", bytes')] = None,
    accuracy: Annotated[str | None, typer.Option(help='largest drop "-1 %" or floor "90 %"')] = None,
    bops: Annotated[str | None, typer.Option(help='most bit operations: "2.5G", "16x"')] = None,
    energy: Annotated[str | None, typer.Option(help='most energy: "2 mJ"')] = None,
    latency: Annotated[str | None, typer.Option(help='longest latency: "15 ms"')] = None,
    ram: Annotated[str | None, typer.Option(help='most activation memory: "64 KB"')] = None,
    size_counts: Annotated[
        SizeCountsOption, typer.Option(help="a size counts everything stored, or the packed weights alone")
    ] = SizeCountsOption.total,
    hardware: Annotated[
        str, typer.Option(help="hardware profile that gives the costs: a shipped one's name, or a file")
    ] = "ideal",
    strategy: Annotated[str, typer.Option(help="sigma, uniform, greedy, ilp, random")] = _DEFAULTS.strategy,
    objective: Annotated[ObjectiveOption, typer.Option()] = ObjectiveOption.auto,
    bitwidths: Annotated[str, typer.Option(help="allowed weight bitwidths")] = "2,4,6,8",
    activation_bits: Annotated[int, typer.Option(help="bitwidth of every activation")] = _DEFAULTS.activation_bits,
    midrise_up_to: Annotated[
        int | None, typer.Option(help="weights of at most so many bits have no zero but one level more, 0..4")
    ] = _DEFAULTS.midrise_up_to,
    pin: Annotated[list[str] | None, typer.Option(help="fixed bitwidth of a layer: conv1=8; repeatable")] = None,
    allow: Annotated[list[str] | None, typer.Option(help="allowed bitwidths of a layer: fc=4,8; repeatable")] = None,
    sigma: Annotated[str, typer.Option(help="raw, folded or normalised")] = _DEFAULTS.sigma,
    sensitivity: Annotated[
        str, typer.Option(help="divergence, output_kl, fisher or curvature")
    ] = _DEFAULTS.sensitivity,
    post_training: Annotated[bool, typer.Option("--post-training", help="no training at all")] = False,
    epochs: Annotated[
        float, typer.Option(help="passes over the training data after the search")
    ] = _DEFAULTS.final_epochs,
    cycle_examples: Annotated[
        int, typer.Option(help="training examples of one search cycle")
    ] = _DEFAULTS.cycle_examples,
    max_cycles: Annotated[int, typer.Option(help="most moves of phase 2")] = _DEFAULTS.max_cycles,
    batch_size: Annotated[int, typer.Option()] = _DEFAULTS.batch_size,
    lr: Annotated[float, typer.Option(help="peak learning rate")] = _DEFAULTS.lr,
    distill: Annotated[float, typer.Option(help="weight of the float network in the loss, 0..1")] = _DEFAULTS.distill,
    metric: MetricOption = "top1",
    loss: Annotated[str | None, typer.Option(help="task loss as package.module:function")] = None,
    control: Annotated[bool, typer.Option("--control", help="also train the uniform plan, for comparison")] = False,
    seed: Annotated[int, typer.Option()] = _DEFAULTS.seed,
    device: DeviceOption = "auto",
    json_output: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Choose a bitwidth for every layer, train briefly, write the run. Exit code 1: the budget could not be met."""
    limits = {"size": size, "accuracy": accuracy, "bops": bops, "energy": energy, "latency": latency, "ram": ram}
    budget = _budget(limits, size_counts)
    settings = Settings(
        strategy=strategy,
        bitwidths=whole_numbers(bitwidths, "--bitwidths"),
        activation_bits=activation_bits,
        midrise_up_to=midrise_up_to,
        pin={name: one_bitwidth(value, "--pin") for name, value in named_values(pin or [], "--pin").items()},
        allowed={name: whole_numbers(value, "--allow") for name, value in named_values(allow or [], "--allow").items()},
        objective=objective.value,
        sigma=cast(SigmaVariant, sigma),
        sensitivity=sensitivity,
        max_cycles=max_cycles,
        cycle_examples=cycle_examples,
        final_epochs=epochs,
        post_training=post_training,
        batch_size=batch_size,
        lr=lr,
        distill=distill,
        control=control,
        seed=seed,
    )
    with stdout_is_ours(json_output), interruptible(out):
        result = quantize(
            load_model(model, weights),
            load_data(train, "train", "the training data"),
            budget=budget,
            validation_data=None if val is None else load_data(val, "train", "the validation data"),
            test_data=None if test is None else load_data(test, "test", "the test data"),
            metric=load_object(metric, "the metric") if ":" in metric else metric,
            loss=None if loss is None else load_object(loss, "the loss"),
            hardware=hardware,
            run_dir=out,
            resume=resume,
            overwrite=overwrite,
            settings=settings,
            device=device,
            progress=make_progress(show=not quiet),
        )
    if json_output:
        print_json({"run": str(out) if out else None, **result.to_dict()})
    else:
        print_parts(tables.summary(result), tables.layers(result))
        if out is not None:
            Console().print(f"Files: {out}", soft_wrap=True)
    raise typer.Exit(0 if result.met else 1)


def inspect_command(
    model: ModelArgument,
    data: Annotated[str | None, typer.Option(help="data with the model's input: a factory, or cifar10:DIR")] = None,
    input_shape: Annotated[
        str | None, typer.Option(help="shape of one float input without the batch, like 3x32x32, instead of --data")
    ] = None,
    weights: WeightsOption = None,
    bitwidths: Annotated[str, typer.Option(help="bitwidths to show")] = "2,4,6,8",
    sigma: Annotated[str, typer.Option(help="raw, folded or normalised")] = "raw",
    hardware: Annotated[str | None, typer.Option(help="also costs on this hardware profile")] = None,
    json_output: JsonOption = False,
) -> None:
    """Show every layer: shapes, MACs, sigma, divergence, bytes and device costs at each bitwidth; what stays float."""
    if (data is None) == (input_shape is None):
        raise SigmaQuantError("give either --data or --input-shape, so that the model can be traced.")
    with stdout_is_ours(json_output):
        network = load_model(model, weights)
        if data is not None:
            example = as_source(load_data(data, "test", "the data"), batch_size=2, name="data").example()
            inputs = example if isinstance(example, tuple) else (example,)
        else:
            inputs = (torch.zeros(2, *_shape(str(input_shape))),)
        profile = None if hardware is None else load_profile(hardware)
        widths = whole_numbers(bitwidths, "--bitwidths")
        report = inspect_model(network, inputs, widths, cast(SigmaVariant, sigma), profile)
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


def evaluate_command(
    run: Annotated[Path, typer.Argument(help="run directory")],
    model: Annotated[str, typer.Option(help="the float model: package.module:factory or path/file.py:factory")],
    data: Annotated[str, typer.Option(help="data: a factory, or cifar10:DIR (its test part)")],
    weights: WeightsOption = None,
    metric: MetricOption = "top1",
    device: DeviceOption = "auto",
    json_output: JsonOption = False,
) -> None:
    """Score a run's plan and checkpoint on data, beside the float model."""
    with stdout_is_ours(json_output):
        scores = evaluate_run(
            load_model(model, weights),
            load_data(data, "test", "the data"),
            run,
            metric=load_object(metric, "the metric") if ":" in metric else metric,
            device=device,
        )
    if json_output:
        print_json({"run": str(run), **scores})
    else:
        print_parts(tables.scores(scores))


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
