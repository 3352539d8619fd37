"""Saving and loading what a run needs to go on, such that a kill at any instant leaves a state that loads."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field, StrictInt
from torch import Tensor

from sigmaquant.errors import CheckpointError
from sigmaquant.runs.atomic import tensor_bytes, write_bytes_atomic, write_text_atomic
from sigmaquant.runs.documents import SEAL, dumps, parse, sealed, unsealed
from sigmaquant.runs.files import read_document
from sigmaquant.runs.weights import check_digest, parse_tensors, read_bytes

SCHEMA = "sigmaquant.state"
SCHEMA_VERSION = 1
PATTERN = "state-*.safetensors"


@dataclass(frozen=True)
class StateRecord:
    """The content of ``state.json``.

    Attributes:
        step: number of the step after which the state was saved.
        file: name of the tensors' file in the same directory.
        sha256: digest of that file.
        trajectory_lines: number of steps in the trajectory when the state was saved.
        meta: what the caller gave.
        trajectory_sha256: digest of these steps' lines; None: an earlier release saved it.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    step: StrictInt
    file: str
    sha256: str
    trajectory_lines: Annotated[StrictInt, Field(ge=0)]
    meta: dict[str, Any]
    trajectory_sha256: str | None = None


def read_record(path: Path) -> StateRecord | None:
    """What ``state.json`` says, or None when no state was saved.

    Raises:
        CheckpointError: it is malformed, of a newer version, or not what was saved.
        RunDirectoryError: it cannot be read.
    """
    if not path.exists():
        return None
    found = read_document(path, infinities=True)
    document = {key: value for key, value in found.items() if key != SEAL}
    if document.pop("schema", None) != SCHEMA or document.pop("version", None) != SCHEMA_VERSION:
        raise CheckpointError(
            f"{path} is no saved state of version {SCHEMA_VERSION}. Update sigmaquant, or start the run anew."
        )
    record = parse(StateRecord, document, path, CheckpointError, "Start the run anew (--overwrite).")
    if Path(record.file).name != record.file:
        raise CheckpointError(f"{path} is damaged: it names a file outside the run directory.")
    unsealed(found, path, CheckpointError)
    return record


def save(
    path: Path,
    step: int,
    tensors: Mapping[str, Tensor],
    meta: Mapping[str, Any],
    trajectory_lines: int,
    trajectory_sha256: str | None = None,
) -> None:
    """Write ``state-<step>.safetensors``, then `path` (``state.json``) that makes it current, then drop older ones.

    Until `path` is replaced, the old state with its file is current and untouched.

    Raises:
        StorageError: the disk is full; the previous state is intact.
    """
    old = read_record(path)
    name, again = f"state-{step}.safetensors", 0
    while old is not None and name == old.file:  # never write over the file that is still needed
        again += 1
        name = f"state-{step}-{again}.safetensors"
    data = tensor_bytes(tensors)
    write_bytes_atomic(path.parent / name, data)
    record = StateRecord(step, name, hashlib.sha256(data).hexdigest(), trajectory_lines, dict(meta), trajectory_sha256)
    # Unlike the files for other readers, this one keeps infinities ("best so far" starts at one).
    document = {"schema": SCHEMA, "version": SCHEMA_VERSION, **record.__dict__}
    write_text_atomic(path, dumps(sealed(document, finite=False), finite=False))
    drop_others(path.parent, name)


def drop_others(folder: Path, keep: str | None) -> None:
    """Delete the states that are not `keep`; one that cannot be deleted now is dropped next time."""
    for path in folder.glob(PATTERN):
        if path.name != keep:
            with contextlib.suppress(OSError):
                path.unlink()


def load(record: StateRecord, folder: Path) -> dict[str, Tensor]:
    """The tensors of a state.

    Raises:
        CheckpointError: the file is missing, or not the one that was written.
    """
    path = folder / record.file
    data = read_bytes(path)
    check_digest(data, record.sha256, path, "Restore it from a backup, or start the run anew (--overwrite).")
    return parse_tensors(data, path)[0]
