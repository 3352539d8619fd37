"""`RunDirectory`: the one folder a run writes to, owned by one process at a time, and resumable after any crash."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from torch import Tensor

from sigmaquant.errors import RunDirectoryError
from sigmaquant.plan import BitwidthPlan
from sigmaquant.runs import state
from sigmaquant.runs.atomic import (
    remove_leftovers,
    storage_error,
    sync_folder,
    tensor_bytes,
    write_all,
    write_bytes_atomic,
    write_text_atomic,
)
from sigmaquant.runs.beginnings import tell_begun
from sigmaquant.runs.documents import dumps, first_difference, plain, sealed
from sigmaquant.runs.files import SCHEMA, SCHEMA_VERSION, RunFiles, same_configuration, split_lines
from sigmaquant.runs.lock import RunLock

_TEMPORARY = re.compile(
    r"\.((config|plan|plans|layers|pictures|result|state|report)\.json|report\.html|report_\w+\.csv"
    r"|(checkpoint|nested)\.safetensors|state-[\d-]+\.safetensors)"
    r"\.\d+-\d+\.tmp"
)


class RunDirectory(RunFiles):
    """A run directory that this process may write to. A context manager; the lock ends with it or with the process.

    Args:
        path: the directory; it is created with its parents.
        config: what the run does; everything that must be the same for a resumed run to be the same run, and nothing
            else (no device, no time limit). Values as in `sigmaquant.runs.documents.plain`.
        resume: continue the run that is there. An empty directory is started as usual.
        overwrite: discard the run that is there. Only the files of `RunFiles` are deleted, whatever else is in the
            directory stays, and a directory without a run is refused.

    Attributes:
        resumed: whether there was a run to resume.

    Raises:
        RunDirectoryError: in use by another process, not empty, no run directory, or of another configuration.
        StorageError: the directory cannot be created, read or written.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        config: Mapping[str, Any] | None = None,
        resume: bool = False,
        overwrite: bool = False,
    ) -> None:
        super().__init__(path)
        if resume and overwrite:
            raise RunDirectoryError("a run is either resumed or overwritten. Give only one of the two.")
        self._create()
        try:
            if self.config_path.exists():  # look before the lock file is put among somebody else's files
                self.read_config()
            else:
                self._refuse_foreign()
        except OSError as error:
            raise storage_error(self.config_path, error, "The run has not begun.") from error
        self._lock = RunLock(self.lock_path)
        try:
            self.resumed = self._open(plain(config or {}), resume, overwrite)
            tell_begun(self.path)
        except BaseException:
            self.close()
            raise

    def _create(self) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            raise RunDirectoryError(f"{self.path} is a file, not a directory. Choose another path.") from None
        except OSError as error:
            raise storage_error(self.path, error, "The run has not begun.") from error

    def _foreign(self) -> list[str]:
        """Names of what is in the directory besides a run that has not begun."""
        names = {entry.name for entry in self.path.iterdir()} - {self.lock_path.name, self.config_path.name}
        return sorted(name for name in names if not _TEMPORARY.fullmatch(name))

    def _refuse_foreign(self) -> None:
        for name in self._foreign():
            raise RunDirectoryError(
                f"the directory {self.path} is not empty and holds no run (it has {name!r}). "
                "Choose another path, or an empty directory."
            )

    def _open(self, config: dict[str, Any], resume: bool, overwrite: bool) -> bool:
        remove_leftovers(self.path, _TEMPORARY)
        if self.config_path.exists():
            old = self.read_config()
            if resume:
                same_configuration(self.path, old, first_difference(old, config))
                if not self.begun:  # an overwriting may have been killed before it came to the control
                    void(self.path)
                self._truncate_trajectory(len(self.read_trajectory()))
                return True
            if not overwrite:
                raise RunDirectoryError(
                    f"the directory {self.path} already holds a {'finished' if self.finished else 'started'} run. "
                    "Continue it with --resume, choose another path, or discard it with --overwrite."
                )
            self._discard()
        else:
            self._refuse_foreign()
        document = {"schema": SCHEMA, "version": SCHEMA_VERSION, "config": config}
        write_text_atomic(self.config_path, dumps(document))
        return False

    def _discard(self) -> None:
        """Delete the old run except its configuration, whose replacement comes next: a kill leaves a run directory."""
        void(self.path)
        try:
            for path in (
                self.trajectory_path,
                self.plan_path,
                self.plans_path,
                self.pruning_path,
                self.checkpoint_path,
                self.nested_path,
                self.layers_path,
                self.pictures_path,
                self.command_path,
                *self.report_paths,
            ):
                path.unlink(missing_ok=True)
            state.drop_others(self.path, None)
            self.log_path.unlink(missing_ok=True)
        except OSError as error:
            raise storage_error(self.path, error, "The old run could not be discarded.") from error

    def __enter__(self) -> RunDirectory:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, Exception) and not self.resumed and not self.state_path.exists():
            self._withdraw()
        self.close()

    def _withdraw(self) -> None:
        """Free the directory of a run that failed before its first step: the corrected one may want it."""
        with contextlib.suppress(OSError):
            self._discard()
            if not self._foreign():  # else it would be taken for somebody else's directory
                self.config_path.unlink(missing_ok=True)

    def close(self) -> None:
        """Release the lock; a second call does nothing."""
        self._lock.release()

    def write_plan(self, plan: BitwidthPlan) -> None:
        """Replace ``plan.json``.

        Raises:
            StorageError: the disk is full; the old plan is intact.
        """
        write_text_atomic(self.plan_path, plan.to_json())

    def write_checkpoint(self, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> str:
        """Replace ``checkpoint.safetensors``.

        Returns:
            its SHA-256, for the result: `read_checkpoint` goes by the key ``checkpoint_sha256``.

        Raises:
            StorageError: the disk is full; the old checkpoint is intact.
        """
        data = tensor_bytes(tensors, metadata)
        write_bytes_atomic(self.checkpoint_path, data)
        return hashlib.sha256(data).hexdigest()

    def write_layers(self, layers: Mapping[str, Any]) -> None:
        """Replace ``layers.json``, on one line: it is for programs. NaN and infinity become null.

        Raises:
            StorageError: the disk is full; the old file is intact.
        """
        write_text_atomic(self.layers_path, dumps(layers, indent=None))

    def write_pictures(self, pictures: Sequence[Mapping[str, Any]]) -> None:
        """Replace ``pictures.json``; of none, there is no such file.

        Raises:
            StorageError: the disk is full; the old file is intact.
        """
        if pictures:
            write_text_atomic(self.pictures_path, dumps({"pictures": list(pictures)}, indent=None))
        else:
            self.pictures_path.unlink(missing_ok=True)

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Write ``result.json``, which makes the run finished. NaN and infinity become null.

        Raises:
            StorageError: the disk is full.
        """
        write_text_atomic(self.result_path, dumps(sealed(result)))

    def append_step(self, step: Mapping[str, Any]) -> None:
        """Add one line to the trajectory; it has reached the disk on return. NaN and infinity become null.

        Raises:
            StorageError: the disk is full; the earlier steps are intact.
        """
        line = dumps(step, indent=None).encode()
        try:
            descriptor = os.open(self.trajectory_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
            try:
                end = os.fstat(descriptor).st_size
                try:
                    write_all(descriptor, line)
                    os.fsync(descriptor)
                except BaseException:
                    with contextlib.suppress(OSError):
                        os.ftruncate(descriptor, end)
                    raise
            finally:
                os.close(descriptor)
            if end == 0:
                sync_folder(self.path)
        except OSError as error:
            raise storage_error(self.trajectory_path, error, "The earlier steps are intact.") from error

    def save_state(self, step: int, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Make this the state that a resumed run continues from. A kill at any instant leaves this or the previous one.

        Args:
            step: number of the step after which this is the state.
            tensors: weights, optimiser state, random-number states: everything that is a tensor.
            meta: everything else, as in `plain` (mapping keys become text, tuples lists; infinities are kept).

        Raises:
            StorageError: the disk is full; the previous state is intact.
        """
        data = self.trajectory_path.read_bytes() if self.trajectory_path.exists() else b""
        ends = [0, *split_lines(data, self.trajectory_path)[1]]
        state.save(self.state_path, step, tensors, meta, len(ends) - 1, _digest(data[: ends[-1]]))

    def load_state(self) -> tuple[int, dict[str, Tensor], dict[str, Any]] | None:
        """Roll the run back to its last saved state, and give it; None when none was saved.

        Steps that the trajectory got after that state are removed, since the run is about to do them again.

        Raises:
            CheckpointError: the state's files are damaged.
            RunDirectoryError: the trajectory has lost steps, or has others than when the state was saved.
        """
        record = state.read_record(self.state_path)
        tensors = {} if record is None else state.load(record, self.path)
        if record is not None:
            self._check_trajectory(record)
        self._truncate_trajectory(0 if record is None else record.trajectory_lines)
        state.drop_others(self.path, None if record is None else record.file)
        return None if record is None else (record.step, tensors, record.meta)

    def _check_trajectory(self, record: state.StateRecord) -> None:
        data = self.trajectory_path.read_bytes() if self.trajectory_path.exists() else b""
        ends = [0, *split_lines(data, self.trajectory_path)[1]]
        if record.trajectory_sha256 is None or len(ends) <= record.trajectory_lines:
            return  # lost steps are told with their number
        if _digest(data[: ends[record.trajectory_lines]]) != record.trajectory_sha256:
            raise RunDirectoryError(
                f"{self.trajectory_path} has changed since the state was saved (the SHA-256 of its first "
                f"{record.trajectory_lines} steps differs). Restore the file, or start the run anew (--overwrite)."
            )

    def _truncate_trajectory(self, lines: int) -> None:
        if not self.trajectory_path.exists() and lines == 0:
            return
        data = self.trajectory_path.read_bytes() if self.trajectory_path.exists() else b""
        ends = [0, *split_lines(data, self.trajectory_path)[1]]
        if len(ends) - 1 < lines:
            raise RunDirectoryError(
                f"{self.trajectory_path} has {len(ends) - 1} steps, but the saved state was made after {lines}. "
                "Restore the file, or start the run anew (--overwrite)."
            )
        if ends[lines] == len(data):
            return
        try:
            os.truncate(self.trajectory_path, ends[lines])
        except OSError as error:
            raise storage_error(self.trajectory_path, error, "The steps are intact.") from error


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def void(path: Path) -> None:
    """Let the run in a directory, its control and its searches for plans count neither as finished nor as begun.

    It is about to be replaced.

    The rest stays for the new run to discard. What is no run directory is left alone.

    Raises:
        StorageError: the directory cannot be written.
    """
    run = RunFiles(path)
    searches = sorted(run.plan_run_path(0).parent.glob("*"))
    for files in (run, RunFiles(run.control_path), *map(RunFiles, searches)):
        try:
            files.read_config()
        except RunDirectoryError:
            continue
        try:
            files.result_path.unlink(missing_ok=True)  # first: a state alone still leads to the old result
            files.state_path.unlink(missing_ok=True)
        except OSError as error:
            raise storage_error(files.result_path, error, "The old run could not be discarded.") from error
