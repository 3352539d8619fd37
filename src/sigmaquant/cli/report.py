"""The verb of the report page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sigmaquant.cli.common import JsonOption, print_json
from sigmaquant.report.write import number_files, write_report


def report_command(
    runs: Annotated[list[Path], typer.Argument(help="one or more run directories, finished or not")],
    out: Annotated[
        Path | None,
        typer.Option(help="the page's file, or a folder; default: in the run directory, of several runs right here"),
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """Write the report of one or more runs: one HTML page, its numbers beside it as JSON and CSV."""
    page = write_report(runs, out)
    files = number_files(page, len(runs))
    if json_output:
        print_json({"report": str(page), **{kind: str(path) for kind, path in files.items()}})
    else:
        typer.echo(f"Report: {page}\nNumbers: {', '.join(map(str, files.values()))}")
