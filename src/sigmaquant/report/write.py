"""`write_report`: the page and its numbers, beside each other."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from sigmaquant.errors import SigmaQuantError
from sigmaquant.report.document import Report
from sigmaquant.report.gather import gather
from sigmaquant.report.numbers import layers_csv, runs_csv, steps_csv
from sigmaquant.report.page import render
from sigmaquant.runs.atomic import storage_error, write_text_atomic
from sigmaquant.runs.documents import dumps

log = logging.getLogger("sigmaquant")

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
    files = number_files(page, len(runs))
    for kind, path in files.items():
        write_text_atomic(path, _NUMBERS[kind](report))
    # Last: where the page is, its numbers are.
    write_text_atomic(page, render(report, tuple(path.name for path in files.values())))
    return page


def refresh_report(run: str | Path) -> None:
    """Write a run's report anew, after something about it has become known.

    Whatever that was is on the disk already, and a report can be written at any time: a failure here is only told.
    """
    try:
        write_report([run])
    except Exception as error:
        log.warning("the report could not be written (%s). Try: sigmaquant report %s", error, run)


_NUMBERS: dict[str, Callable[[Report], str]] = {
    "numbers": lambda report: dumps(report.to_dict(), indent=None),
    "layers": layers_csv,
    "steps": steps_csv,
    "runs": runs_csv,
}
"""The files beside the page: what writes each."""


def number_files(page: Path, runs: int) -> dict[str, Path]:
    """The files that lie beside a page about so many runs, by what they hold.

    Example:
        >>> [path.name for path in number_files(Path("report.html"), 2).values()]
        ['report.json', 'report_layers.csv', 'report_steps.csv', 'report_runs.csv']
    """
    names = {"numbers": f"{page.stem}.json", **{kind: f"{page.stem}_{kind}.csv" for kind in ("layers", "steps")}}
    if runs > 1:
        names["runs"] = f"{page.stem}_runs.csv"
    return {kind: page.with_name(name) for kind, name in names.items()}


def _place(runs: Sequence[str | Path], out: str | Path | None) -> Path:
    """The page's file; its folder is there."""
    if out is None:
        return (Path(runs[0]) if len(runs) == 1 else Path()) / NAME
    path = Path(out)
    try:
        if path.is_dir():
            return path / NAME
        if path.suffix.lower() not in (".html", ".htm"):
            raise SigmaQuantError(f"the report's file {str(path)!r} should end in .html, or be a folder that exists.")
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(path, error, "Nothing was written.") from error
    return path
