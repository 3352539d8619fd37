"""`RayWorkers` with a Ray that answers as told: what kills a worker costs a step, what fails in it a run."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sigmaquant import Budget
from sigmaquant.errors import SigmaQuantError
from sigmaquant.search.session import Statistics
from sigmaquant.sweeping import workers
from sigmaquant.sweeping.workers import Outcome, RayWorkers, Task

exceptions = pytest.importorskip("ray.exceptions", reason="needs Ray: pip install 'sigmaquant[ray]'")

TASK = Task("size-8x", Budget(size="8x"), Path("size-8x"))


class FakeRay(SimpleNamespace):
    """Two machines of two processors, without a GPU; `asked` is what the workers asked for, `said` what was done."""

    def __init__(self, **more: Any) -> None:
        self.asked: dict[str, Any] = {}
        self.said: list[str] = []
        super().__init__(
            exceptions=exceptions,
            is_initialized=lambda: True,
            nodes=lambda: [{"Alive": alive, "Resources": {"CPU": 2.0}} for alive in (True, True, False)],
            put=lambda value: value,
            kill=lambda actor: self.said.append("kill"),
            wait=lambda results, timeout: (results, []),
            get=lambda result: None,
        )  # neither init nor shutdown: it is the caller's
        vars(self).update(more)

    def remote(self, kind: type) -> FakeRay.Class:
        return FakeRay.Class(self)

    class Class:
        def __init__(self, ray: FakeRay) -> None:
            self.ray = ray

        def options(self, **asked: Any) -> FakeRay.Class:
            self.ray.asked.update(asked)
            return self

        def remote(self, *arguments: Any) -> Any:
            self.ray.said.append("new")
            return SimpleNamespace(run=SimpleNamespace(remote=lambda task: f"result of {task.run}"))


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Callable[..., RayWorkers]:
    def make(ray: FakeRay, jobs: int = 2, **options: Any) -> RayWorkers:
        monkeypatch.setattr(workers, "import_ray", lambda: ray)
        return RayWorkers(lambda: None, Statistics(), jobs, **options)  # type: ignore[arg-type, return-value]

    return make


def outcome(pool: RayWorkers) -> Outcome:
    pool.submit(TASK)
    found = pool.wait(1.0)
    assert found is not None
    assert found.task == TASK
    return found


def test_a_ray_that_the_caller_has_started_is_used_and_left_running(made: Any) -> None:
    ray = FakeRay()
    pool = made(ray)
    assert outcome(pool).error is None
    pool.submit(TASK)
    pool.close()
    assert ray.said == ["new", "kill"]


def test_workers_ask_for_what_the_cluster_has(made: Any) -> None:
    ray = FakeRay()
    made(ray, 4)
    assert ray.asked == {"num_cpus": 1, "num_gpus": 0}
    with pytest.raises(SigmaQuantError, match="room for 4"):
        made(ray, 5)


@pytest.mark.parametrize("kind", ["OutOfMemoryError", "NodeDiedError"])
def test_what_kills_a_worker_costs_a_step(made: Any, kind: str) -> None:
    def dead(result: str) -> None:
        raise getattr(exceptions, kind)("Task was killed due to the node running low on memory.\nMemory: 15 GB.")

    ray = FakeRay(get=dead)
    pool = made(ray)
    for _ in range(2):
        found = outcome(pool)
        assert found.worker_died
        assert "low on memory" in str(found.error)
    assert ray.said == ["new", "kill", "new", "kill"]


def test_what_fails_in_a_worker_costs_the_run(made: Any) -> None:
    trace = "ray::_Process.run()\n  File x\ntorch.OutOfMemoryError: CUDA out of memory."
    cause = MemoryError("CUDA out of memory.")

    def fail(result: str) -> None:
        raise exceptions.RayTaskError("run", trace, cause, "worker", 7, "127.0.0.1").as_instanceof_cause()

    ray = FakeRay(get=fail)
    pool = made(ray)
    found = outcome(pool)
    assert not found.worker_died
    assert str(found.error) == "its worker failed: torch.OutOfMemoryError: CUDA out of memory."
    outcome(pool)
    assert ray.said == ["new"]


@pytest.mark.parametrize("kind", [ConnectionError, RuntimeError, ValueError])
def test_no_cluster_at_the_address(made: Any, kind: type[Exception]) -> None:
    def refuse(address: str, **_: Any) -> None:
        raise kind("Could not find any running Ray instance.")

    with pytest.raises(SigmaQuantError, match=r"'auto' \(Could not find .*ray status"):
        made(FakeRay(is_initialized=lambda: False, init=refuse), address="auto")


@pytest.mark.parametrize("form", ["127.0.0.1:{}", "ray://127.0.0.1:{}"])
def test_nobody_at_the_address_is_told_at_once(made: Any, form: str) -> None:
    reached: list[str] = []
    ray = FakeRay(is_initialized=lambda: False, init=lambda address, **_: reached.append(address))
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = form.format(server.getsockname()[1])
        made(ray, address=address)
    assert reached == [address]
    with pytest.raises(SigmaQuantError, match="refused"):
        made(ray, address=address)
    assert reached == [address]
