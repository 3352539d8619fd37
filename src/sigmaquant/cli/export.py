"""The verbs of files for devices: export and verify."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from sigmaquant import tables
from sigmaquant.cli.common import (
    DATA_HELP,
    JsonOption,
    ModelOption,
    QuietOption,
    RunTaskOption,
    WeightsOption,
    print_json,
    print_parts,
    stdout_is_ours,
)
from sigmaquant.export.targets import TARGETS, ExportOptions
from sigmaquant.export.verification import Verification
from sigmaquant.frontends.data import load_data
from sigmaquant.frontends.factories import load_task
from sigmaquant.frontends.models import load_model
from sigmaquant.nested.files import export_plans, run_with_plans, verify_plans
from sigmaquant.runs import make_progress
from sigmaquant.workflow.exporting import export_run, verify_run

DataOption = Annotated[str, typer.Option(help=f"data to verify on (their test part): {DATA_HELP}")]
ExamplesOption = Annotated[int | None, typer.Option(help="verify on at most so many examples")]


class OnnxFormOption(StrEnum):
    """How ONNX files hold their weights."""

    planes = "planes"
    native = "native"


class InputsOption(StrEnum):
    """What an exported model takes."""

    float = "float"
    int8 = "int8"
    uint8 = "uint8"


def export_command(
    run: Annotated[Path, typer.Argument(help="run directory")],
    model: ModelOption,
    data: DataOption,
    to: Annotated[str, typer.Option(help=f"kinds of files, of {', '.join(TARGETS)}")] = "onnx",
    weights: WeightsOption = None,
    out: Annotated[Path | None, typer.Option(help="folder; default: export in the run directory")] = None,
    name: Annotated[str, typer.Option(help="name of the network in files and C identifiers")] = "model",
    onnx_form: Annotated[OnnxFormOption, typer.Option(help="how ONNX holds weights")] = OnnxFormOption.planes,
    inputs: Annotated[
        InputsOption, typer.Option(help="what the files take; C takes int8 codes, only ONNX uint8")
    ] = InputsOption.float,
    pack: Annotated[bool, typer.Option(help="LiteRT and TFLM: narrow weights, or int8 for speed or memory")] = True,
    logits: Annotated[
        bool, typer.Option("--logits", help="leave out a softmax or sigmoid at the end; else it stays, in float")
    ] = False,
    task: RunTaskOption = None,
    examples: ExamplesOption = None,
    json_output: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Write files that run, and verify each on data. Exit code 1: one computes something else, or is over a limit."""
    options = ExportOptions(onnx_form=onnx_form.value, inputs=inputs.value, pack=pack, name=name, logits=logits)
    with stdout_is_ours(json_output):
        write = export_plans if run_with_plans(run) else export_run
        verdicts = write(
            load_model(model, weights),
            run,
            load_data(data, "test", "the data"),
            to=[item.strip() for item in to.split(",") if item.strip()],
            out=out,
            options=options,
            task=load_task(task),
            examples=examples,
            progress=make_progress(show=not quiet),
        )
    _show(verdicts, json_output)


def verify_command(
    path: Annotated[Path, typer.Argument(help="run directory, or one exported file")],
    model: ModelOption,
    data: DataOption,
    weights: WeightsOption = None,
    task: RunTaskOption = None,
    examples: ExamplesOption = None,
    json_output: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Run exported files against the integer reference. Exit code 1: one does not compute what it should."""
    with stdout_is_ours(json_output):
        check = verify_plans if run_with_plans(path) else verify_run
        verdicts = check(
            load_model(model, weights),
            path,
            load_data(data, "test", "the data"),
            task=load_task(task),
            examples=examples,
            progress=make_progress(show=not quiet),
        )
    _show(verdicts, json_output)


def _show(verdicts: tuple[Verification, ...], json_output: bool) -> None:
    if json_output:
        print_json([verdict.to_dict() for verdict in verdicts])
    else:
        print_parts(tables.verifications(verdicts))
    raise typer.Exit(0 if all(verdict.accepted for verdict in verdicts) else 1)
