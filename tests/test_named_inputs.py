"""Batches that are mappings, and inputs in tuples and mappings: from the data to verified files."""

from __future__ import annotations

from collections import UserDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import command
import sigmaquant
from sigmaquant.data import Keys, as_source
from sigmaquant.errors import DataError
from sigmaquant.tasks import Classification, TokenTagging
from sigmaquant.workflow.exporting import verify_run
from sigmaquant.workflow.loading import keys_of

HERE = Path(__file__)
QUICK: dict[str, Any] = {"budget": "2x", "post_training": True, "batch_size": 16}


class Gated(nn.Module):
    """Two inputs that differ, one of them optional in the middle of the signature; outputs in a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(6, 24), nn.Linear(4, 24), nn.Linear(24, 3)

    def forward(self, features: Tensor, extra: Tensor | None = None, mask: Tensor | None = None, labels: Any = None):
        assert labels is None, "targets are no inputs"
        x = self.first(features).relu()
        if extra is not None:
            x = x + extra
        if mask is not None:
            x = x + self.second(mask).relu()
        return {"hidden": x, "logits": self.head(x)}


def model() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Gated().eval()


def data(count: int = 48, seed: int = 1) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    features, mask = torch.randn(count, 6, generator=generator), torch.randn(count, 4, generator=generator)
    with torch.no_grad():
        labels = model()(features, mask=mask)["logits"].argmax(1)
    return {"mask": mask, "labels": labels, "unused": torch.zeros(count, 2), "features": features}


class Rows(Dataset[Any]):
    """As of Hugging Face: a mapping for each example, with lists of numbers and texts."""

    def __init__(self, table: dict[str, Tensor]) -> None:
        self.table = table

    def __len__(self) -> int:
        return len(self.table["labels"])

    def __getitem__(self, index: int) -> Any:
        row: dict[str, Any] = {name: column[index].tolist() for name, column in self.table.items()}
        return UserDict(row, text="a sentence", words=["a", "sentence"])


def pairs(table: dict[str, Tensor]) -> list[Any]:
    return [
        ({name: table[name][i : i + 16] for name in ("mask", "features")}, table["labels"][i : i + 16])
        for i in range(0, 48, 16)
    ]


class Table:
    """As Hugging Face's data sets: rows by number, and no torch Dataset."""

    column_names = ("labels", "mask", "features")

    def __init__(self, table: dict[str, Tensor]) -> None:
        self.rows = Rows(table)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        return self.rows[index]

    def __iter__(self) -> Any:
        return iter([self.rows[index] for index in range(len(self))])


FORMS = {
    "mapping": lambda table: table,
    "arrays": lambda table: {name: column.numpy() for name, column in table.items()},
    "pair": lambda table: ({name: table[name] for name in ("mask", "features")}, table["labels"]),
    "batches": lambda table: [{n: c[i : i + 16] for n, c in table.items()} for i in range(0, 48, 16)],
    "batches of pairs": pairs,
    "batch encodings": lambda table: [UserDict({n: c[i : i + 16] for n, c in table.items()}) for i in range(0, 48, 16)],
    "data set": lambda table: Rows(table),
    "table": lambda table: Table(table),
    "loader": lambda table: DataLoader(Rows(table), batch_size=16, collate_fn=lambda rows: {
        name: torch.tensor([row[name] for row in rows]) for name in ("labels", "mask", "features")}),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_batches_come_in_the_order_of_the_arguments(form: str) -> None:
    table = data()
    keys = Keys(("features", "extra", "mask"))
    source = as_source(FORMS[form](table), batch_size=16, keys=keys)
    batches = list(source.batches())
    assert all(len(inputs) == 2 for inputs, _ in batches)
    torch.testing.assert_close(torch.cat([inputs[0] for inputs, _ in batches]), table["features"])
    torch.testing.assert_close(torch.cat([inputs[1] for inputs, _ in batches]), table["mask"])
    assert torch.equal(torch.cat([targets for _, targets in batches]), table["labels"])
    assert list(source.example_structure()) == ["features", "mask"]
    few = source.take(20)
    assert list(few.example_structure()) == ["features", "mask"]
    assert sum(len(targets) for _, targets in few.batches()) == 20


def test_columns_that_a_model_takes_by_kwargs_alone() -> None:
    class Anything(nn.Module):
        def forward(self, **inputs: Tensor) -> Tensor:
            return inputs["b"] + inputs["a"]

    class Some(nn.Module):
        def forward(self, a: Tensor, **others: Tensor) -> Tensor:
            return a

    table = {"labels": torch.zeros(4), "b": torch.ones(4, 2), "a": torch.zeros(4, 2)}
    for model, names in ((Anything(), ["a", "b"]), (Some(), ["a"])):
        source = as_source(table, keys=keys_of(model, Classification()))
        assert list(source.example_structure()) == names


def test_a_transform_sees_the_mapping() -> None:
    def doubled(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        return {**inputs, "features": 2 * inputs["features"]}

    table = data()
    source = as_source(table, transform=doubled, keys=Keys(("features", "mask")))
    torch.testing.assert_close(source.example()[0], 2 * table["features"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"features": torch.zeros(4, 2)}, r"is a dict with the keys \['features'\], but without targets"),
        (
            [{"x": torch.zeros(4, 2), "y": torch.zeros(4)}],
            r"batch 0 is a dict .*keys \['x', 'y'\], but without targets",
        ),
        ({"labels": torch.zeros(4), "text": ["a"] * 4}, "besides 'labels' it has no array"),
        ({"labels": torch.zeros(4), "x": torch.zeros(3, 2)}, "3 inputs but targets of shape"),
        (
            [({"a": torch.zeros(4, 2)}, torch.zeros(4)), ({"b": torch.zeros(4, 2)}, torch.zeros(4))],
            r"the inputs are \{'b': 'tensor'\}, in batch 0 \{'a': 'tensor'\}",
        ),
    ],
)
def test_mappings_that_cannot_be_read(given: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        list(as_source(given).batches())


def test_targets_under_another_key() -> None:
    class Mine(Classification):
        target = "answer"

    table = data()
    table["answer"] = table.pop("labels")
    result = sigmaquant.quantize(model(), table, task=Mine(), **QUICK)
    assert result.float_scores.validation == 1


def test_from_a_mapping_to_verified_files(tmp_path: Path) -> None:
    table, test = data(), data(32, seed=2)
    result = sigmaquant.quantize(
        model(), table, validation_data=data(40, seed=3), test_data=test, run_dir=tmp_path / "run",
        budget="2x", batch_size=16, cycle_examples=32, final_epochs=1, max_cycles=1, sensitivity_examples=16,
        export=["onnx", "packed"],
    )  # fmt: skip
    assert result.float_scores.test == 1
    assert any("'unused' are no arguments of the model" in note for note in result.notes)
    assert all(verdict.passed for verdict in result.files)
    scores = sigmaquant.evaluate_run(model(), Rows(test), tmp_path / "run")
    assert scores["quantized"] == result.scores.test
    assert all(v.passed for v in verify_run(model(), tmp_path / "run", FORMS["batches"](data(48, seed=4))))


class Nested(nn.Module):
    """A tuple within the arguments, and outputs nested in tuples, lists and dicts."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(5, 16), nn.Linear(3, 16), nn.Linear(2, 16)
        self.tags, self.rest = nn.Linear(16, 4), nn.Linear(16, 2)

    def forward(self, x: Tensor, state: Any) -> Any:
        one, two = state["two"], state["one"]
        y = self.a(x).relu() + self.b(one).relu() + self.c(two).relu()
        return (self.tags(y), [{"rest": self.rest(y)}])


def test_nested_inputs_and_outputs(tmp_path: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Nested().eval()
        x, two, one = torch.randn(40, 7, 5), torch.randn(40, 7, 3), torch.randn(40, 7, 2)
    with torch.no_grad():
        tags = network(x, {"two": two, "one": one})[0].argmax(2)
    inputs = (x, {"two": two, "one": one})
    result = sigmaquant.quantize(
        network, (inputs, tags), task=TokenTagging(output=0), run_dir=tmp_path, export=["onnx", "c"], **QUICK
    )
    assert result.float_scores.validation == 1
    assert result.scores.validation > 0.8
    assert [verdict.passed for verdict in result.files] == [True, True]


def npz(folder: Path) -> None:
    arrays = {f"{name}_{split}": column.numpy() for split, seed in (("train", 1), ("test", 2))
              for name, column in data(seed=seed).items() if name != "unused"}  # fmt: skip
    np.savez(folder / "data.npz", **arrays)


def test_named_arrays_of_a_file_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    npz(tmp_path)
    monkeypatch.chdir(tmp_path)
    spec = f"{HERE}:model"
    quick = ("--post-training", "--batch-size", "16", "--quiet")
    for given in ("data.npz", "data.npz?inputs=mask,features"):
        again = "--overwrite" if (tmp_path / "run").exists() else "--quiet"
        parts = ("--train", given, "--test", given, "--size", "2x", "--out", "run")
        outcome = command.main("quantize", spec, *parts, *quick, again)
        assert outcome.code == 0, outcome.err
    outcome = command.main("evaluate", "run", "--model", spec, "--data", "data.npz")
    assert outcome.code == 0, outcome.err
    outcome = command.main("inspect", spec, "--data", "data.npz")
    assert outcome.code == 0, outcome.err
    assert "second" in outcome.out, "the layer that the mask goes through"
    outcome = command.main("export", "run", "--model", spec, "--data", "data.npz", "--to", "packed", "--quiet")
    assert outcome.code == 0, outcome.err
    wrong = "data.npz?inputs=mask,nothing"
    outcome = command.main("quantize", spec, "--train", wrong, "--size", "2x", "--out", "other")
    assert outcome.code == 2
    assert "has the arrays" in outcome.err
