"""Everything that a run is given by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sigmaquant.errors import DataError
from sigmaquant.frontends.data import load_data, place_of
from sigmaquant.frontends.factories import load_metric, load_object, load_task
from sigmaquant.frontends.models import load_model


def load_inputs(
    model: str,
    weights: Path | None,
    train: str,
    val: str | None,
    test: str | None,
    metric: str | None,
    loss: str | None,
    batch_size: int,
    task: str | None = None,
) -> dict[str, Any]:
    """All that `quantize` and `Job` are given by name, under the names of their arguments.

    Raises:
        DataError: two of training, validation and test data are the same.
        SigmaQuantError: see `load_model`, `load_data` and `load_object`.
    """
    trains, validates, tests = place_of(train, "train"), place_of(val, "train"), place_of(test, "test")
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
        "task": load_task(task),
        "metric": load_metric(metric),
        "loss": None if loss is None else load_object(loss, "the loss"),
    }
