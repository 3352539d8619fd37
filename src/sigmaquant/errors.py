"""One exception tree: everything the package raises on purpose derives from `SigmaQuantError`.

Every message says what happened, the rule that was broken, and what to do about it. The command line prints the
message and exits with `exit_code`; it never shows a traceback for an error of this tree.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SigmaQuantError(Exception):
    """Base of all errors of the package.

    Attributes:
        exit_code: what the command line exits with (2: usage or input error).
    """

    exit_code: int = 2


class UnitsError(SigmaQuantError, ValueError):
    """A quantity such as ``"180 KB"`` could not be read."""


class BudgetError(SigmaQuantError, ValueError):
    """A budget is contradictory, empty, or asks for a resource that the hardware profile does not give."""


class UnreachableBudgetError(BudgetError):
    """No plan can meet the budget; the message gives the smallest reachable cost."""


class HardwareProfileError(SigmaQuantError, ValueError):
    """A hardware profile is missing, malformed, or does not give what is asked of it."""


class MeasurementError(SigmaQuantError):
    """A device could not be measured: its runner failed, or printed no latency."""


class LibertyError(SigmaQuantError, ValueError):
    """A Liberty file is broken, of another kind, or lacks what the flow needs; the message names the line or cell."""


class CharacterizationError(SigmaQuantError):
    """A unit could not be synthesised, misses its clock, or computes something else than the integer reference."""


class PlanError(SigmaQuantError, ValueError):
    """A bitwidth plan is malformed or does not fit the model."""


class UnknownLayerError(PlanError, KeyError):
    """A pin or plan names a layer that the model does not have; the message lists the near matches."""

    def __str__(self) -> str:  # KeyError would print the message's repr
        return str(self.args[0])


class ModelError(SigmaQuantError):
    """The model cannot be used as it is (not exportable, no quantizable layer, NaN or infinite weights)."""


class GraphExportError(ModelError):
    """`torch.export` refused the model; the message names the user's line and the remedy."""


class ModelFileError(ModelError):
    """A file of another framework cannot become a network: damaged, of another kind, or with unknown operators."""


class CoverageError(ModelError):
    """A layer is not at the bitwidth its plan asks for."""


class PruningError(ModelError):
    """Channels of a network cannot be removed; the message names the layers, and why."""


class LoweringError(ModelError):
    """A trained network has no form in integers; the message names the layer."""


class ExportError(SigmaQuantError):
    """A network cannot be written in the form asked for; the message names the layer and the remedy."""


class ArtifactError(ExportError):
    """An exported file is damaged, is not the one that was written, or does not run."""


class DataError(SigmaQuantError, ValueError):
    """Data are empty, mis-shaped, of the wrong type, or contain NaN."""


class MetricError(SigmaQuantError, ValueError):
    """The user's metric did not return one finite number."""


class TaskError(SigmaQuantError):
    """A method of the user's task, or a function that it was given, failed; the message names it."""


class TrainingError(SigmaQuantError):
    """Training cannot go on, for instance because the loss became NaN or infinite."""


class DivergedError(TrainingError):
    """The loss or the gradient became NaN or infinite: the learning rate is too high, or the data are damaged."""


class CheckpointError(SigmaQuantError):
    """A checkpoint is corrupted, of another model, or not a safetensors file."""


class RunDirectoryError(SigmaQuantError):
    """A run directory cannot be used (in use, not empty, of another configuration)."""


class StorageError(SigmaQuantError, OSError):
    """A file could not be written, for instance because the disk is full; the old file is intact."""


class DistributedError(SigmaQuantError):
    """Several processes cannot compute together: too many, of other data, or one of them has ended."""


class MissingExtraError(SigmaQuantError, ImportError):
    """An optional dependency is missing; the message gives the install command."""

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(f'{feature} needs an optional dependency. Install it with: pip install "sigmaquant[{extra}]"')


def near_matches(name: str, known: Iterable[str], limit: int = 3) -> str:
    """A sentence that helps with a misspelt name: the near matches, or the first known names.

    Example:
        >>> near_matches("cnv1", ["conv1", "fc"])
        "Did you mean 'conv1'?"
    """
    names = list(known)
    close = difflib.get_close_matches(name, names, n=limit, cutoff=0.5)
    if close:
        return "Did you mean " + " or ".join(repr(match) for match in close) + "?"
    shown = ", ".join(repr(n) for n in names[:10])
    return f"Known names: {shown}{', …' if len(names) > 10 else ''}."
