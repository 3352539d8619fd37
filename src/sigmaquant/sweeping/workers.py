"""Who runs the budgets of a sweep: this process, one after another, or worker processes through Ray."""

from __future__ import annotations

import logging
import os
import re
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from sigmaquant.budget import Budget
from sigmaquant.errors import MissingExtraError, SigmaQuantError
from sigmaquant.runs import Progress
from sigmaquant.search.session import Statistics
from sigmaquant.search.warm_start import Start
from sigmaquant.sweeping.worker_resources import share
from sigmaquant.workflow.job import Job

log = logging.getLogger("sigmaquant")

JobMaker = Callable[..., Job]
"""Makes the job in the process that runs it; called with ``statistics=``, and ``strategy=`` where several are swept."""


class Jobs:
    """The jobs of a process, one for each strategy; each is made when it is first asked for.

    Args:
        make: makes one.
        statistics: what is known already; all jobs share it.
    """

    def __init__(self, make: JobMaker, statistics: Statistics) -> None:
        self._make, self._statistics = make, statistics
        self._jobs: dict[str, Job] = {}

    def of(self, strategy: str) -> Job:
        """The job of a strategy; empty: of the settings' own."""
        if strategy not in self._jobs:
            chosen = {"strategy": strategy} if strategy else {}
            self._jobs[strategy] = self._make(statistics=self._statistics, **chosen)
        return self._jobs[strategy]


@dataclass(frozen=True)
class Task:
    """One budget.

    Attributes:
        run: name of the run's folder.
        budget: what is allowed.
        strategy: how the plan is searched; empty: as the job's settings say.
        path: the run directory.
        start: the finished run directory it begins from; None: from nothing.
        resume: whether the run has begun before.
        overwrite: whether a run of an earlier sweep is there, to be discarded.
    """

    run: str
    budget: Budget
    path: Path
    strategy: str = ""
    start: Path | None = None
    resume: bool = False
    overwrite: bool = False


@dataclass(frozen=True)
class Outcome:
    """How a task ended.

    Attributes:
        task: which.
        error: why it failed; None: it has a result.
        worker_died: whether the process was lost, in which case the run can be resumed.
    """

    task: Task
    error: SigmaQuantError | None = None
    worker_died: bool = False


class Workers(Protocol):
    """Runs tasks. A context manager that ends its processes."""

    @property
    def free(self) -> int:
        """How many tasks may be submitted now."""

    def submit(self, task: Task) -> None:
        """Begin a task."""

    def wait(self, seconds: float) -> Outcome | None:
        """The next task that ends; None after so many seconds without one."""

    def close(self) -> None:
        """End."""


def run_task(job: Job, task: Task, progress: Progress | None = None) -> None:
    """Run one budget; the result is in its run directory.

    Raises:
        SigmaQuantError: the run failed.
    """
    start = None if task.start is None else Start.of(task.start)
    job.run(
        task.budget,
        run_dir=task.path,
        resume=task.resume,
        overwrite=task.overwrite,
        progress=progress,
        start=start,
    )


class ThisProcess:
    """One task after another, in this process."""

    def __init__(self, jobs: Jobs, progress: Progress) -> None:
        self._jobs, self._progress = jobs, progress
        self._task: Task | None = None

    @property
    def free(self) -> int:
        """One, unless a task waits."""
        return int(self._task is None)

    def submit(self, task: Task) -> None:
        """Keep the task for `wait`."""
        self._task = task

    def wait(self, seconds: float) -> Outcome | None:
        """Run the task, however long it takes."""
        task, self._task = self._task, None
        if task is None:
            return None
        try:
            run_task(self._jobs.of(task.strategy), task, self._progress)
        except SigmaQuantError as error:
            return Outcome(task, error)
        return Outcome(task)

    def close(self) -> None:
        """Nothing."""


class _Process:
    """What lives in a worker process; its jobs are made once and serve all its tasks."""

    def __init__(self, make: JobMaker, statistics: dict[str, Any], threads: int) -> None:
        torch.set_num_threads(threads)
        logging.getLogger("sigmaquant").setLevel(logging.INFO)
        self._jobs = Jobs(make, Statistics.from_dict(statistics))

    def run(self, task: Task) -> str | None:
        """None, or what the user should know."""
        try:
            run_task(self._jobs.of(task.strategy), task)
        except SigmaQuantError as error:  # as text: an error of the user's own classes might not come back whole
            return str(error)
        return None


@dataclass
class RayWorkers:
    """Processes through Ray, on this machine or on a cluster.

    On a cluster all machines must see the sweep's folder under the same path.

    Args:
        make: makes the job in each worker.
        statistics: what is known already, when the first task is submitted.
        jobs: number of workers.
        address: of a Ray cluster; None: this machine alone.
        on_gpu: whether the workers compute on GPUs.
        threads: of each worker; None: the machines' cores shared out.

    Raises:
        MissingExtraError: Ray is not installed.
        SigmaQuantError: there is no cluster at the address, or it has no room for so many workers.
    """

    make: JobMaker
    statistics: Statistics
    jobs: int
    address: str | None = None
    on_gpu: bool = False
    threads: int | None = None
    _idle: list[Any] = field(default_factory=list)
    _busy: dict[Any, tuple[Any, Task]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # Ray leaves workers in other sessions' process groups alone, asks nobody for updates, and opens no web page.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        self._ray = import_ray()
        self._ours = not self._ray.is_initialized()
        if self._ours:
            self._start()
        else:
            log.info("the workers run on the Ray that this program has started")
        try:
            machines = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
            each = share(machines, self.jobs, on_gpu=self.on_gpu, threads=self.threads)
        except BaseException:
            self.close()
            raise
        self._threads = each.threads
        self._make = self._ray.put(self.make)
        self._actor = self._ray.remote(_Process).options(num_cpus=each.threads, num_gpus=each.gpus)

    def _start(self) -> None:
        quiet = {"log_to_driver": False, "logging_level": "error"}
        if self.address is None:
            cores = max(os.cpu_count() or 1, self.jobs * (self.threads or 1))
            gpus = torch.cuda.device_count() if self.on_gpu else 0
            with _same_imports():  # "local": whatever cluster Ray might find here is not asked for
                self._ray.init("local", num_cpus=cores, num_gpus=gpus, include_dashboard=False, **quiet)
            return
        try:
            knock(self.address)
            self._ray.init(self.address, **quiet)
        except (OSError, RuntimeError, ValueError, ImportError) as error:
            reason = why_it_died(str(error) or type(error).__name__)
            raise SigmaQuantError(
                f"no Ray cluster answers at {self.address!r} ({reason}). Check the address and, with ray status, that "
                "the cluster runs; without an address the workers run on this machine."
            ) from error

    @property
    def free(self) -> int:
        """Workers without a task."""
        return self.jobs - len(self._busy)

    def submit(self, task: Task) -> None:
        """Give the task to an idle worker, or to a new one."""
        actor = (
            self._idle.pop() if self._idle else self._actor.remote(self._make, self.statistics.to_dict(), self._threads)
        )
        self._busy[actor.run.remote(task)] = (actor, task)

    def wait(self, seconds: float) -> Outcome | None:
        """The next task that ends."""
        done, _ = self._ray.wait(list(self._busy), timeout=seconds)
        if not done:
            return None
        actor, task = self._busy.pop(done[0])
        try:
            message = self._ray.get(done[0])
        except self._ray.exceptions.RayTaskError as error:  # no error of this project: of the user's code, or of CUDA
            message = f"its worker failed: {why_it_died(str(error))}"
        except self._ray.exceptions.RayError as error:  # killed, for want of memory or otherwise, or out of reach
            reason = why_it_died(str(error))
            log.warning("the worker of %s died: %s", task.run, reason)
            self._ray.kill(actor)  # one that is only out of reach would keep the run's lock
            return Outcome(task, SigmaQuantError(f"its worker process died: {reason}"), worker_died=True)
        self._idle.append(actor)
        return Outcome(task, None if message is None else SigmaQuantError(message))

    def close(self) -> None:
        """End all workers, and Ray unless the caller had started it."""
        if self._ours:
            self._ray.shutdown()
            return
        for actor in (*self._idle, *(actor for actor, _ in self._busy.values())):
            self._ray.kill(actor)
        self._idle.clear()
        self._busy.clear()


@contextmanager
def _same_imports() -> Iterator[None]:
    """While active, new processes look for modules where this one does: a model's class may come from anywhere."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(path or str(Path.cwd()) for path in sys.path)
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def knock(address: str) -> None:
    """Whether anything listens at a cluster's address: Ray would try for a quarter of an hour before it gives up.

    Args:
        address: such as ``"10.0.0.1:6379"`` or ``"ray://head:10001"``; one without a port is left to Ray.

    Raises:
        OSError: nothing does.
    """
    host, _, port = address.rpartition("/")[2].rpartition(":")
    if port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


def why_it_died(text: str) -> str:
    """The line of Ray's report that tells: of a Python error the last one, else the first.

    Example:
        >>> why_it_died("The actor died.\\nTraceback ...\\nModuleNotFoundError: No module named 'nets'")
        "ModuleNotFoundError: No module named 'nets'"
        >>> why_it_died("The actor died unexpectedly.\\n  pid: 7")
        'The actor died unexpectedly.'
    """
    lines = [re.sub(r"\x1b\[\d*m", "", line).strip() for line in text.strip().splitlines()]
    errors = [line for line in lines if re.match(r"[\w.]+(Error|Exception)\b", line)]
    return errors[-1] if errors else lines[0]


def import_ray() -> Any:
    """Ray.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import ray
    except ImportError:
        raise MissingExtraError("A sweep with several workers", "ray") from None
    return ray
