"""The runs of a sweep: which wait, work, have finished or failed, and the points that come of them."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sigmaquant.report import refresh_report
from sigmaquant.report.document import Result
from sigmaquant.report.write import NAME, number_files
from sigmaquant.runs import Progress, RunFiles
from sigmaquant.runs.atomic import write_text_atomic
from sigmaquant.runs.documents import parse
from sigmaquant.sweeping.files import SweepDirectory
from sigmaquant.sweeping.frontier import Point, front, knee, to_csv
from sigmaquant.sweeping.requests import Requests
from sigmaquant.sweeping.schedule import looseness, nearest, next_budget
from sigmaquant.sweeping.workers import Task, Workers

log = logging.getLogger("sigmaquant")

_POLL_SECONDS = 2.0
_DEATHS = 3
"""A run whose worker died so often without a new step is given up."""


class Runs:
    """The runs of a sweep: waiting, at work, finished, failed.

    Args:
        directory: the sweep's folder.
        requests: what every run is asked for.
        limits: the swept limits of each.
        configs: what the configurations of all runs of a strategy have in common, by the strategy of the request.
        linked: the strategies of requests whose runs begin from each other.
    """

    def __init__(
        self,
        directory: SweepDirectory,
        requests: Requests,
        limits: Mapping[str, Sequence[float]],
        configs: Mapping[str, Mapping[str, Any]],
        linked: Collection[str],
    ) -> None:
        self.directory, self.requests, self.limits = directory, requests, limits
        self.named, self.configs, self.linked = requests.named, configs, linked
        self.finished = [run for run in self.named if self._ours(run) and self.files(run).finished]
        self._found = tuple(self.finished)
        self.pending = [run for run in self.named if run not in self.finished]
        self.running: list[str] = []
        self.failed: dict[str, str] = {}
        self._deaths: dict[str, list[int]] = {}

    def files(self, run: str) -> RunFiles:
        """A run's files."""
        return RunFiles(self.directory.path / run)

    def work(self, workers: Workers, progress: Progress) -> None:
        """Until nothing waits and nothing runs."""
        progress.advance(len(self.finished))
        while self.pending or self.running:
            while self.pending and workers.free:
                run = self._next()
                self.pending.remove(run)
                self.running.append(run)
                workers.submit(self._task(run))
            progress.note(running=", ".join(self.running), steps=self._steps_text())
            outcome = workers.wait(_POLL_SECONDS)
            if outcome is None:
                continue
            run = outcome.task.run
            self.running.remove(run)
            if outcome.error is None:
                self.finished.append(run)
            elif outcome.worker_died and self._worth_another(run):
                self.pending.insert(0, run)
                continue
            else:
                self.failed[run] = str(outcome.error)
                log.warning("%s failed: %s", run, outcome.error)
            progress.advance(1)
            self.write_frontier()

    def _steps_text(self) -> str:
        return ", ".join(f"{self._steps(run)}" for run in self.running)

    def _steps(self, run: str) -> int:
        return len(self.files(run).read_trajectory())

    def _worth_another(self, run: str) -> bool:
        """A worker's death costs its own step; only a step that kills every worker ends the run."""
        deaths = self._deaths.setdefault(run, [])
        deaths.append(self._steps(run))
        return deaths.count(deaths[-1]) < _DEATHS

    def _next(self) -> str:
        begun = [run for run in self.pending if self._begun(run)]
        if begun:  # what was interrupted goes on first
            return begun[0]
        return next_budget(self.pending, self.running, self.finished, self.limits)

    def _begun(self, run: str) -> bool:
        return self._ours(run) and self.files(run).begun

    def _ours(self, run: str) -> bool:
        """Whether the run's folder is of this sweep's configuration; `SweepDirectory.begin` has voided older ones."""
        request = self.named[run]
        config = {**self.configs[request.strategy], "budget": request.budget.to_dict()}
        return self.files(run).is_of(config, besides=("start",))  # that is a matter of which runs had finished

    def _task(self, run: str) -> Task:
        path = self.directory.path / run
        budget, strategy = self.named[run].budget, self.named[run].strategy
        if self._begun(run):
            start = self.files(run).read_config().get("start")
            return Task(run, budget, path, strategy, None if start is None else path.parent / start["run"], resume=True)
        alike = [other for other in self.finished if self.named[other].strategy == strategy]
        other = nearest(run, alike, self.limits) if strategy in self.linked else None
        there = self.files(run).config_path.exists()  # of a sweep that this one replaces, or without a step
        return Task(run, budget, path, strategy, None if other is None else path.parent / other, overwrite=there)

    def points(self) -> tuple[Point, ...]:
        """The finished runs, loosest limits first, with front and knee marked."""
        found = []
        for run in sorted(self.finished, key=lambda name: -looseness(self.limits[name])):
            files, request = self.files(run), self.named[run]
            config = files.read_config()
            start, counts = config.get("start") or {}, str(request.budget.to_dict()["size_counts"])
            result = parse(Result, files.read_result(), files.result_path).model_dump()
            text, resources = request.text(self.requests.swept), self.requests.resources
            strategy = str((config.get("settings") or {}).get("strategy", ""))
            found.append(Point.of(run, text, resources, counts, result, start.get("run", ""), strategy))
        scores = [p.validation for p in found]
        on_front = front([p.costs for p in found], scores)
        one_line = len(self.requests.swept) == 1 and not any(self.named[p.run].strategy for p in found)
        bend = knee([p.cost for p in found], scores) if one_line else None
        return tuple(replace(p, on_front=i in on_front, knee=i == bend) for i, p in enumerate(found))

    def complete_reports(self) -> None:
        """Write the report of every run that was killed at its end, in an earlier part of the sweep."""
        for run in self._found:
            path = self.files(run).path
            if not all(file.exists() for file in (path / NAME, *number_files(path / NAME, 1).values())):
                refresh_report(path)

    def write_frontier(self) -> None:
        """Replace ``frontier.csv``."""
        write_text_atomic(self.directory.frontier_path, to_csv(self.points()))
