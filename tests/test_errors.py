"""The exception tree, and the words that help with a misspelt name."""

from __future__ import annotations

import inspect
import pickle

import pytest

from sigmaquant import errors
from sigmaquant.errors import MissingExtraError, SigmaQuantError, StorageError, UnknownLayerError, near_matches

CLASSES = [value for _, value in inspect.getmembers(errors, inspect.isclass) if issubclass(value, Exception)]


@pytest.mark.parametrize("kind", CLASSES)
def test_one_tree_with_exit_codes_and_docstrings(kind: type[SigmaQuantError]) -> None:
    assert issubclass(kind, SigmaQuantError)
    assert kind.exit_code != 0
    assert kind.__doc__


@pytest.mark.parametrize("kind", [kind for kind in CLASSES if kind is not MissingExtraError])
def test_messages_are_shown_as_they_are_and_survive_workers(kind: type[SigmaQuantError]) -> None:
    error = kind("what happened: 'x'.")
    assert str(error) == "what happened: 'x'."
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert str(copy) == str(error)


def test_built_in_bases_let_callers_catch_the_usual_way() -> None:
    assert issubclass(UnknownLayerError, KeyError)
    assert issubclass(StorageError, OSError)
    assert issubclass(MissingExtraError, ImportError)
    for kind in (errors.UnitsError, errors.BudgetError, errors.PlanError, errors.DataError, errors.MetricError):
        assert issubclass(kind, ValueError)


def test_missing_extra_names_the_command() -> None:
    message = 'Reading images needs an optional dependency. Install it with: pip install "sigmaquant[cifar10]"'
    assert str(MissingExtraError("Reading images", "cifar10")) == message


def test_near_matches() -> None:
    layers = [f"layer{stage}.conv{number}" for stage in range(1, 4) for number in range(1, 5)]
    assert near_matches("layer1.cnv1", layers).startswith("Did you mean 'layer1.conv1'")
    assert near_matches("layer1.conv1", layers, limit=1) == "Did you mean 'layer1.conv1'?"
    assert near_matches("zzz", ["a", "b"]) == "Known names: 'a', 'b'."
    assert near_matches("zzz", layers).endswith(", ….")
    assert near_matches("zzz", []) == "Known names: ."
