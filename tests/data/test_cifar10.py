"""The CIFAR-10 reader on a small folder made here, and on the real images where they are."""

from __future__ import annotations

import hashlib
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from command import main, refused
from sigmaquant.data import DataSource, cifar10_arrays, cifar10_classes, cifar10_data
from sigmaquant.errors import DataError, MissingExtraError, SigmaQuantError
from sigmaquant.runs import RunDirectory

image = pytest.importorskip("PIL.Image")
NAMES = tuple("abcdefghij")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three mosaics of 2 x 3 tiles for each split, class-interleaved."""
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        images = rng.integers(0, 256, (18, 32, 32, 3), dtype=np.uint8)
        np.save(tmp_path / f"{split}_images.npy", images)
        for number in range(3):
            tiles = images[6 * number : 6 * number + 6].reshape(2, 3, 32, 32, 3)
            mosaic = tiles.transpose(0, 2, 1, 3, 4).reshape(64, 96, 3)
            image.fromarray(mosaic).save(tmp_path / f"{split}_{number:02}.webp", lossless=True)
        np.save(tmp_path / f"{split}_labels.npy", np.arange(18, dtype=np.uint8) % 10)
    (tmp_path / "classes.txt").write_text("\n".join(NAMES))
    return tmp_path


def test_arrays(folder: Path) -> None:
    for split in ("train", "test"):
        images, labels = cifar10_arrays(folder, split)  # type: ignore[arg-type]
        assert images.dtype == labels.dtype == np.uint8
        assert np.array_equal(images, np.load(folder / f"{split}_images.npy"))
        assert labels.tolist() == [index % 10 for index in range(18)]
    assert cifar10_classes(folder) == NAMES


def test_data(folder: Path) -> None:
    data = cifar10_data(folder, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25), batch_size=6)
    assert data.classes == NAMES
    inputs, targets = next(data.test.batches())
    images = torch.from_numpy(np.load(folder / "test_images.npy")).permute(0, 3, 1, 2)
    assert isinstance(inputs, torch.Tensor)
    assert torch.allclose(inputs, (images[:6] / 255 - 0.5) / 0.25, atol=1e-5)
    assert targets.tolist() == [0, 1, 2, 3, 4, 5]
    plain = torch.cat([batch for batch, _ in data.train.batches()])
    a, b = (torch.cat([batch for batch, _ in data.train.batches(True, 1)]) for _ in range(2))
    assert torch.equal(a, b)
    assert a.shape == plain.shape == (18, 3, 32, 32)
    assert a.dtype == torch.float32
    assert not torch.equal(a.sort(0).values, plain.sort(0).values)
    assert a.min() == -2.0


def test_the_command_line_decides_the_batch_size(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[DataSource] = []

    def stop(*given: Any, **named: Any) -> None:
        seen.extend(source for source in (*given, *named.values()) if isinstance(source, DataSource))
        raise SigmaQuantError("stop")

    for verb in ("quantize", "evaluate_run"):
        monkeypatch.setattr(f"sigmaquant.cli.runs.{verb}", stop)
    (tmp_path / "net.py").write_text("from torch import nn\nnet = nn.Sequential(nn.Flatten(), nn.Linear(3072, 3))\n")
    net, data = f"{tmp_path / 'net.py'}:net", f"cifar10:{folder}"
    shutil.copytree(folder, tmp_path / "other")  # of one folder, both would be the training part
    given = ("quantize", net, "--train", data, "--val", f"{data}/other", "--test", data, "--size", "8x")
    assert refused(main(*given, "--batch-size", 6)) == "error: stop"
    RunDirectory(tmp_path / "run", config={"settings": {"batch_size": 6}}).close()
    assert refused(main("evaluate", tmp_path / "run", "--model", net, "--data", data)) == "error: stop"
    assert [source.batch_size for source in seen] == [6] * 4
    seen.clear()
    assert refused(main(*given)) == "error: stop"
    assert [source.batch_size for source in seen] == [cifar10_data(folder).train.batch_size] * 3 == [128] * 3
    monkeypatch.setattr("sigmaquant.cli.sweep.sweep_job", lambda make, *_, **__: stop(*vars(make().data).values()))
    seen.clear()
    assert refused(main("sweep", *given[1:-1], "6x,8x", "--out", tmp_path / "s", "--batch-size", 6)) == "error: stop"
    names = [(source.name, source.batch_size) for source in seen]
    assert names == [("training data", 6), ("validation data", 6), ("test data", 6)]


def test_errors(folder: Path) -> None:
    with pytest.raises(DataError, match=r"has no CIFAR-10 test split: it needs test_00\.webp"):
        cifar10_arrays(folder / "no", "test")
    with pytest.raises(DataError, match=r"classes\.txt cannot be read"):
        cifar10_classes(folder / "no")
    np.save(folder / "test_labels.npy", np.zeros(17, dtype=np.uint8))
    with pytest.raises(DataError, match=r"has labels of the shape \(17,\) and dtype uint8, but there are 18 images"):
        cifar10_arrays(folder, "test")
    (folder / "test_labels.npy").write_bytes(b"nonsense")
    with pytest.raises(DataError, match=r"test_labels\.npy is no readable array"):
        cifar10_arrays(folder, "test")
    (folder / "test_01.webp").write_bytes((folder / "test_01.webp").read_bytes()[:200])
    with pytest.raises(DataError, match=r"test_01\.webp is no readable image"):
        cifar10_arrays(folder, "test")
    image.new("RGB", (64, 33)).save(folder / "train_02.webp", lossless=True)
    with pytest.raises(DataError, match=r"has 33 x 64 pixels, which are no whole tiles"):
        cifar10_arrays(folder, "train")


def test_without_pillow(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingExtraError, match=r'pip install "sigmaquant\[cifar10\]"'):
        cifar10_arrays(folder, "test")


def test_the_real_images(shared_data: Path) -> None:
    images, labels = cifar10_arrays(shared_data / "cifar10", "test")
    digest = hashlib.sha256(images.tobytes()).hexdigest()
    assert digest == "1f9e71c337f27c38452dc063bbdf05164772d7358edf779cd7c015dac77aeead"
    assert labels[:20].tolist() == [*range(10)] * 2
    assert cifar10_classes(shared_data / "cifar10")[3] == "cat"
