"""Files that are either the old ones or the new ones, never something between, whatever interrupts the writing."""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import re
import shutil
import struct
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from sigmaquant.errors import StorageError
from sigmaquant.units import format_bytes

TEMPORARY_SUFFIX = ".tmp"
"""Ending of a file being written; such a file is garbage as soon as its writer is dead."""

_FULL = (errno.ENOSPC, errno.EDQUOT)
_counter = itertools.count()


def storage_error(path: Path, error: OSError, consequence: str) -> StorageError:
    """What to raise when `path` could not be written.

    Args:
        path: the file that was to be written.
        error: what the operating system said.
        consequence: what is left on the disk, as a sentence.
    """
    if error.errno in _FULL:
        try:
            free = format_bytes(shutil.disk_usage(path.parent).free)
        except OSError:  # a full disk must not hide behind a failing question about it
            free = "an unknown number of bytes"
        reason = f"the disk is full ({free} free) or your quota on it is used up"
        remedy = "Free some space or write to another disk."
    else:
        reason = (error.strerror or str(error) or type(error).__name__).lower()
        remedy = {
            errno.ENOENT: f"Create the folder {path.parent} first.",
            errno.ENOTDIR: f"{path.parent} is no folder; choose another path.",
            errno.EISDIR: "A folder has that name; choose another name.",
            errno.EACCES: f"Make the folder {path.parent} writable or choose another one.",
            errno.EPERM: f"Make the folder {path.parent} writable or choose another one.",
            errno.ENAMETOOLONG: "Choose a shorter name.",
            errno.EROFS: "The disk is mounted read-only; choose another one.",
        }.get(error.errno or 0, "Check the disk.")
    result = StorageError(f"could not write {path}: {reason}. {consequence} {remedy}")
    result.errno = error.errno
    return result


def remove_leftovers(folder: Path, pattern: re.Pattern[str]) -> None:
    """Remove what a killed process was writing; the folder is locked, so that nobody is writing now.

    Args:
        folder: its entries are looked at, not those of folders in it.
        pattern: of whole names.
    """
    for entry in folder.iterdir():
        if pattern.fullmatch(entry.name):
            with contextlib.suppress(OSError):
                entry.unlink()


def remove_stale(target: Path) -> None:
    """Remove what processes that are gone were writing to take the name of `target`."""
    name = re.compile(rf"\.{re.escape(target.name)}\.(old-)?(\d{{1,9}})-\d+{re.escape(TEMPORARY_SUFFIX)}")
    with contextlib.suppress(OSError):
        for entry in target.parent.iterdir():
            found = name.fullmatch(entry.name)
            if found is None or _alive(int(found[2])):
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                with contextlib.suppress(OSError):
                    entry.unlink()


def _alive(process: int) -> bool:
    if os.name == "nt":  # there, signal 0 would end it
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def write_all(descriptor: int, data: bytes) -> None:
    """Write every byte; the system may take fewer at a time."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power failure, where the file system can."""
    if os.name == "nt":  # a folder cannot be opened there, and a rename is journalled
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems refuse, and need no sync
            raise
    finally:
        os.close(descriptor)


def write_bytes_atomic(path: str | Path, data: bytes) -> None:
    """Create or replace a file in one instant.

    The bytes go to a temporary file in the same folder (a rename across disks would be a copy), reach the disk, and
    take the name. A reader, a crash or a kill at any instant sees the old file or the new one. A symbolic link stays a
    link: its target is replaced.

    Raises:
        StorageError: the file could not be written; the old one, if there was one, is intact.
    """
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{target.name}.{os.getpid()}-{next(_counter)}{TEMPORARY_SUFFIX}")
    consequence = "Nothing was written."
    try:
        if target.exists():
            consequence = "The old file is intact."
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
            try:
                write_all(descriptor, data)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            temporary.replace(target)
            remove_stale(target)
        except BaseException:  # an interrupt from the keyboard leaves nothing behind either
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        consequence = "The new file is in place, but may not survive a power failure."
        sync_folder(target.parent)
    except OSError as error:
        raise storage_error(target, error, consequence) from error


def write_text_atomic(path: str | Path, text: str) -> None:
    """`write_bytes_atomic` for UTF-8 text; line ends are written as they are.

    Raises:
        StorageError: the file could not be written; the old one, if there was one, is intact.
    """
    write_bytes_atomic(path, text.encode())


def tensor_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """The tensors as the bytes of a safetensors file.

    Every tensor is written on its own in row-major order, so that views, transposed and channels-last tensors, and
    names that share memory (tied weights) all round-trip by value; memory layout and sharing are not kept. The same
    values give the same bytes.

    Args:
        tensors: by name, on any device, of any shape.
        metadata: text by name.
    """
    independent = {
        name: tensor.detach().to("cpu").clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
    }
    data = bytes(save(independent, dict(metadata) if metadata else None))  # {} without tensors is written malformed
    return _with_sorted_metadata(data) if metadata else data


def _with_sorted_metadata(data: bytes) -> bytes:
    """The same file with its metadata in order: safetensors writes them in another one each time."""
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


def save_tensors_atomic(
    path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors as a safetensors file, in one instant; see `tensor_bytes` and `write_bytes_atomic`.

    Raises:
        StorageError: the file could not be written; the old one, if there was one, is intact.
    """
    write_bytes_atomic(path, tensor_bytes(tensors, metadata))
