"""The verbs of hardware profiles: list, show, measure, characterize."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from enum import StrEnum
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from sigmaquant import tables
from sigmaquant.characterization import MAC_UNITS, characterize
from sigmaquant.cli.common import JsonOption, QuietOption, print_json, print_parts, whole_numbers
from sigmaquant.hardware.assembly import DRAM_FJ_PER_BIT, assemble_profile
from sigmaquant.hardware.profile import load_profile, shipped_profiles
from sigmaquant.lowering import IntegerModel
from sigmaquant.measurement.measure import measure_device, planned_commands
from sigmaquant.measurement.runner import CommandRunner
from sigmaquant.runs import make_progress, task
from sigmaquant.runs.atomic import write_text_atomic

app = typer.Typer(name="hardware", help="Profiles of devices: what MACs and memory cost.", no_args_is_help=True)


@app.command("list")
def list_command(json_output: JsonOption = False) -> None:
    """Show the profiles that come with the package."""
    profiles = [load_profile(name) for name in shipped_profiles()]
    if json_output:
        print_json([{"name": profile.name, "description": profile.description} for profile in profiles])
    else:
        print_parts(tables.profiles(profiles))


@app.command("show")
def show_command(
    profile: Annotated[str, typer.Argument(help="a shipped profile's name, or a file")], json_output: JsonOption = False
) -> None:
    """Show a profile: how it was made, and what a MAC costs at each pair of bitwidths."""
    found = load_profile(profile)
    if json_output:
        print_json(found.to_dict())
    else:
        print_parts(*tables.profile(found))


class MeasuredTarget(StrEnum):
    """Files that a device can be measured with."""

    onnx = "onnx"
    c = "c"
    litert = "litert"
    tflm = "tflm"


@app.command("measure")
def measure_command(
    runner: Annotated[
        str, typer.Option(help='runs one model and prints milliseconds: "ssh board ./bench {model} {runs}"')
    ],
    out: Annotated[Path, typer.Option(help="the profile's file")],
    name: Annotated[str | None, typer.Option(help="name of the profile; default: the file's name")] = None,
    weight_bits: Annotated[str, typer.Option(help="bitwidths to measure; those between are interpolated")] = "2,4,8",
    runs: Annotated[int, typer.Option(help="inferences in one measurement")] = 50,
    repeats: Annotated[int, typer.Option(help="measurements of each model; the fastest counts")] = 3,
    to: Annotated[
        MeasuredTarget, typer.Option(help="what the models are written as; of c a folder")
    ] = MeasuredTarget.onnx,
    clock_mhz: Annotated[float | None, typer.Option(help="of a device whose runner prints cycles")] = None,
    models: Annotated[Path | None, typer.Option(help="where the models go and stay; default: nowhere")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only show the commands")] = False,
    json_output: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Measure a device through a command, with small models of single kinds of layers, and write its profile.

    Runners for the machine at hand: "python -m sigmaquant.measurement.onnxruntime_runner {model} {runs}", and with
    --to litert or tflm "python -m sigmaquant.measurement.tflite_runner {model} {runs}". With --to c an emulated
    Cortex-M4: "python -m sigmaquant.measurement.qemu {model} {runs}", with --clock-mhz.
    """
    command, widths = CommandRunner(runner, clock_mhz=clock_mhz), whole_numbers(weight_bits, "--weight-bits")
    suffix = _SUFFIXES[to.value]
    if dry_run:
        for line in planned_commands(command, suffix, widths, runs):
            typer.echo(line)
        return
    fit = measure_device(
        command,
        _writer(to.value),
        suffix,
        target=to.value,
        name=name or out.stem,
        out=out,
        weight_bits=widths,
        runs=runs,
        repeats=repeats,
        models=models,
        progress=make_progress(show=not quiet),
    )
    worst = max(fit.relative_errors, key=lambda model: abs(fit.relative_errors[model]))
    if json_output:
        print_json({"profile": str(out), "mean_error": fit.mean_error, "errors": fit.relative_errors})
    else:
        print_parts(*tables.profile(fit.profile))
        typer.echo(
            f"fitted to {len(fit.relative_errors)} models with a mean error of {100 * fit.mean_error:.1f} %, "
            f"largest {100 * fit.relative_errors[worst]:+.1f} % ({worst})\nwritten to {out}"
        )


class WeightsInOption(StrEnum):
    """Where weights live."""

    dram = "dram"
    on_chip = "on_chip"


@app.command("characterize")
def characterize_command(
    liberty: Annotated[Path, typer.Option(help="standard-cell library, one corner (.lib or .lib.gz)")],
    out: Annotated[Path, typer.Option(help="the profile's file")],
    unit: Annotated[str, typer.Option(help=f"MAC unit: {', '.join(MAC_UNITS)}")] = "csd_lanes",
    clock_mhz: Annotated[float, typer.Option(help="clock frequency")] = 100.0,
    weight_bits: Annotated[str, typer.Option(help="bitwidths of weights to measure")] = "2,4,6,8",
    activation_bits: Annotated[str, typer.Option(help="bitwidths of activations to measure")] = "8",
    sram: Annotated[list[Path] | None, typer.Option(help="Liberty file of a memory macro; repeatable")] = None,
    name: Annotated[str | None, typer.Option(help="name of the profile; default: the file's name")] = None,
    baseline: Annotated[str | None, typer.Option(help="profile that ratios should be taken to")] = None,
    weights_in: Annotated[WeightsInOption, typer.Option(help="where weights live")] = WeightsInOption.dram,
    dram_pj_per_bit: Annotated[float, typer.Option(help="energy of external memory")] = DRAM_FJ_PER_BIT / 1e3,
    seed: Annotated[int, typer.Option()] = 0,
    json_output: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Measure a MAC unit on a cell library: synthesis, timing, gate-level simulation, energy; write its profile."""
    progress = make_progress(show=not quiet)
    with ExitStack() as stack:
        shown = 0

        def tick(label: str, done: int, total: int) -> None:
            nonlocal shown
            if not shown:
                stack.enter_context(task(progress, f"characterizing {unit}", total))
            progress.note(step=label)
            progress.advance(done - shown)
            shown = max(done, 1)

        document = characterize(
            liberty,
            unit,
            clock_mhz=clock_mhz,
            weight_bits=whole_numbers(weight_bits, "--weight-bits"),
            activation_bits=whole_numbers(activation_bits, "--activation-bits"),
            seed=seed,
            sram=sram or (),
            progress=tick,
        )
    profile = assemble_profile(
        document,
        name=name or out.stem,
        baseline=baseline,
        weights_in=weights_in.value,
        dram_fj_per_bit=1e3 * dram_pj_per_bit,
    )
    write_text_atomic(out, json.dumps(profile.to_dict(), indent=2) + "\n")
    if json_output:
        print_json(profile.to_dict())
    else:
        print_parts(*tables.profile(profile))
        typer.echo(f"written to {out}")


_SUFFIXES = {"onnx": ".onnx", "c": "", "litert": ".tflite", "tflm": ".tflite"}
"""Of the files that models are written to, by target."""


def _writer(target: str) -> Callable[[IntegerModel, Path], None]:
    """What writes a model; its libraries are imported when the first one is written."""

    def write(model: IntegerModel, path: Path) -> None:
        getattr(import_module(f"sigmaquant.export.{target}"), f"export_{target}")(model, path)

    return write
