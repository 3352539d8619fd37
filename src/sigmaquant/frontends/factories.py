"""Models, data and callables named by text: ``package.module:factory``, ``path/file.py:factory``, ``cifar10:DIR``."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, Literal
from urllib.parse import parse_qs

from torch import nn

from sigmaquant.data import cifar10_data
from sigmaquant.data.cifar10 import MEAN, STD
from sigmaquant.errors import CheckpointError, DataError, SigmaQuantError, near_matches
from sigmaquant.runs import load_weights

_FORM = "Write it as package.module:factory or path/file.py:factory."


def load_object(spec: str, what: str) -> Any:
    """The object that a text names; modules are looked for in the working directory, or in the folder of its file, too.

    Args:
        spec: ``package.module:name`` or ``path/file.py:name``.
        what: for messages, such as ``"the model"``.

    Raises:
        SigmaQuantError: no such module, file or name, or the import fails.
    """
    source, separator, name = spec.rpartition(":")
    if not separator or not source or not name:
        raise SigmaQuantError(f"{what} {spec!r} names no factory. {_FORM}")
    module = _import(source, what)
    if not hasattr(module, name):
        public = [n for n in vars(module) if not n.startswith("_")]
        raise SigmaQuantError(f"{what}: {source} has no {name!r}. {near_matches(name, public)}")
    return getattr(module, name)


def _import(source: str, what: str) -> ModuleType:
    try:
        if not source.endswith(".py"):
            if "" not in sys.path:
                _find_modules_in(Path.cwd())
            return importlib.import_module(source)
        path = Path(source)
        if not path.is_file():
            raise SigmaQuantError(f"{what}: there is no file {source}. {_FORM}")
        _find_modules_in(path.resolve().parent)
        name = f"{path.stem}_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]}"
        if name in sys.modules:  # model and data often come from one file: its state is shared
            return sys.modules[name]
        found = importlib.util.spec_from_file_location(name, path)
        assert found is not None, "a .py file has a spec"
        assert found.loader is not None, "and a loader"
        module = importlib.util.module_from_spec(found)
        sys.modules[name] = module
        try:
            found.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
        return module
    except SigmaQuantError:
        raise
    except (Exception, SystemExit) as error:
        remedy = ""
        if isinstance(error, SystemExit):
            remedy = 'Put what a script does of its own under if __name__ == "__main__".'
        if isinstance(error, ModuleNotFoundError) and error.name is not None:
            named = f"{source}.".startswith(f"{error.name}.")  # by the user, and not by an import in the user's code
            remedy = _FORM if named else f"Install {error.name!r}, or put it beside the file."
        raise SigmaQuantError(
            f"{what}: {source} cannot be imported: {type(error).__name__}: {error}. {remedy}".rstrip()
        ) from error


def _find_modules_in(folder: Path) -> None:
    """As Python does for the folder of a script, and for as long: a factory may import when it is called."""
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def _call(spec: str, what: str) -> Any:
    target = load_object(spec, what)
    if isinstance(target, nn.Module) or not callable(target):  # a finished model can be called too
        return target
    try:
        return target()
    except SigmaQuantError:
        raise
    except (Exception, SystemExit) as error:
        raise SigmaQuantError(f"{what}: the factory {spec} failed: {type(error).__name__}: {error}") from error


def load_model(spec: str, weights: Path | None = None) -> nn.Module:
    """The model that a factory makes, with weights from a file if given.

    Raises:
        SigmaQuantError: the factory fails or gives no `nn.Module`.
        CheckpointError: the weights do not fit.
    """
    model = _call(spec, "the model") if ":" in spec else load_object(spec, "the model")
    if not isinstance(model, nn.Module):
        raise SigmaQuantError(f"the model: {spec} gives a {type(model).__name__}, not a torch.nn.Module.")
    if weights is not None:
        tensors = load_weights(weights)
        try:
            result = model.load_state_dict(tensors, strict=False)
        except RuntimeError as error:  # of another shape
            raise CheckpointError(f"{weights} does not fit {spec}: {str(error).splitlines()[-1].strip()}") from error
        missing = [key for key in result.missing_keys if not key.endswith("num_batches_tracked")]
        for what, keys in (("lacks", missing), ("has the unknown", result.unexpected_keys)):
            if keys:
                raise CheckpointError(f"{weights} does not fit {spec}: it {what} {keys[0]!r} ({len(keys)} in all).")
    return model.eval()


def load_metric(spec: str) -> Any:
    """The function that a text names, or the name of a metric as it is.

    Raises:
        SigmaQuantError: see `load_object`.
    """
    return load_object(spec, "the metric") if ":" in spec else spec


def load_data(spec: str, split: Literal["train", "test"], what: str, batch_size: int = 128) -> Any:
    """Data for `sigmaquant.data.as_source`.

    ``cifar10:DIR`` reads the folder that `sigmaquant.data.cifar10` describes; ``cifar10:DIR?mean=R,G,B&std=R,G,B``
    normalises as the network was trained.

    Args:
        spec: a factory, or ``cifar10:DIR``.
        split: which part of CIFAR-10.
        what: for messages.
        batch_size: examples in a batch of CIFAR-10; what a factory gives keeps its own, or gets one from `as_source`.

    Raises:
        SigmaQuantError: the factory fails.
        DataError: the folder cannot be read, or the options are malformed.
    """
    if not spec.startswith("cifar10:"):
        return _call(spec, what)
    directory, _, query = spec.removeprefix("cifar10:").partition("?")
    options = parse_qs(query)
    unknown = set(options) - {"mean", "std"}
    if unknown:
        raise DataError(f"{what}: {spec!r} has the unknown option {sorted(unknown)[0]!r}; known are 'mean' and 'std'.")
    values = {}
    for name, default in (("mean", MEAN), ("std", STD)):
        try:
            numbers = [float(v) for v in options[name][0].split(",")] if name in options else list(default)
        except ValueError:
            numbers = []
        if len(numbers) != 3:
            raise DataError(f"{what}: the {name} of {spec!r} must be three numbers, like {name}=0.5,0.5,0.5.")
        values[name] = numbers
    data = cifar10_data(directory, mean=values["mean"], std=values["std"], batch_size=batch_size)
    return data.train if split == "train" else data.test


def _source(spec: str | None, split: Literal["train", "test"]) -> tuple[str | Path, str] | None:
    """What a text names, however it is written: a factory, or a part of CIFAR-10."""
    if spec is None:
        return None
    if spec.startswith("cifar10:"):
        return Path(spec.removeprefix("cifar10:").partition("?")[0]).resolve(), split
    source, _, name = spec.rpartition(":")
    return Path(source).resolve() if source.endswith(".py") else source, name


def load_inputs(
    model: str,
    weights: Path | None,
    train: str,
    val: str | None,
    test: str | None,
    metric: str,
    loss: str | None,
    batch_size: int,
) -> dict[str, Any]:
    """All that `quantize` and `Job` are given by name, under the names of their arguments.

    Raises:
        DataError: two of training, validation and test data are the same.
        SigmaQuantError: see `load_model`, `load_data` and `load_object`.
    """
    trains, validates, tests = _source(train, "train"), _source(val, "train"), _source(test, "test")
    if validates == trains:
        raise DataError(
            f"the validation data {val!r} are the training data: every decision would be judged on examples that the "
            "network has trained on. Leave out --val, so that a part of the training data is held out, or give others."
        )
    if tests is not None and tests in (trains, validates):
        other = "training" if tests == trains else "validation"
        raise DataError(
            f"the test data {test!r} are the {other} data: their score would say nothing about examples that no "
            "decision has seen. Leave out --test, or give others."
        )
    return {
        "model": load_model(model, weights),
        "train_data": load_data(train, "train", "the training data", batch_size),
        "validation_data": None if val is None else load_data(val, "train", "the validation data", batch_size),
        "test_data": None if test is None else load_data(test, "test", "the test data", batch_size),
        "metric": load_metric(metric),
        "loss": None if loss is None else load_object(loss, "the loss"),
    }
