"""`write_report`: the page and its numbers, beside each other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sigmaquant.errors import SigmaQuantError
from sigmaquant.report.document import Report
from sigmaquant.report.gather import gather
from sigmaquant.report.numbers import layers_csv, runs_csv, steps_csv
from sigmaquant.report.page import render
from sigmaquant.runs.atomic import storage_error, write_text_atomic
from sigmaquant.runs.documents import dumps

NAME = "report.html"


def write_report(runs: Sequence[str | Path], out: str | Path | None = None) -> Path:
    """Write one self-contained page about one or more runs, and its numbers as JSON and CSV beside it.

    Reads the runs' files only: no model, no data. The same files give the same bytes.

    Args:
        runs: run directories, finished or not; of one that is not, the report says so.
        out: the page's file, or a folder for it; None: in the run's directory for one run, else in the current folder.
            The numbers lie beside it, as ``report.json``, ``report_layers.csv``, ``report_steps.csv`` and, for several
            runs, ``report_runs.csv``, with the page's name in place of ``report``.

    Returns:
        where the page is.

    Raises:
        RunDirectoryError: no run directory, or a damaged file in one.
        SigmaQuantError: no run, one given twice, or an `out` that is no HTML file.
        StorageError: the disk is full, or `out` is not writable; files that were there are intact.
    """
    report = gather(runs)
    page = _place(runs, out)
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(page, error, "Nothing was written.") from error
    files = numbers(report, page.stem)
    for name, text in files.items():
        write_text_atomic(page.parent / name, text)
    write_text_atomic(page, render(report, tuple(files)))  # last: where the page is, its numbers are
    return page


def numbers(report: Report, stem: str = "report") -> dict[str, str]:
    """The files beside the page, by name."""
    files = {
        f"{stem}.json": dumps(report.to_dict(), indent=None),
        f"{stem}_layers.csv": layers_csv(report),
        f"{stem}_steps.csv": steps_csv(report),
    }
    if len(report.runs) > 1:
        files[f"{stem}_runs.csv"] = runs_csv(report)
    return files


def _place(runs: Sequence[str | Path], out: str | Path | None) -> Path:
    if out is None:
        return (Path(runs[0]) if len(runs) == 1 else Path()) / NAME
    path = Path(out)
    if path.is_dir():
        return path / NAME
    if path.suffix.lower() not in (".html", ".htm"):
        raise SigmaQuantError(f"the report's file {str(path)!r} should end in .html, or be a folder that exists.")
    return path
