"""Sessions and recorders for the tests of the driver, on the tiny network."""

from __future__ import annotations

from functools import cache
from typing import Any

from torch import Tensor

import tiny
from sigmaquant import Budget, Settings
from sigmaquant.data import as_source
from sigmaquant.graph import QuantGraph, trace
from sigmaquant.hardware.profile import load_profile
from sigmaquant.hardware.profiled import ProfiledCosts
from sigmaquant.runs import NullProgress
from sigmaquant.search.driver import Driver
from sigmaquant.search.session import Data, Session
from sigmaquant.tasks import as_task
from sigmaquant.training.devices import Device
from sigmaquant.training.student import Judgement


class Memory:
    """A recorder that keeps everything, every state included."""

    def __init__(self, saved: tuple[int, dict[str, Tensor], dict[str, Any]] | None = None) -> None:
        self.saved = saved
        self.lines: list[dict[str, Any]] = []
        self.states: list[tuple[int, dict[str, Tensor], dict[str, Any]]] = []

    def append_step(self, step: dict[str, Any]) -> None:
        self.lines.append(step)

    def save_state(self, step: int, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        copies = {key: value.clone() for key, value in tensors.items()}
        self.states.append((step, copies, {**meta, "tabu": [list(key) for key in meta["tabu"]]}))

    def load_state(self) -> tuple[int, dict[str, Tensor], dict[str, Any]] | None:
        return self.saved


@cache
def graph() -> QuantGraph:
    return trace(tiny.trained(), tiny.train_data()[0][:2])


def session(budget: Budget, **options: Any) -> Session:
    settings = Settings(**{**tiny.QUICK, "start": "sigma", **options})
    size = settings.batch_size
    data = Data(as_source(tiny.train_data(), batch_size=size), as_source(tiny.validation_data(), batch_size=size))
    costs = ProfiledCosts(graph(), load_profile("ideal"))
    return Session(graph(), data, budget, settings, costs, as_task(outputs=settings.outputs), Device("cpu", bf16=False))


def driver(budget: Budget, recorder: Memory | None = None, extra: int = 0, **options: Any) -> Driver:
    return Driver(session(budget, **options), recorder or Memory(), NullProgress(), extra)


def lines(budget: Budget, **options: Any) -> list[dict[str, Any]]:
    """The trajectory of a whole search."""
    recorder = Memory()
    driver(budget, recorder, **options).run()
    return recorder.lines


def without_seconds(steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in step.items() if key != "seconds"} for step in steps]


class Scripted:
    """A judge that says what it is told to, once for each call, and the last from then on.

    An accuracy alone goes with a divergence that falls as it rises.
    """

    def __init__(self, *judgements: float | Judgement, error: float = 0.0) -> None:
        self.error = error
        self.judgements = [j if isinstance(j, Judgement) else Judgement(j, 1 - j) for j in judgements]

    def standard_error(self, accuracy: float) -> float:
        return self.error

    def __call__(self, network: Any) -> Judgement:
        return self.judgements.pop(0) if len(self.judgements) > 1 else self.judgements[0]
