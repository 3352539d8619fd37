"""A Keras file as Keras reads it, once its layers are known to be ones that can be read."""

from __future__ import annotations

import json
import os
import shutil
import sys
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sigmaquant.errors import MissingExtraError, ModelFileError
from sigmaquant.json_text import read_json
from sigmaquant.runs.scratch import ScratchFolder

_CONTAINERS = ("Functional", "Model", "Sequential")
_WITHOUT_GROUPS = ("DepthwiseConv1D", "DepthwiseConv2D", "SeparableConv1D", "SeparableConv2D")


def keras_library() -> Any:
    """The library ``keras``, on PyTorch unless something else has been chosen.

    Raises:
        MissingExtraError: it is not installed.
        ModelFileError: it is older than version 3, or its backend is missing.
    """
    if "keras" not in sys.modules:
        os.environ.setdefault("KERAS_BACKEND", "torch")
    try:
        import h5py  # noqa: F401
        import keras
    except ModuleNotFoundError as error:
        if error.name not in ("keras", "h5py"):
            raise ModelFileError(
                f"Keras cannot be imported: {error}. Set KERAS_BACKEND=torch, or install that package."
            ) from error
        raise MissingExtraError("Reading Keras files", "keras") from None
    if int(keras.__version__.partition(".")[0]) < 3:
        raise ModelFileError(f'Keras {keras.__version__} is too old: pip install "keras>=3".')
    return keras


def open_keras(path: Path, known: frozenset[str]) -> Any:
    """The model of a ``.keras`` or HDF5 file.

    Args:
        path: the file.
        known: classes of layers and operations that can be read.

    Raises:
        ModelFileError: no such file, no Keras network, damaged, or layers that are not read.
        MissingExtraError: the extra ``keras`` is not installed.
    """
    keras = keras_library()
    if not path.is_file():
        raise ModelFileError(f"there is no file {path}.")
    config = _config(path)
    _refuse_unknown(path, config, known)
    with ScratchFolder() as folder:
        readable = _without_old_options(path, config, folder)
        try:
            return keras.saving.load_model(str(readable), compile=False)
        except Exception as error:
            lines = str(error).strip().splitlines()
            raise ModelFileError(
                f"{path} cannot be read by Keras {keras.__version__}: {type(error).__name__}: "
                f"{lines[0] if lines else ''} Save it again with a newer Keras, as .keras."
            ) from error


def _config(path: Path) -> dict[str, Any]:
    """The architecture as it is written in the file."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                text = archive.read("config.json")
        else:
            import h5py

            with h5py.File(path, "r") as file:
                text = file.attrs.get("model_config")
            if text is None:
                raise ModelFileError(
                    f"{path} holds weights without the network. Save the whole of it: model.save('net.keras')."
                )
        found = read_json(text)
        if not isinstance(found, dict):
            raise ValueError("its description of the network is no JSON object")
    except (OSError, KeyError, ValueError, TypeError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        raise ModelFileError(f"{path} cannot be read as a Keras file: {error}. Save it again.") from error
    return found


def _layers(config: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every layer's entry, those of nested models and of wrappers too; the entries themselves."""
    inner = config.get("config", {})
    entries = inner if isinstance(inner, list) else inner.get("layers", [])  # the oldest files have a list
    for entry in entries:
        if entry.get("class_name") in _CONTAINERS:
            yield from _layers(entry)
            continue
        yield entry
        for wrapped in ("layer", "backward_layer"):
            below = entry.get("config", {}).get(wrapped)
            if isinstance(below, dict):
                yield from _layers(below) if below.get("class_name") in _CONTAINERS else (below,)


def _refuse_unknown(path: Path, config: dict[str, Any], known: frozenset[str]) -> None:
    if config.get("class_name") not in _CONTAINERS:
        raise ModelFileError(
            f"{path} holds a {config.get('class_name')}, whose calls are Python code and not in the file. Rebuild it "
            "with keras.Input and keras.Model, or export it to ONNX: model.export('net.onnx', format='onnx')."
        )
    unknown: dict[str, str] = {}
    for entry in _layers(config):
        if entry["class_name"] not in known:
            unknown.setdefault(entry["class_name"], entry.get("config", {}).get("name", "?"))
    if unknown:
        listed = ", ".join(f"{kind} (first {name!r})" for kind, name in sorted(unknown.items()))
        raise ModelFileError(
            f"{path} has layers that are not read: {listed}. Export the network to ONNX and give that file: "
            "model.export('net.onnx', format='onnx'), or python -m tf2onnx.convert --keras net.h5 --output net.onnx."
        )


def _without_old_options(path: Path, config: dict[str, Any], folder: Path) -> Path:
    """The file, or a copy without the options of old versions that Keras 3 has never heard of."""
    changed = False
    for entry in _layers(config):
        if entry["class_name"] in _WITHOUT_GROUPS and entry["config"].get("groups") == 1:
            del entry["config"]["groups"]
            changed = True
    if not changed or zipfile.is_zipfile(path):
        return path
    import h5py

    copy = folder / "model.h5"
    shutil.copyfile(path, copy)
    with h5py.File(copy, "r+") as file:
        file.attrs["model_config"] = json.dumps(config)
    return copy
