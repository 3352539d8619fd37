"""The command line: parses, calls the same public functions, prints. Results on stdout, everything else on stderr."""

from __future__ import annotations

import sys
import traceback
from typing import Annotated

import typer

from sigmaquant._version import __version__
from sigmaquant.cli import export, hardware, report, runs, sweep
from sigmaquant.errors import SigmaQuantError
from sigmaquant.runs import logging_to

_DEFECT = 70  # EX_SOFTWARE of sysexits.h

app = typer.Typer(
    name="sigmaquant",
    help="Fit a trained neural network into an edge device: a bitwidth for every layer, within a budget.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.command("quantize")(runs.quantize_command)
app.command("inspect")(runs.inspect_command)
app.command("evaluate")(runs.evaluate_command)
app.command("compare")(runs.compare_command)
app.command("sweep")(sweep.sweep_command)
app.command("report")(report.report_command)
app.command("export")(export.export_command)
app.command("verify")(export.verify_command)
app.add_typer(hardware.app, name="hardware")


def _version(show: bool) -> None:
    if show:
        typer.echo(f"sigmaquant {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="show the version")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Entry point: a user's mistake ends in one message and exit code 2, never in a traceback.

    A defect of ours shows one, and has an exit code of its own: 1 would say that a run has finished.
    """
    try:
        with logging_to():
            app()
    except SigmaQuantError as error:
        typer.secho(f"error: {error}", err=True, fg=typer.colors.RED)
        sys.exit(error.exit_code)
    except Exception:
        traceback.print_exc()
        typer.secho("error: this is a defect. Please report it with the lines above.", err=True, fg=typer.colors.RED)
        sys.exit(_DEFECT)
