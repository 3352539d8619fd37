"""Reading tensors from files: the program's own safetensors files, and the float weights that users bring."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from sigmaquant.errors import CheckpointError
from sigmaquant.json_text import read_json

_ZIP, _PICKLE, _LFS = b"PK\x03\x04", b"\x80", b"version https://git-lfs"
_WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "weights")
_RESAVE = (
    "Where you trust it, load it once and save its tensors: "
    "`safetensors.torch.save_file({k: v.contiguous().clone() for k, v in model.state_dict().items()}, "
    '"weights.safetensors")`.'
)


def read_bytes(path: Path) -> bytes:
    """The file's content.

    Raises:
        CheckpointError: there is no such file or it cannot be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise CheckpointError(f"there is no file {path}. Check the path.") from None
    except OSError as error:
        raise CheckpointError(f"could not read {path}: {(error.strerror or str(error)).lower()}.") from error


def _is_pickle(data: bytes) -> bool:
    """Whether the bytes begin like a file of `torch.save`, old or new.

    A safetensors file begins with its header's length, which may well begin with a pickle's 0x80; but its header
    follows after eight bytes.
    """
    return data.startswith((_ZIP, _PICKLE)) and data[8:9] != b"{"


def parse_tensors(data: bytes, path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata from the bytes of a safetensors file; `path` is for messages.

    Raises:
        CheckpointError: the bytes are no whole safetensors file.
    """
    if data.startswith(_LFS):
        raise CheckpointError(f"{path} is a Git LFS pointer, not the file itself. Fetch it with `git lfs pull`.")
    if _is_pickle(data):
        raise CheckpointError(
            f"{path} is a pickle (a file of `torch.save`), not a safetensors file. A pickle can run any code when it "
            f"is loaded, so none is opened here. {_RESAVE}"
        )
    try:
        tensors = load(data)
        (length,) = struct.unpack_from("<Q", data)
        metadata = read_json(data[8 : 8 + length]).get("__metadata__") or {}
    except (SafetensorError, ValueError, KeyError, TypeError, struct.error) as error:
        raise CheckpointError(
            f"{path} is no safetensors file, or it is cut short or damaged ({error}). Use an intact copy."
        ) from error
    return tensors, metadata


def check_digest(data: bytes, sha256: str, path: Path, remedy: str) -> None:
    """Raise unless a file's bytes are those that were written.

    Args:
        data: the file's content.
        sha256: digest of what was written.
        path: for the message.
        remedy: how to get them back, as a sentence.

    Raises:
        CheckpointError: they are others.
    """
    if hashlib.sha256(data).hexdigest() != sha256:
        raise CheckpointError(f"{path} has changed since it was saved (its SHA-256 differs). {remedy}")


def load_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors, on the CPU, and metadata of a safetensors file. No code in the file is ever run.

    Raises:
        CheckpointError: the file is missing, damaged, or of another kind.
    """
    return parse_tensors(read_bytes(Path(path)), Path(path))


def _state_dict(content: Any, path: Path) -> dict[str, Tensor]:
    """The mapping of tensors in what `torch.load` gave, out of the wrapping that training scripts put around it."""
    for key in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(
            f"{path} holds a {type(content).__name__}, not the tensors of a `state_dict()`. {_RESAVE}"
        )
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise CheckpointError(
                f"{path}: the entry {name!r} is a {type(value).__name__}, not a tensor, so this is no `state_dict()`. "
                f"{_RESAVE}"
            )
    prefix = "module." if all(name.startswith("module.") for name in content) else ""  # left by DataParallel
    return {name.removeprefix(prefix): value for name, value in content.items()}


def load_weights(path: str | Path) -> dict[str, Tensor]:
    """A user's float weights by name, on the CPU.

    Takes a safetensors file, or a file of ``torch.save(model.state_dict(), path)``, which is read with
    ``weights_only=True``: tensors and plain containers, never code. A wrapping such as ``{"state_dict": …}`` and the
    prefix ``module.`` of data-parallel training are taken off.

    Raises:
        CheckpointError: missing, damaged, or with Python objects inside.
    """
    path = Path(path)
    data = read_bytes(path)
    if path.suffix == ".safetensors" or not _is_pickle(data):
        return parse_tensors(data, path)[0]
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file may raise nearly anything
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"{path} could not be read as plain tensors: it is damaged, or it is a pickle with Python objects inside "
            f"(a whole model, an optimiser, a scripted module), and those can run any code ({reason}). {_RESAVE}"
        ) from error
    return _state_dict(content, path)
