"""Options of every command that searches, and what they become."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, cast

import typer

from sigmaquant.budget import Budget
from sigmaquant.cli.common import DATA_HELP, named_values, one_bitwidth, whole_numbers
from sigmaquant.errors import SigmaQuantError
from sigmaquant.outputs import OutputKind
from sigmaquant.search.settings import Objective, Settings
from sigmaquant.statistics import SigmaVariant

DEFAULTS = Settings()


class SizeCountsOption(StrEnum):
    """What a size limit counts."""

    total = "total"
    weights = "weights"
    onnx = "onnx"
    litert = "litert"
    tflm = "tflm"
    c = "c"


class ObjectiveOption(StrEnum):
    """What the search is after."""

    auto = "auto"
    feasible = "feasible"
    smallest = "smallest"
    accurate = "accurate"


Train = Annotated[str, typer.Option(help=f"training data: {DATA_HELP}")]
Val = Annotated[str | None, typer.Option(help="validation data; default: held out from the training data")]
Test = Annotated[str | None, typer.Option(help="test data, scored once at the end")]
SizeCountsKind = Annotated[
    SizeCountsOption,
    typer.Option(help="a size counts everything stored, the packed weights alone, or the file of a kind"),
]
Hardware = Annotated[str, typer.Option(help="hardware profile that gives the costs: a shipped one's name, or a file")]
Strategy = Annotated[str, typer.Option(help="sigma, uniform, greedy, ilp, random")]
Beginning = Annotated[
    str, typer.Option(help="sigma's search begins at the best untrained plan, or at clusters of sigma: best, sigma")
]
ObjectiveKind = Annotated[
    ObjectiveOption,
    typer.Option(help="feasible stops when the budget is met, accurate uses it up, smallest keeps shrinking"),
]
Bitwidths = Annotated[str, typer.Option(help="allowed weight bitwidths")]
ActivationBits = Annotated[int, typer.Option(help="bitwidth of every activation")]
ActivationBitwidths = Annotated[
    str, typer.Option(help="widths that activations may have, chosen by tensor where a limit depends on them: 4,5,6,8")
]
MidriseUpTo = Annotated[
    int | None, typer.Option(help="weights of at most so many bits have no zero but one level more, 0..7")
]
Pin = Annotated[list[str] | None, typer.Option(help="fixed bitwidth of a layer: conv1=8; repeatable")]
Allow = Annotated[list[str] | None, typer.Option(help="allowed bitwidths of a layer: fc=4,8; repeatable")]
Sigma = Annotated[str, typer.Option(help="raw, folded or normalised")]
SensitivityName = Annotated[str, typer.Option(help="divergence, output_kl, fisher or curvature")]
Prune = Annotated[
    float, typer.Option(help="remove channels too, at most so large a share of those that depend on each other: 0.5")
]
PostTraining = Annotated[bool, typer.Option("--post-training", help="no training at all")]
Minutes = Annotated[
    float | None,
    typer.Option(help="time for everything: search, learning the rounding block by block, final training"),
]
EffortName = Annotated[str | None, typer.Option("--effort", help="low, medium or high: 1, 5 or 30 --minutes")]
Epochs = Annotated[float, typer.Option(help="passes over the training data after the search")]
Steps = Annotated[int | None, typer.Option("--steps", help="training steps after the search, in place of --epochs")]
CycleExamples = Annotated[int, typer.Option(help="training examples of one search cycle")]
MaxCycles = Annotated[int, typer.Option(help="most moves of phase 2")]
SearchMinutes = Annotated[
    float | None, typer.Option(help="phase 2 ends after so long, counted from the start, once the cost limits are met")
]
BatchSize = Annotated[int, typer.Option(help="examples in a batch, where the data have no batches of their own")]
LearningRate = Annotated[float, typer.Option(help="peak learning rate of the final training")]
Bf16 = Annotated[
    bool | None,
    typer.Option(
        "--bf16/--no-bf16", help="train in bfloat16, or in float32; default: bfloat16 where the hardware has it"
    ),
]
Distill = Annotated[float, typer.Option(help="weight of the float network in the loss, 0..1")]
OutputsName = Annotated[str, typer.Option(help="what the network returns: logits, values, or auto: by the targets")]
Loss = Annotated[str | None, typer.Option(help="task loss as package.module:function")]
Control = Annotated[
    bool,
    typer.Option(
        "--control", help="also train the widest uniform plan that fits; with no cost limited: that is no larger"
    ),
]
AcceptControl = Annotated[
    bool, typer.Option("--accept-control", help="return that plan where it is as good within noise and no larger")
]
Equalize = Annotated[
    bool,
    typer.Option("--equalize/--no-equalize", help="rescale channels exactly, where quantized outputs then move less"),
]
Export = Annotated[
    str,
    typer.Option(
        help="kinds of files to write at the end, with commas; checked before any training: onnx,litert,tflm,c,packed"
    ),
]
Devices = Annotated[
    int | None,
    typer.Option(help="processes that train and measure together, one on each GPU or on a CPU"),
]
Seed = Annotated[int, typer.Option(help="of everything random")]


def make_budget(limits: Mapping[str, Any], size_counts: SizeCountsOption) -> Budget:
    """The budget of the options that were given.

    Raises:
        SigmaQuantError: none was.
    """
    given = {name: value for name, value in limits.items() if value is not None}
    if not given:
        raise SigmaQuantError("no budget was given. Give at least one of --" + ", --".join(limits) + ".")
    return Budget(**given, size_counts=size_counts.value)


def make_plans(plans: str | None, limits: Mapping[str, Any], size_counts: SizeCountsOption) -> list[Budget] | None:
    """The budgets of ``--plans``, each with the other limits that were given; None without it.

    Raises:
        SigmaQuantError: there is a ``--size`` as well, or a budget that cannot be read.
    """
    if plans is None:
        return None
    if limits["size"] is not None:
        raise SigmaQuantError("--plans names the sizes of all plans. Leave --size out.")
    given = {name: value for name, value in limits.items() if value is not None}
    sizes = [size.strip() for size in plans.split(",") if size.strip()]
    return [Budget(**given, size=size, size_counts=size_counts.value) for size in sizes]


def settings_of(options: Mapping[str, Any]) -> Settings:
    """Settings from a command's options, by the names of its parameters.

    Raises:
        SigmaQuantError: a value that cannot be read.
    """
    same = (
        "strategy",
        "activation_bits",
        "midrise_up_to",
        "sensitivity",
        "max_cycles",
        "search_minutes",
        "minutes",
        "effort",
        "cycle_examples",
        "post_training",
        "batch_size",
        "lr",
        "bf16",
        "distill",
        "control",
        "accept_control",
        "equalize",
        "start",
        "seed",
    )
    pins, allowed = named_values(options["pin"] or [], "--pin"), named_values(options["allow"] or [], "--allow")
    return Settings(
        **{name: options[name] for name in same},
        bitwidths=whole_numbers(options["bitwidths"], "--bitwidths"),
        activation_bitwidths=(
            whole_numbers(options["activation_bitwidths"], "--activation-bitwidths")
            if options["activation_bitwidths"]
            else ()
        ),
        pin={name: one_bitwidth(value, "--pin") for name, value in pins.items()},
        allowed={name: whole_numbers(value, "--allow") for name, value in allowed.items()},
        objective=cast(Objective, options["objective"].value),
        sigma=cast(SigmaVariant, options["sigma"]),
        outputs=cast(OutputKind, options["outputs"]),
        prune=options.get("prune", DEFAULTS.prune),
        final_epochs=options["epochs"],
        final_steps=options["steps"],
    )
