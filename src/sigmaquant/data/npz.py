"""`npz_arrays`: inputs and targets from a file of NumPy's."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

from numpy.typing import NDArray

from sigmaquant.data.arrays import npy_array
from sigmaquant.errors import DataError

_PAIRS = (("inputs", "targets"), ("x", "y"), ("images", "labels"), ("data", "labels"), ("data", "targets"))


def npz_arrays(
    path: str | Path, split: Literal["train", "test"], inputs: str | None = None, targets: str | None = None
) -> tuple[NDArray[Any] | dict[str, NDArray[Any]], NDArray[Any]]:
    """Inputs ``[n, …]`` and targets ``[n, …]`` of a ``.npz`` file.

    Where the file has ``x_train`` and ``x_test``, or other names with these ends, the split decides; else it has one
    pair of arrays: ``inputs`` and ``targets``, ``x`` and ``y``, or ``images`` and ``labels``. Of a file with ``labels``
    and none of these, all other arrays are inputs, by the names of the model's arguments.

    Args:
        path: the file.
        split: see above.
        inputs: name of the inputs, or several names with commas; None: see above.
        targets: name of the targets.

    Raises:
        DataError: no such file, damaged, or without these arrays.
    """
    try:
        with zipfile.ZipFile(path) as file:
            names = [name.removesuffix(".npy") for name in file.namelist()]
            pair = _pair(names, split, inputs, targets)
            unknown = pair is None or not set(pair) <= set(names)
            named = _named(names, split, inputs, targets) if unknown else None
            if named is not None:
                several, target = named
                return {argument: _member(file, name) for argument, name in several.items()}, _member(file, target)
            if pair is None or unknown:
                raise DataError(
                    f"{path} has the arrays {', '.join(names)}. Name the two to read: "
                    f"{Path(path).name}?inputs=NAME&targets=NAME."
                )
            return _member(file, pair[0]), _member(file, pair[1])
    except (DataError, MemoryError):
        raise
    except Exception as error:  # of a damaged archive; zipfile, zlib and the format each have their own
        raise DataError(f"{path} cannot be read as a .npz file: {error}. Save it with numpy.savez.") from error


def _member(file: zipfile.ZipFile, name: str) -> NDArray[Any]:
    info = file.getinfo(f"{name}.npy")
    with file.open(info) as opened:
        return npy_array(cast(BinaryIO, opened), info.file_size)


def _named(names: list[str], split: str, inputs: str | None, targets: str | None) -> tuple[dict[str, str], str] | None:
    """Several inputs by the names of arguments, and the name of the targets; None: there are none."""
    wanted = [] if inputs is None else [name.strip() for name in inputs.split(",")]
    for start, end in (("", f"_{split}"), (f"{split}_", ""), ("", "")):
        known = {name[len(start) : len(name) - len(end)]: name for name in names if _has_ends(name, start, end)}
        target = known.pop(targets or "labels", None)
        several = {name: known[name] for name in wanted or known if name in known}
        if target is not None and several and len(several) >= len(wanted):
            return several, target
    return None


def _has_ends(name: str, start: str, end: str) -> bool:
    return name.startswith(start) and name.endswith(end)


def _pair(names: list[str], split: str, inputs: str | None, targets: str | None) -> tuple[str, str] | None:
    if inputs is not None and targets is not None:
        return inputs, targets
    for first, second in _PAIRS:
        for pattern in (f"{{}}_{split}", f"{split}_{{}}", "{}"):
            pair = pattern.format(inputs or first), pattern.format(targets or second)
            if set(pair) <= set(names):
                return pair
    return None
