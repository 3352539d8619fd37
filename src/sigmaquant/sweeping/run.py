"""A run for each budget, each begun from the nearest finished one; the frontier of what came out."""

from __future__ import annotations

import html
import logging
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Unpack

import torch
from torch import nn

from sigmaquant.budget import Budget, label
from sigmaquant.errors import RunDirectoryError, SigmaQuantError
from sigmaquant.hardware.profile import HardwareProfile
from sigmaquant.report import write_report
from sigmaquant.runs import NullProgress, Progress, shown_progress, task
from sigmaquant.runs.atomic import write_text_atomic
from sigmaquant.runs.documents import dumps, sealed, unsealed
from sigmaquant.runs.files import read_document
from sigmaquant.search.session import Statistics
from sigmaquant.search.settings import Options, Settings
from sigmaquant.search.strategies import STRATEGIES, Strategy, needs_sensitivity, register
from sigmaquant.sweeping.files import SweepDirectory
from sigmaquant.sweeping.frontier import Point
from sigmaquant.sweeping.requests import Requests, requests
from sigmaquant.sweeping.runs import Runs
from sigmaquant.sweeping.workers import JobMaker, Jobs, RayWorkers, ThisProcess, Workers, import_ray
from sigmaquant.tasks import Metric, Task, TaskLoss
from sigmaquant.workflow.job import Job, make_settings

log = logging.getLogger("sigmaquant")


@dataclass(frozen=True)
class Sweep:
    """What `sweep` returns.

    Attributes:
        path: the folder.
        resources: which one or two costs were swept, as in `Cost.resource`.
        points: the finished runs, from the loosest limits to the tightest.
        failed: run -> why it has no result.
        frontier_path: ``frontier.csv``.
        report_path: the combined report; None where it could not be written.
    """

    path: Path
    resources: tuple[str, ...]
    points: tuple[Point, ...]
    failed: dict[str, str]
    frontier_path: Path
    report_path: Path | None

    def __repr__(self) -> str:
        met = sum(point.status == "met" for point in self.points)
        parts = [f"{len(self.points)} runs by {' and '.join(map(label, self.resources))}", f"{met} met"]
        if self.failed:
            parts.append(f"{len(self.failed)} without a result")
        return f"Sweep({', '.join(parts)}, {str(self.path)!r})"

    def _repr_html_(self) -> str:
        """A table, for notebooks."""
        heads = ("run", "budget", "validation", "test", *map(label, self.resources), "on the frontier")
        rows = [
            (
                point.run, point.status, *(("–" if s is None else f"{s:.4f}") for s in (point.validation, point.test)),
                *(f"{cost:.6g}" for cost in (point.cost, point.second_cost) if cost is not None),
                "yes" if point.on_front else "",
            )
            for point in self.points
        ]  # fmt: skip
        head = "".join(f"<th>{html.escape(text)}</th>" for text in heads)
        body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"

    @property
    def knee(self) -> Point | None:
        """Where more cost begins to buy little; None for fewer than three points on the front, or two swept costs."""
        return next((point for point in self.points if point.knee), None)

    @property
    def met(self) -> bool:
        """Whether every budget has a run that meets it."""
        return not self.failed and all(point.status == "met" for point in self.points)


def sweep(
    model: nn.Module,
    train_data: Any,
    *,
    budgets: Sequence[Budget | str],
    out: str | Path,
    validation_data: Any = None,
    test_data: Any = None,
    task: Task | str | None = None,
    metric: Metric | str | None = None,
    loss: TaskLoss | None = None,
    hardware: str | Path | HardwareProfile = "ideal",
    settings: Settings | None = None,
    device: str = "auto",
    jobs: int = 1,
    address: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress | bool | None = None,
    strategies: Sequence[str] = (),
    **options: Unpack[Options],
) -> Sweep:
    """Fit a trained network into several budgets, and draw the frontier.

    Statistics of the float network are measured once. The strategy ``sigma`` begins each budget from the plan and the
    trained weights of the nearest finished one, so that a later network has trained for longer in all, which
    `Point.trained_examples` shows.

    Args:
        model: as for `sigmaquant.quantize`, and so are all that are not named here.
        train_data: as above.
        budgets: two or more, which differ in one limit or in two; a text is a size.
        out: the folder: a run directory for each budget, ``frontier.csv``, ``report.html``.
        jobs: worker processes; more than one needs Ray. With several, which runs begin from which depends on their
            speed; with one, everything is repeatable.
        address: of a Ray cluster, whose machines all see `out`; None: this machine.
        resume: continue the sweep in `out`.
        overwrite: replace the sweep in `out`.
        strategies: two or more: every budget is searched by each of them; one budget is then enough.

    Raises:
        SigmaQuantError: bad input, before anything slow. What fails a single run is in `Sweep.failed`.

    Example:
        >>> import tempfile, torch
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> inputs = torch.randn(64, 1, 4, 4, generator=torch.Generator().manual_seed(0))
        >>> data = (inputs, (inputs.sum((1, 2, 3)) > 0).long())
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     found = sweep(model, data, budgets=["2x", "2.5x"], out=folder + "/s", post_training=True)
        >>> [point.run for point in found.points], found.met
        (['size-2x', 'size-2.5x'], True)
    """
    settings = make_settings(settings, options)
    names = (settings.strategy, *strategies)
    used = {name: (STRATEGIES[name], needs_sensitivity(name)) for name in names if name in STRATEGIES}
    make = partial(
        _make_job,
        used,
        model,
        train_data,
        validation_data=validation_data,
        test_data=test_data,
        task=task,
        metric=metric,
        loss=loss,
        hardware=hardware,
        settings=settings,
        device=device,
    )
    return sweep_job(
        make,
        budgets,
        out,
        jobs=jobs,
        address=address,
        resume=resume,
        overwrite=overwrite,
        progress=shown_progress(progress),
        strategies=strategies,
    )


def _make_job(
    used: Mapping[str, tuple[Strategy, bool]], *arguments: Any, settings: Settings, strategy: str = "", **options: Any
) -> Job:
    """`Job`, also in a worker process, which does not know a strategy that the user's program has registered."""
    for name, (found, sensitivity) in used.items():
        if name not in STRATEGIES:
            register(name, sensitivity=sensitivity)(found)
    return Job(*arguments, settings=replace(settings, strategy=strategy or settings.strategy), **options)


def sweep_job(
    make: JobMaker,
    budgets: Sequence[Budget | str],
    out: str | Path,
    *,
    jobs: int = 1,
    address: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
    strategies: Sequence[str] = (),
) -> Sweep:
    """`sweep` for a job that is made where it runs: `make` is sent to the workers, model and data need not be.

    Args:
        make: called in this process and in every worker, for each strategy that is swept with ``strategy=``.
        budgets, out, jobs, address, resume, overwrite, progress, strategies: as for `sweep`.

    Raises:
        SigmaQuantError: as for `sweep`.
    """
    progress = progress or NullProgress()
    if jobs < 1:
        raise SigmaQuantError(f"jobs is {jobs}; a sweep needs at least one.")
    parallel = jobs > 1 or address is not None
    if parallel:
        import_ray()
    asked = requests([b if isinstance(b, Budget) else Budget(size=b) for b in budgets], strategies)
    if len(strategies) == 1:
        make = partial(make, strategy=strategies[0])
    jobs_here = Jobs(make, Statistics())
    all_jobs = {name: jobs_here.of(name) for name in dict.fromkeys(r.strategy for r in asked.named.values())}
    job = next(iter(all_jobs.values()))
    config = {**job.config, **asked.to_dict()}
    with SweepDirectory(out, config, resume=resume, overwrite=overwrite) as directory:
        workers: Workers
        if parallel:  # before anything slow: the cluster may not be there
            on_gpu = torch.device(job.device.name).type == "cuda"
            workers = RayWorkers(make, job.statistics, min(jobs, len(asked.named)), address, on_gpu)
        else:
            workers = ThisProcess(jobs_here, progress)
        with closing(workers):
            with task(progress, "statistics"):
                limits = _prepare(all_jobs, asked, directory)
            directory.begin(asked.named)
            write_text_atomic(directory.statistics_path, dumps(sealed(job.statistics.to_dict())))
            linked = [name for name, each in all_jobs.items() if each.settings.strategy == "sigma"]
            runs = Runs(directory, asked, limits, {name: each.config for name, each in all_jobs.items()}, linked)
            if parallel:
                del jobs_here, all_jobs, job  # the workers have their own
            with task(progress, f"sweep of {' and '.join(asked.swept)}", len(asked.named)):
                runs.work(workers, progress)
        return _finish(runs)


def _prepare(jobs: Mapping[str, Job], asked: Requests, directory: SweepDirectory) -> dict[str, tuple[float, ...]]:
    """Refuse what cannot be reached, and measure what all runs share, once.

    Returns:
        the swept limits of every run.
    """
    first = next(iter(jobs.values()))
    if directory.resumed and directory.statistics_path.exists():
        first.statistics.__dict__.update(_kept_statistics(directory.statistics_path).__dict__)
    limits = {}
    for run, request in asked.named.items():
        upper = jobs[request.strategy].session(request.budget).limits.upper
        limits[run] = tuple(upper[resource] for resource in asked.resources)
    _ = first.float_test
    for job in jobs.values():
        trains_first = job.settings.strategy == "sigma" and job.settings.trains_in_cycles
        if not trains_first and job.settings.strategy not in ("uniform", "random", "greedy"):
            session = job.session(next(iter(asked.named.values())).budget)
            session.sensitivity(session.graph)
    return limits


def _kept_statistics(path: Path) -> Statistics:
    """What an earlier part of the sweep measured.

    Raises:
        RunDirectoryError: the file is damaged, or has other values than were written.
    """
    remedy = "Delete it: what it held is measured again."
    try:
        return Statistics.from_dict(unsealed(read_document(path), path, remedy=remedy))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunDirectoryError(f"{path} is damaged ({type(error).__name__}: {error}). {remedy}") from error


def _finish(runs: Runs) -> Sweep:
    """The frontier, and the combined report."""
    runs.write_frontier()
    runs.complete_reports()
    points, directory = runs.points(), runs.directory
    report: Path | None = None
    if points:
        try:
            report = write_report([directory.path / point.run for point in points], directory.path / "report.html")
        except (SigmaQuantError, OSError) as error:  # the runs are what matters
            log.warning("the combined report could not be written: %s", error)
    return Sweep(directory.path, runs.requests.resources, points, dict(runs.failed), directory.frontier_path, report)
