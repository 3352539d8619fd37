"""`npz_arrays`: inputs and targets from a file of NumPy's."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sigmaquant.errors import DataError

_PAIRS = (("inputs", "targets"), ("x", "y"), ("images", "labels"), ("data", "labels"), ("data", "targets"))


def npz_arrays(
    path: str | Path, split: Literal["train", "test"], inputs: str | None = None, targets: str | None = None
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Inputs ``[n, …]`` and targets ``[n, …]`` of a ``.npz`` file.

    Where the file has ``x_train`` and ``x_test``, or other names with these ends, the split decides; else it has one
    pair of arrays: ``inputs`` and ``targets``, ``x`` and ``y``, or ``images`` and ``labels``.

    Args:
        path: the file.
        split: see above.
        inputs: name of the inputs; None: see above.
        targets: name of the targets.

    Raises:
        DataError: no such file, damaged, or without these arrays.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            names = file.files
            pair = _pair(names, split, inputs, targets)
            if pair is None or not set(pair) <= set(names):
                raise DataError(
                    f"{path} has the arrays {', '.join(names)}. Name the two to read: "
                    f"{Path(path).name}?inputs=NAME&targets=NAME."
                )
            return file[pair[0]], file[pair[1]]
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} cannot be read as a .npz file: {error}. Save it with numpy.savez.") from error


def _pair(names: list[str], split: str, inputs: str | None, targets: str | None) -> tuple[str, str] | None:
    if inputs is not None and targets is not None:
        return inputs, targets
    for first, second in _PAIRS:
        for pattern in (f"{{}}_{split}", f"{split}_{{}}", "{}"):
            pair = pattern.format(inputs or first), pattern.format(targets or second)
            if set(pair) <= set(names):
                return pair
    return None
