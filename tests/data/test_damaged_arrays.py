"""Damaged files of arrays, labels and names of classes: a message that names the file, and never other numbers."""

from __future__ import annotations

import contextlib
import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sigmaquant.data import cifar10_arrays, cifar10_classes, npz_arrays
from sigmaquant.data.arrays import class_numbers, read_npy
from sigmaquant.errors import DataError

ARRAY = np.arange(12, dtype=np.int64).reshape(3, 4)


def npy(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def with_header(text: str) -> bytes:
    header = text.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(96)


HEADERS = (
    "{'descr': '<i8', 'fortran_order': False, 'shape': (10000000000000, 4), }",  # 320 TB
    "{'descr': '<i8', 'fortran_order': False, 'shape': (-3, 4), }",
    "{'descr': '|O', 'fortran_order': False, 'shape': (3,), }",
    "{'descr': '<i8', 'fortran_order': False, 'shape': (3, 4)",
    "[" * 110,
    "{'descr': 'nonsense', 'fortran_order': False, 'shape': (3, 4), }",
    "{}",
)


@pytest.mark.parametrize("content", [b"", b"text", npy(ARRAY)[:-1], npy(ARRAY)[:60], *map(with_header, HEADERS)])
def test_damaged_arrays_are_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "labels.npy"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"labels\.npy is no readable array \(.+\)\. Fetch it again"):
        read_npy(path)
    with zipfile.ZipFile(tmp_path / "all.npz", "w") as file:
        file.writestr("x.npy", content)
        file.writestr("y.npy", npy(ARRAY))
    with pytest.raises(DataError, match=r"all\.npz cannot be read as a \.npz file"):
        npz_arrays(tmp_path / "all.npz", "train")


def test_whole_arrays_are_read(tmp_path: Path) -> None:
    for array in (ARRAY, np.asfortranarray(ARRAY), np.array(3.5), np.zeros((0, 2), np.uint8)):
        np.save(tmp_path / "a.npy", array)
        assert np.array_equal(read_npy(tmp_path / "a.npy"), array)
    np.savez_compressed(tmp_path / "b.npz", x=ARRAY, y=ARRAY[:, 0])
    inputs, targets = npz_arrays(tmp_path / "b.npz", "test")
    assert np.array_equal(inputs, ARRAY)
    assert np.array_equal(targets, ARRAY[:, 0])


def test_every_cut_and_every_flipped_byte_of_a_npz_is_an_array_or_a_message(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "b.npz", x=ARRAY, y=ARRAY[:, 0])
    whole = (tmp_path / "b.npz").read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(300):
        data = bytearray(whole[: rng.integers(0, len(whole))] if rng.random() < 0.3 else whole)
        for _ in range(int(rng.integers(1, 4))):
            if data:
                data[rng.integers(0, len(data))] = rng.integers(0, 256)
        (tmp_path / "c.npz").write_bytes(data)
        with contextlib.suppress(DataError):
            npz_arrays(tmp_path / "c.npz", "test")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.array([0, 256, 1]), r"the label 256 at 1, but the classes are 0\.\.9"),
        (np.array([0, 1, -1]), r"the label -1 at 2"),
        (np.array([10, 1, 0], np.uint8), r"the label 10 at 0"),
        ([0, 1, 10**30], "no numbers|dtype object"),
        (np.array([0.0, 1.0, 2.0]), "dtype float64"),
        (np.array([0, 1]), r"shape \(2,\) .* but there are 3 images"),
        ([[0], [1, 2], [3]], "no numbers"),
    ],
)
def test_labels_never_become_other_labels(labels: Any, message: str) -> None:
    with pytest.raises(DataError, match=f"labels.npy has (labels .*)?{message}"):
        class_numbers(labels, 3, 10, "labels.npy")


@pytest.mark.parametrize("label", [10, 255, 256, -1])
def test_labels_of_archives(label: int, tmp_path: Path) -> None:
    images = np.zeros((2, 3072), np.uint8)
    (tmp_path / "test_batch").write_bytes(pickle.dumps({b"data": images, b"labels": [0, label]}, protocol=2))
    with pytest.raises(DataError, match=f"test_batch has the label {label} at 1"):
        cifar10_arrays(tmp_path, "test")
    if 0 <= label < 256:
        (tmp_path / "test_batch.bin").write_bytes(bytes(3073) + bytes([label]) + bytes(3072))
        with pytest.raises(DataError, match=f"test_batch.bin has the label {label} at 1"):
            cifar10_arrays(tmp_path, "test")


@pytest.mark.parametrize("content", [b"\xff\xfe\x00cat", b"", b"cat\ndog\n", b"cat\n" * 10])
def test_damaged_names_of_classes(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_bytes(content)
    with pytest.raises(DataError, match=r"classes\.txt (cannot be read|has \d+ names)"):
        cifar10_classes(tmp_path)


def test_only_the_formats_that_are_meant_are_decoded(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    from sigmaquant.data import ImageOptions, imagefolder_source

    (tmp_path / "classes.txt").write_text("")
    np.save(tmp_path / "test_labels.npy", np.zeros(1, np.uint8))
    image.new("RGB", (32, 32)).save(tmp_path / "test_00.webp", format="PNG")
    with pytest.raises(DataError, match=r"test_00\.webp is no readable image"):
        cifar10_arrays(tmp_path, "test")
    (tmp_path / "folder" / "cat").mkdir(parents=True)
    image.new("RGB", (32, 32)).save(tmp_path / "folder" / "cat" / "a.png", format="TGA")
    source = imagefolder_source(tmp_path / "folder", "test", ImageOptions(crop=8))
    with pytest.raises(DataError, match=r"a\.png is no readable image"):
        next(source.batches())
