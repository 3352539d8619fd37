"""What users get wrong about data, and what they are told."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from sigmaquant.data import as_source
from sigmaquant.errors import DataError

X = torch.zeros(6, 2)
Y = torch.zeros(6, dtype=torch.long)


class Items(Dataset):
    def __init__(self, items: list[object]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> object:
        item = self.items[index]
        if isinstance(item, Exception):
            raise item
        return item


class NoLength(Dataset):
    def __getitem__(self, index: int) -> object:
        return X[0], 0


class Once:
    """Gives the same iterator every time."""

    def __init__(self) -> None:
        self.iterator = iter([(X, Y)])

    def __iter__(self):
        return self.iterator


def bad(value: float) -> torch.Tensor:
    inputs = X.clone()
    inputs[3, 1] = value
    return inputs


CASES = {
    "nothing": (None, r"the training data is a NoneType\. Pass a pair"),
    "number": (3, r"is a int\. Pass a pair"),
    "text": ("path/to/data", r"is a str\. Pass a pair"),
    "dictionary": ({"x": X}, r"is a dict with the keys \['x'\], but without targets 'labels'"),
    "one tensor": (X, r"is one Tensor of shape \(6, 2\), without targets"),
    "one array": (X.numpy(), r"is one ndarray of shape \(6, 2\), without targets"),
    "empty pair": ((X[:0], Y[:0]), "has no examples"),
    "empty list": ([], "the training data is empty"),
    "empty dataset": (Items([]), "the training data is empty"),
    "empty loader": (DataLoader(Items([(X[0], 0)]), batch_size=4, drop_last=True), "the training data is empty"),
    "empty batch": ([(X[:0], Y[:0])], "batch 0 has no examples"),
    "lengths": ((X, Y[:5]), r"6 inputs but targets of shape \(5,\)\. The first dimensions must be equal"),
    "lengths in a batch": ([(X, Y[:5])], r"batch 0: 6 inputs but targets of shape \(5,\)"),
    "lengths of inputs": (((X, X[:5]), Y), r"the inputs have \[6, 5\] examples"),
    "no batch dimension": ([(torch.tensor(1.0), Y)], "has no batch dimension"),
    "sparse inputs": ((X.to_sparse(), Y), r"the input is a sparse_coo tensor\. Give its to_dense\(\)"),
    "scalar targets": ([(X, torch.tensor(1))], r"6 inputs but targets of shape \(\)"),
    "no pair": ([X, X, X], r"batch 0 is a Tensor of shape \(6, 2\), not a pair"),
    "triples": ([(X, X, Y)], r"batch 0 is a tuple of 3 items, not a pair"),
    "dictionary batch": ([{"x": X, "y": Y}], r"batch 0 is a dict with the keys .* but without targets"),
    "dictionary of numbers": ([({"ids": 3}, Y)], r"input 'ids' is a int, not a tensor"),
    "text inputs": ([(["a", "b"], Y)], r"input 0 is a str, not a tensor"),
    "no inputs": ([(None, Y)], r"the input is a NoneType, not a tensor"),
    "single examples": ([(X[0], 1), (X[1], 0)], r"the targets are 1, not a tensor\. .*wrap them in a torch Dataset"),
    "missing targets": ([(X, None)], "the targets are None"),
    "targets in a dictionary": ([(X, {"boxes": Y})], r"the targets are a dict, not a tensor\. Give one tensor"),
    "several targets": ([(X, (Y, Y[:2]))], r"the targets are a tuple, not a tensor\. Give one tensor"),
    "array of text": ((np.array(["a", "b"]), np.zeros(2)), r"has the dtype <U1, which holds no numbers"),
    "array of objects": ((np.array([X, None], dtype=object), np.zeros(2)), "has the dtype object"),
    "complex": ((X.to(torch.complex64), Y), "the inputs are complex64"),
    "uint8": ((X.byte(), Y), "the inputs are uint8, which layers do not take"),
    "nan": ((bad(float("nan")), Y), "1 of 12 input values are NaN or infinite"),
    "infinite": ([(bad(float("inf")), Y)], "batch 0: 1 of 12 input values are NaN or infinite"),
    "generator": (((X, Y) for _ in range(3)), r"is a generator, which can be read only once, .*Pass a list of batches"),
    "iterator": (iter([(X, Y)]), r"is a list_iterator, which can be read only once"),
    "no length": (NoLength(), r"is a NoLength without a length\. Give it `__len__`"),
    "dataset triples": (Items([(X[0], X[0], 0)] * 3), r"example 0 of the training data is a tuple, not a pair"),
    "dataset tensors": (Items([X[0]] * 3), r"example 0 of the training data is a Tensor, not a pair"),
    "ragged": (Items([(X[0], 0), (X[0, :1], 0)]), r"cannot be put into one batch .*one shape and type"),
    "broken dataset": (Items([(X[0], 0), OSError("no disk")]), r"example 1 of .* could not be read: OSError: no disk"),
    "broken loader": (
        DataLoader(Items([(X[0], 0), OSError("no disk")]), batch_size=2),
        r"batch 0 of the training data could not be read: OSError: no disk",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_messages(case: str) -> None:
    data, message = CASES[case]
    with pytest.raises(DataError, match=f"(?s){message}") as caught:
        as_source(data, name="training data")
    assert "the training data" in str(caught.value)


@pytest.mark.parametrize("size", [0, -3, True, 2.0])
def test_batch_size(size: object) -> None:
    with pytest.raises(DataError, match="the batch size of the data is"):
        as_source((X, Y), batch_size=size)  # type: ignore[arg-type]


def test_an_iterable_that_is_used_up() -> None:
    source = as_source(Once())  # reads the only batch there is
    with pytest.raises(DataError, match=r"gave no batch\. If it did before, it can be read only once"):
        list(source.batches())


def test_nan_in_a_later_batch_of_a_pair_is_found_at_once() -> None:
    inputs = torch.zeros(100, 2)
    inputs[77, 0] = float("nan")
    with pytest.raises(DataError, match="1 of 200 input values are NaN"):
        as_source((inputs, torch.zeros(100)), batch_size=4)


def test_nan_in_an_early_batch_of_a_stream_is_found_when_it_comes() -> None:
    source = as_source([(X, Y), (bad(float("nan")), Y)])
    with pytest.raises(DataError, match="batch 1: 1 of 12 input values are NaN"):
        list(source.batches())


def test_conversions() -> None:
    readonly = np.zeros((4, 2), dtype=">f8")[::-1]
    readonly.flags.writeable = False
    for targets, dtype in (
        (np.zeros(4, dtype=np.uint16), torch.int64),
        (np.zeros(4, dtype=np.int32), torch.int64),
        (np.zeros(4), torch.float32),
        (np.zeros(4, dtype=bool), torch.bool),
    ):
        inputs, converted = next(as_source((readonly, targets)).batches())
        assert inputs.dtype == torch.float32  # type: ignore[union-attr]
        assert converted.dtype == dtype
    tokens, _ = next(as_source((np.zeros((4, 3), dtype=np.int64), np.zeros(4))).batches())
    assert tokens.dtype == torch.int64  # type: ignore[union-attr]
