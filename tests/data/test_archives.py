"""The original archives of CIFAR-10 and CIFAR-100, made small, and files of NumPy's."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sigmaquant.data import cifar10_arrays, cifar10_classes, cifar100_arrays, npz_arrays
from sigmaquant.errors import DataError

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (10, 3, 32, 32), dtype=np.uint8)
NAMES = tuple("abcdefghij")
LABELS = RNG.integers(0, 10, 10).astype(np.uint8)


def binary(path: Path, images: Any, *labels: Any) -> None:
    columns = [np.asarray(column)[:, None] for column in labels]
    np.concatenate([*columns, images.reshape(len(images), -1)], 1).astype(np.uint8).tofile(path)


def test_cifar10(tmp_path: Path) -> None:
    for kind in ("bin", "py"):
        folder = tmp_path / kind / f"cifar-10-batches-{kind}"
        folder.mkdir(parents=True)
        for part in range(5):
            images, labels = IMAGES[2 * part : 2 * part + 2], LABELS[2 * part : 2 * part + 2]
            path = folder / f"data_batch_{part + 1}"
            if kind == "bin":
                binary(path.with_suffix(".bin"), images, labels)
            else:
                path.write_bytes(pickle.dumps({b"data": images.reshape(2, -1), b"labels": labels.tolist()}, protocol=2))
        for place in (folder, tmp_path / kind):
            images, labels = cifar10_arrays(place, "train")
            assert np.array_equal(images, IMAGES.transpose(0, 2, 3, 1))
            assert np.array_equal(labels, LABELS)
        with pytest.raises(DataError, match=r"has no CIFAR-10 test split: .* or the original archive, unpacked"):
            cifar10_arrays(folder, "test")
    (tmp_path / "bin" / "cifar-10-batches-bin" / "batches.meta.txt").write_text("\n".join([*NAMES, "", ""]))
    assert cifar10_classes(tmp_path / "bin") == NAMES


def test_cifar100_has_fine_labels(tmp_path: Path) -> None:
    binary(tmp_path / "test.bin", IMAGES, LABELS // 2, LABELS + 50)
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    content = {b"data": IMAGES.reshape(10, -1), b"fine_labels": (LABELS + 50).tolist(), b"coarse_labels": [0] * 10}
    (folder / "test").write_bytes(pickle.dumps(content, protocol=2))
    for place in (tmp_path, folder):
        images, labels = cifar100_arrays(place, "test")
        assert np.array_equal(images, IMAGES.transpose(0, 2, 3, 1))
        assert np.array_equal(labels, LABELS + 50)


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("this code must not run",)


def test_damaged_archives_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, content, message in (
        ("train.bin", b"123", r"train\.bin has 3 bytes, which are no whole images of 3074"),
        ("train", b"\x80", r"train is no file of CIFAR-100 \("),
        ("train", pickle.dumps(Evil()), r"train is no file of CIFAR-100 \(UnpicklingError: it wants builtins\.print\)"),
        (
            "train",
            pickle.dumps({b"data": IMAGES.reshape(10, -1), b"fine_labels": [1]}),
            r"labels of the shape \(1,\) .* but there are 10 images",
        ),
    ):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(DataError, match=message):
            cifar100_arrays(tmp_path, "train")
        path.unlink()
    assert "must not run" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("train", "test"),
    [(("x_train", "y_train"), ("x_test", "y_test")), (("inputs", "targets"), ("inputs", "targets"))],
)
def test_npz(tmp_path: Path, train: tuple[str, str], test: tuple[str, str]) -> None:
    path = tmp_path / "data.npz"
    np.savez(path, **dict.fromkeys((train[0], test[0]), IMAGES), **dict.fromkeys((train[1], test[1]), LABELS))
    for split in ("train", "test"):
        inputs, targets = npz_arrays(path, split)  # type: ignore[arg-type]
        assert np.array_equal(inputs, IMAGES)
        assert np.array_equal(targets, LABELS)


def test_npz_that_cannot_be_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "named.npz", pictures=IMAGES, kinds=LABELS)
    (tmp_path / "text.npz").write_text("nothing")
    np.savez(tmp_path / "objects.npz", x=np.array([None]), y=LABELS)
    assert npz_arrays(tmp_path / "named.npz", "train", "pictures", "kinds")[1] is not None
    for name, message in (
        ("named.npz", r"has the arrays pictures, kinds\. Name the two to read: named\.npz\?inputs=NAME&targets=NAME"),
        ("text.npz", r"cannot be read as a \.npz file"),
        ("objects.npz", r"cannot be read as a \.npz file"),
        ("missing.npz", r"cannot be read as a \.npz file"),
    ):
        with pytest.raises(DataError, match=message):
            npz_arrays(tmp_path / name, "train")
