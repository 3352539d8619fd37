"""The search as a machine of small steps: each is complete on disk before the next begins, so any can be the last.

Stages: phase 1 (or another strategy) -> phase 2 -> final training.
"""

from __future__ import annotations

from collections.abc import Callable

from sigmaquant.runs.progress import Progress
from sigmaquant.search.bench import Bench, Recorder
from sigmaquant.search.finishing import train_stage
from sigmaquant.search.planning import plan_stage
from sigmaquant.search.refining import refine_stage
from sigmaquant.search.session import Session
from sigmaquant.search.start import Start
from sigmaquant.search.state import Progression
from sigmaquant.training.student import Student


class Driver:
    """Runs a search to its end, from the beginning or from the last complete step.

    Args:
        session: what is to be searched.
        recorder: where steps go.
        progress: what the user sees.
        extra_examples: training examples that the final training gets on top: what another run's search used, so that
            a control trains for as long.
        start: a finished run to begin from in place of phase 1; other strategies have no use for one.

    Raises:
        CheckpointError: the start is of another network.

    Attributes:
        bench: what the stages work with.
    """

    def __init__(
        self,
        session: Session,
        recorder: Recorder,
        progress: Progress,
        extra_examples: int = 0,
        start: Start | None = None,
    ) -> None:
        if start is not None:
            start.check(session.graph.fingerprint)
        self.bench = Bench(session, recorder, progress)
        self.extra_examples, self.start = extra_examples, start

    @property
    def student(self) -> Student:
        """The network; at the end, with the best weights."""
        return self.bench.student

    @property
    def state(self) -> Progression:
        """Where the run stands."""
        return self.bench.state

    def run(self) -> Progression:
        """Go through all stages that are left.

        Raises:
            TrainingError: training diverged.
            StorageError: a step could not be recorded.
            CheckpointError: a run to resume is damaged, or another version's.
        """
        saved = self.bench.recorder.load_state()
        if saved is not None:
            self.bench.resume(*saved)
        stages: dict[str, Callable[[], None]] = {
            "phase1": lambda: plan_stage(self.bench, self.start),
            "phase2": lambda: refine_stage(self.bench),
            "final": lambda: train_stage(self.bench, self.extra_examples),
        }
        while self.state.stage != "done":
            stages[self.state.stage]()
        return self.state
