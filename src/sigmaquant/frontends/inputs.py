"""Everything that a run is given by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qs

from sigmaquant.data import cifar10_data
from sigmaquant.data.cifar10 import MEAN, STD
from sigmaquant.errors import DataError
from sigmaquant.frontends.factories import call_factory, load_metric, load_object
from sigmaquant.frontends.models import load_model


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
        return call_factory(spec, what)
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
