"""Data named by text, with their options; and what is the same data under two names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import command
from sigmaquant.data import TensorSource, as_source
from sigmaquant.errors import DataError, SigmaQuantError
from sigmaquant.frontends.data import load_data, place_of
from sigmaquant.frontends.inputs import load_inputs

image = pytest.importorskip("PIL.Image")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for part, count in (("train", 8), ("val", 3)):
        for number, name in enumerate(("ant", "bee")):
            (tmp_path / part / name).mkdir(parents=True)
            for index in range(count):
                pixels = rng.integers(0, 60, (20, 24, 3), dtype=np.uint8) + 150 * number
                image.fromarray(pixels.astype(np.uint8)).save(tmp_path / part / name / f"{index}.jpg")
    np.savez(tmp_path / "arrays.npz", x_train=np.zeros((4, 8, 8, 3), np.uint8), y_train=np.arange(4))
    (tmp_path / "names.txt").write_text("bee\nant\n")
    return tmp_path


def test_image_folders(folder: Path) -> None:
    inputs, targets = next(as_source(load_data("imagefolder:.?crop=16", "train", "the data", 5)).batches())
    assert inputs.shape == (5, 3, 16, 16)
    assert targets.tolist() == [0] * 5
    spec = "imagefolder:.?crop=12&size=14&mean=0&std=1&scale=255&layout=nhwc&classes=names.txt&workers=2&augment=false"
    inputs, targets = next(load_data(spec, "test", "the data").batches())
    assert inputs.shape == (6, 12, 12, 1)
    assert targets.tolist() == [1, 1, 1, 0, 0, 0]
    assert load_data("imagefolder:.?crop=16&fit=stretch", "test", "the data").options.fit == "stretch"


def test_arrays(folder: Path) -> None:
    inputs, targets = load_data("arrays.npz", "train", "the data")
    assert inputs.shape == (4, 8, 8, 3)
    assert targets.tolist() == [0, 1, 2, 3]
    source = load_data("arrays.npz?layout=nhwc&scale=255&mean=0.5,0.5,0.5&std=0.5,0.5,0.5", "train", "the data")
    assert torch.equal(source.example(), torch.full((4, 8, 8, 3), -1.0))
    with pytest.raises(DataError, match=r"there are 3 means|are for images"):
        load_data("arrays.npz?mean=0.5,0.5,0.5&std=1,1,1", "train", "the data")


def test_cifar100(folder: Path) -> None:
    records = np.concatenate([np.full((6, 2), 7), np.full((6, 3072), 255)], 1).astype(np.uint8)
    records.tofile(folder / "train.bin")
    source = load_data("cifar100:.?mean=0,0,0&std=1,1,1&layout=nhwc&augment=false", "train", "the data")
    assert isinstance(source, TensorSource)
    assert source.augment is None
    inputs, targets = next(source.batches())
    assert torch.equal(inputs, torch.ones(6, 32, 32, 3))
    assert targets.tolist() == [7] * 6
    assert load_data("cifar100:.", "train", "the data").augment is not None


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("imagefolder:.?side=3", "the data: 'imagefolder:.*' has the unknown option 'side'; known are 'crop', 'size'"),
        ("imagefolder:.?crop=a", "crop must be a whole number above zero, like crop=224"),
        ("imagefolder:.?size=0", "size must be a whole number above zero, like size=256"),
        ("imagefolder:.?fit=squash", "fit must be crop or stretch, not 'squash'"),
        ("imagefolder:.?layout=hwc", "layout must be nchw or nhwc, not 'hwc'"),
        ("imagefolder:.?augment=1", "augment must be true or false, not '1'"),
        ("imagefolder:.?scale=0", "scale must be above zero"),
        ("imagefolder:.?mean=1,2", "the mean must be three numbers"),
        ("imagefolder:.?mean=0.5", "the std must be a number, like std=1"),
        ("imagefolder:.?classes=nowhere.txt", r"nowhere\.txt cannot be read as a list of classes"),
        ("imagefolder:.?crop=4&crop=5", "gives the option 'crop' twice"),
        ("imagefolder:nowhere", "nowhere has no folder for each class"),
        ("audiofolder:.?rate=fast", "rate must be a whole number above zero"),
        ("cifar100:.", "has no CIFAR-100 train split"),
        ("arrays.npz?inputs=x_train&targets=z", "has the arrays x_train, y_train"),
    ],
)
def test_what_cannot_be_read(folder: Path, spec: str, message: str) -> None:
    with pytest.raises(SigmaQuantError, match=message):
        load_data(spec, "train", "the data")


def test_the_same_data_under_two_names(folder: Path) -> None:
    assert place_of("imagefolder:.", "train") == place_of("imagefolder:./train?crop=16", "test")
    assert place_of("imagefolder:.", "train") != place_of("imagefolder:.", "test")
    assert place_of("arrays.npz", "train") != place_of("arrays.npz", "test")
    with pytest.raises(DataError, match="are the training data"):
        load_inputs(command.MODEL, None, "imagefolder:.", "imagefolder:train", None, "top1", None, 8)
