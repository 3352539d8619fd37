"""What a run directory holds, and reading it; for reports and other readers, which need no lock."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt
from torch import Tensor

from sigmaquant.errors import RunDirectoryError
from sigmaquant.json_text import read_json
from sigmaquant.plan import BitwidthPlan
from sigmaquant.runs.documents import first_difference, parse, plain, unsealed
from sigmaquant.runs.weights import check_digest, parse_tensors, read_bytes

SCHEMA = "sigmaquant.run"
COMMAND = "command.toml"
"""The options of the command that made a run or a sweep."""
SCHEMA_VERSION = 1


class _Part(BaseModel):
    """What readers of all kinds take from a document, where it has that; the rest is nobody's business here."""

    model_config = ConfigDict(strict=True)


class _Settings(_Part):
    batch_size: PositiveInt = 1


class _Start(_Part):
    run: str


class _Config(_Part):
    settings: _Settings = _Settings()
    budget: dict[str, Any] = {}
    start: _Start | None = None


class _Result(_Part):
    trained_examples: NonNegativeInt = 0
    checkpoint_sha256: str | None = None


def read_document(path: Path, *, infinities: bool = False) -> dict[str, Any]:
    """A JSON object from a file of the run.

    Args:
        path: the file.
        infinities: it may hold Infinity and NaN, see `sigmaquant.json_text.read_json`.

    Raises:
        RunDirectoryError: missing, unreadable, or no JSON object.
    """
    try:
        document = read_json(path.read_bytes(), infinities=infinities)
    except FileNotFoundError:
        _refuse_control(path.parent)
        raise RunDirectoryError(
            f"{path.parent} has no {path.name}: it is no run directory, or the run has not got that far."
        ) from None
    except (OSError, ValueError) as error:
        raise RunDirectoryError(f"{path} cannot be read ({error}).") from error
    if not isinstance(document, dict):
        raise RunDirectoryError(f"{path} is damaged: it holds no JSON object.")
    return document


def _refuse_control(path: Path) -> None:
    """Raise where a directory is that of a run's control, which has no result of its own.

    Raises:
        RunDirectoryError: names the run.
    """
    run = RunFiles(path.resolve().parent)
    if run.control_path.name == path.name and run.config_path.exists():
        raise RunDirectoryError(
            f"{path} is the uniform control of the run in {path.parent}, whose result has its figures beside its own. "
            "Give that run."
        )


def split_lines(data: bytes, path: Path) -> tuple[list[dict[str, Any]], list[int]]:
    """The steps in a trajectory's bytes, and where each one's line ends.

    A last line without its line end, or that is no JSON, was cut by a crash and is dropped.

    Raises:
        RunDirectoryError: an earlier line is damaged.
    """
    steps: list[dict[str, Any]] = []
    ends: list[int] = []
    position = 0
    while (end := data.find(b"\n", position) + 1) > 0:
        try:
            step = read_json(data[position:end])
        except ValueError:
            step = None
        if not isinstance(step, dict):
            if end == len(data):
                break
            raise RunDirectoryError(f"{path}, line {len(steps) + 1}, is damaged: it holds no JSON object.")
        steps.append(step)
        ends.append(end)
        position = end
    return steps, ends


class RunFiles:
    """The files of a run, by name, and their content. Reads only, and takes no lock.

    Attributes:
        path: the directory.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @property
    def config_path(self) -> Path:
        """What the run was asked to do."""
        return self.path / "config.json"

    @property
    def plan_path(self) -> Path:
        """The best plan, as `BitwidthPlan.to_json` writes it."""
        return self.path / "plan.json"

    @property
    def checkpoint_path(self) -> Path:
        """Weights and scales of the best plan."""
        return self.path / "checkpoint.safetensors"

    @property
    def trajectory_path(self) -> Path:
        """One JSON object per step of the search."""
        return self.path / "trajectory.jsonl"

    @property
    def layers_path(self) -> Path:
        """Shapes, statistics, costs and histograms of the layers, for reports; written just before the result."""
        return self.path / "layers.json"

    @property
    def command_path(self) -> Path:
        """The options of the command that made the run, where a command did."""
        return self.path / COMMAND

    @property
    def pictures_path(self) -> Path:
        """Examples with what both networks make of them, for reports; only of tasks that show some."""
        return self.path / "pictures.json"

    @property
    def result_path(self) -> Path:
        """What came out; written last of all."""
        return self.path / "result.json"

    @property
    def report_paths(self) -> tuple[Path, ...]:
        """The run's report, and the numbers beside it."""
        names = ("report.html", "report.json", "report_layers.csv", "report_steps.csv")
        return tuple(self.path / name for name in names)

    @property
    def log_path(self) -> Path:
        """The log, for people."""
        return self.path / "log.txt"

    @property
    def lock_path(self) -> Path:
        """Locked while a process works on the run."""
        return self.path / "run.lock"

    @property
    def state_path(self) -> Path:
        """Which `state-<step>.safetensors` a resumed run continues from, and its digest."""
        return self.path / "state.json"

    @property
    def control_path(self) -> Path:
        """The run directory of the uniform control."""
        return self.path / "control"

    @property
    def pruning_path(self) -> Path:
        """``pruning.json``: which channels were removed before the search."""
        return self.path / "pruning.json"

    @property
    def plans_path(self) -> Path:
        """All plans of a run with nested plans."""
        return self.path / "plans.json"

    @property
    def nested_path(self) -> Path:
        """The nested checkpoint of such a run."""
        return self.path / "nested.safetensors"

    def plan_run_path(self, name: int | str) -> Path:
        """The run directory of such a run's search for one plan, 0 the largest, or of a plan that is trained alone."""
        return self.path / "plans" / str(name)

    @property
    def finished(self) -> bool:
        """Whether the run has a result."""
        return self.result_path.exists()

    def check_finished(self) -> None:
        """Raise where there is no result.

        Raises:
            RunDirectoryError: the run is not finished, or only another one's control.
        """
        if not self.finished:
            _refuse_control(self.path)
            raise RunDirectoryError(
                f"the run in {self.path} is not finished. Continue it with: sigmaquant quantize … --resume"
            )

    @property
    def begun(self) -> bool:
        """Whether there is anything that a resumed run would not do again."""
        return self.finished or self.state_path.exists()

    def read_config(self) -> dict[str, Any]:
        """The configuration that the run was started with.

        Raises:
            RunDirectoryError: no run directory, damaged, or of a newer version.
        """
        document = read_document(self.config_path)
        config = document.get("config")
        if document.get("schema") != SCHEMA or not isinstance(config, dict):
            raise RunDirectoryError(f"{self.path} is no run directory: its config.json has no schema {SCHEMA!r}.")
        if document.get("version") != SCHEMA_VERSION:
            raise RunDirectoryError(
                f"the run directory {self.path} has version {document.get('version')!r}, this program reads "
                f"{SCHEMA_VERSION}. Update sigmaquant or start a new run."
            )
        parse(_Config, config, self.config_path, remedy="Restore it, or run again in another directory.")
        return config

    def is_of(self, config: Mapping[str, Any], *, besides: Collection[str] = ()) -> bool:
        """Whether there is a run of that configuration, finished or not.

        Args:
            config: as for `RunDirectory`.
            besides: keys that may differ.
        """
        try:
            found = self.read_config()
        except RunDirectoryError:
            return False
        old, new = ({k: v for k, v in table.items() if k not in besides} for table in (found, plain(config)))
        return first_difference(old, new) is None

    def read_plan(self) -> BitwidthPlan:
        """The best plan.

        Raises:
            RunDirectoryError: there is none yet.
            PlanError: it is malformed.
        """
        return BitwidthPlan.from_json(json.dumps(read_document(self.plan_path)))

    def read_result(self) -> dict[str, Any]:
        """What came out.

        Raises:
            RunDirectoryError: the run has not finished, or the file is damaged.
        """
        document = read_document(self.result_path)
        parse(_Result, document, self.result_path)
        return unsealed(document, self.result_path)

    def read_checkpoint(self) -> tuple[dict[str, Tensor], dict[str, str]]:
        """Tensors and metadata of the best plan's checkpoint.

        Raises:
            CheckpointError: missing, damaged, or not the one that a finished run's result is of.
            RunDirectoryError: there is a result that cannot be read.
        """
        data = read_bytes(self.checkpoint_path)
        found = parse_tensors(data, self.checkpoint_path)
        written = self.read_result().get("checkpoint_sha256") if self.finished else None
        if written is not None:  # as results of earlier releases have it
            remedy = "Restore it from a backup, or repeat the run's command with --resume, which writes it anew."
            check_digest(data, written, self.checkpoint_path, remedy)
        return found

    def read_trajectory(self) -> list[dict[str, Any]]:
        """Every whole step; a last line cut by a crash is left out. Empty when there is none yet.

        Raises:
            RunDirectoryError: a line before the last is damaged.
        """
        try:
            data = self.trajectory_path.read_bytes()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise RunDirectoryError(f"{self.trajectory_path} cannot be read ({error}).") from error
        return split_lines(data, self.trajectory_path)[0]


def same_configuration(directory: Path, old: Mapping[str, Any], difference: tuple[str, Any, Any] | None) -> None:
    """Raise when the run in `directory` had another configuration.

    Raises:
        RunDirectoryError: names the key, both values and the remedy.
    """
    if difference is None:
        return
    key, then, now = difference
    raise RunDirectoryError(
        f"the run in {directory} has another configuration: {key!r} was {then!r} and is now {now!r}. Resume with the "
        "same settings, or start a new run in another directory (or here with --overwrite, which discards the old one)."
    )
