"""The search as a machine of small steps: each is complete on disk before the next begins, so any can be the last.

Stages: phase 1 (or another strategy) -> phase 2 -> final training.
"""

from __future__ import annotations

from collections.abc import Callable

from sigmaquant.parallel import agreed_state
from sigmaquant.runs.progress import Progress
from sigmaquant.search.final_training import train_stage
from sigmaquant.search.planning import plan_stage
from sigmaquant.search.refining import refine_stage
from sigmaquant.search.search_state import Recorder, SearchState
from sigmaquant.search.session import Session
from sigmaquant.search.state import Progression
from sigmaquant.search.warm_start import Start
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
        search_state: what the stages work with.
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
        self.search_state = SearchState(session, recorder, progress)
        self.extra_examples, self.start = extra_examples, start

    @property
    def student(self) -> Student:
        """The network; at the end, with the best weights."""
        return self.search_state.student

    @property
    def state(self) -> Progression:
        """Where the run stands."""
        return self.search_state.state

    def run(self) -> Progression:
        """Go through all stages that are left.

        Raises:
            TrainingError: training diverged.
            StorageError: a step could not be recorded.
            CheckpointError: a run to resume is damaged, or another version's.
        """
        saved = agreed_state(self.search_state.recorder.load_state)
        if saved is not None:
            self.search_state.resume(*saved)
        stages: dict[str, Callable[[], None]] = {
            "phase1": lambda: plan_stage(self.search_state, self.start),
            "phase2": lambda: refine_stage(self.search_state),
            "final": lambda: train_stage(self.search_state, self.extra_examples),
        }
        while self.state.stage != "done":
            stages[self.state.stage]()
        return self.state
