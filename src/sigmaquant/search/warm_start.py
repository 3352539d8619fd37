"""`Start`: a finished run that another one of the same network begins from."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from sigmaquant.errors import CheckpointError
from sigmaquant.runs import RunFiles


@dataclass(frozen=True)
class Start:
    """Bitwidths and trained weights of a finished run.

    Attributes:
        name: of the run, for people.
        weights: its weight bitwidths, by layer name.
        tensors: its quantized network's state.
        trained_examples: training examples that its network has seen; 0: its weights are the float network's, and only
            the bitwidths are taken over.
        model: fingerprint of its network.
        sha256: of its checkpoint.
    """

    name: str
    weights: Mapping[str, int]
    tensors: Mapping[str, Tensor]
    trained_examples: int
    model: str | None
    sha256: str

    @classmethod
    def of(cls, run: str | Path) -> Start:
        """Read a finished run.

        Raises:
            RunDirectoryError: it is none, or has not finished.
            CheckpointError: its checkpoint is missing or damaged.
        """
        files = RunFiles(run)
        trained = int(files.read_result().get("trained_examples", 0))
        plan = files.read_plan()
        tensors, _ = files.read_checkpoint()
        digest = hashlib.sha256(files.checkpoint_path.read_bytes()).hexdigest()
        return cls(files.path.name, plan.weights, tensors, trained, plan.model, digest)

    def record(self) -> dict[str, Any]:
        """For the configuration of the run that begins from it."""
        return {"run": self.name, "checkpoint_sha256": self.sha256, "trained_examples": self.trained_examples}

    @property
    def note(self) -> str:
        """For the user."""
        if not self.trained_examples:
            return f"the search began from the plan of {self.name}"
        return f"the search began from {self.name}, whose network had seen {self.trained_examples:,} training examples"

    def check(self, fingerprint: str) -> None:
        """Refuse a run of another network.

        Raises:
            CheckpointError: it is of another network.
        """
        if self.model != fingerprint:
            raise CheckpointError(
                f"the run {self.name} is of another network ({self.model}, not {fingerprint}). Start from a run of "
                "the same network, or from none."
            )
