"""Images and recordings in a folder for each class: layouts, preparation, order, and what is damaged."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sigmaquant.data import ImageOptions, as_source, audiofolder_source, imagefolder_source, split
from sigmaquant.errors import DataError, MissingExtraError

image = pytest.importorskip("PIL.Image")
CLASSES = ("ant", "bee", "cow")
PLAIN = ImageOptions(crop=8, size=8, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), scale=1.0)


def make_images(
    folder: Path, count: int = 4, classes: tuple[str, ...] = CLASSES, side: tuple[int, int] = (12, 8)
) -> None:
    rng = np.random.default_rng(0)
    for number, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for index in range(count):
            pixels = rng.integers(0, 40, (12, 8, 3), dtype=np.uint8) + 80 * number
            image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{index}.png")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_images(tmp_path / "train")
    make_images(tmp_path / "val", count=2, classes=CLASSES[1:])
    return tmp_path


def inputs_of(source: Any, **options: Any) -> Tensor:
    return torch.cat([inputs for inputs, _ in source.batches(**options)])


def targets_of(source: Any, **options: Any) -> list[int]:
    return torch.cat([targets for _, targets in source.batches(**options)]).tolist()


def test_the_layout_of_imagenet(folder: Path) -> None:
    """Classes are numbered by their names, those of a test part as in training."""
    train, test = (imagefolder_source(folder, part, PLAIN, batch_size=5) for part in ("train", "test"))
    assert targets_of(train) == [0] * 4 + [1] * 4 + [2] * 4
    assert targets_of(test) == [1, 1, 2, 2]
    assert targets_of(imagefolder_source(folder / "val", "test", PLAIN)) == [1, 1, 2, 2]
    assert train.listing.classes == test.listing.classes == CLASSES
    assert inputs_of(train).shape == (12, 3, 8, 8)


def test_a_test_folder_without_classes_is_passed_over(folder: Path) -> None:
    (folder / "test").mkdir()
    (folder / "test" / "unlabelled.png").touch()
    assert targets_of(imagefolder_source(folder, "test", PLAIN)) == [1, 1, 2, 2]


def test_the_middle_of_the_image(folder: Path) -> None:
    path = folder / "train" / "ant" / "0.png"
    pixels = torch.from_numpy(np.array(image.open(path))).permute(2, 0, 1).float()
    (first, *_) = inputs_of(imagefolder_source(folder, "train", PLAIN))
    assert torch.equal(first, pixels[:, 2:10])  # twelve rows, eight columns
    grey = ImageOptions(crop=8, size=8, mean=(0.0,), std=(1.0,))
    assert inputs_of(imagefolder_source(folder, "train", grey)).shape == (12, 1, 8, 8)
    stretched = ImageOptions(crop=4, fit="stretch", layout="nhwc")
    assert inputs_of(imagefolder_source(folder, "train", stretched)).shape == (12, 4, 4, 3)


def test_images_are_normalised(folder: Path) -> None:
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    plain = inputs_of(imagefolder_source(folder, "train", PLAIN))
    found = inputs_of(imagefolder_source(folder, "train", ImageOptions(crop=8, size=8, mean=mean, std=std)))
    expected = (plain / 255 - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    assert torch.allclose(found, expected, atol=1e-5)


def test_training_sections_depend_on_the_seed_alone(folder: Path) -> None:
    one, other = (imagefolder_source(folder, "train", PLAIN, workers=workers) for workers in (1, 4))
    first = inputs_of(one, shuffle=True, seed=3)
    assert torch.equal(first, inputs_of(other, shuffle=True, seed=3))
    assert not torch.equal(first, inputs_of(one, shuffle=True, seed=4))
    order = targets_of(one, shuffle=True, seed=3)
    assert order != sorted(order)
    means = first.mean((1, 2, 3)) // 80  # each class has its own brightness: examples and targets stay together
    assert means.long().tolist() == order


def test_the_parts_of_a_split_are_not_augmented(folder: Path) -> None:
    train, held = split(as_source(imagefolder_source(folder, "train", PLAIN)), size=4)
    assert (train.examples, held.examples) == (8, 4)
    assert torch.equal(inputs_of(held), inputs_of(held))


def test_not_all_are_kept_in_memory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sigmaquant.data.folders as folders

    source = imagefolder_source(folder, "train", PLAIN)
    list(source.batches())
    assert len(source._kept) == 12
    monkeypatch.setattr(folders, "_KEPT_BYTES", 11 * 3 * 64)
    large = imagefolder_source(folder, "train", PLAIN)
    list(large.batches())
    list(large.batches(shuffle=True))
    assert not large._kept
    small = large.take(11)
    list(small.batches())
    assert len(small._kept) == 11


def test_reading_stops_where_nobody_asks_for_more(folder: Path) -> None:
    source = imagefolder_source(folder, "train", PLAIN, batch_size=1)
    read: list[Path] = []
    whole = source.read
    source.read = lambda path, seed: read.append(path) or whole(path, seed)  # type: ignore[method-assign]
    assert source.example().shape == (1, 3, 8, 8)
    assert len(read) <= 4


def test_damaged_images_are_named(folder: Path) -> None:
    path = folder / "train" / "bee" / "2.png"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(DataError, match=r"train/bee/2\.png is no readable image .* Replace it, or take it out"):
        list(imagefolder_source(folder, "train", PLAIN).batches())


def test_folders_that_are_none(folder: Path) -> None:
    (folder / "empty" / "ant").mkdir(parents=True)
    make_images(folder / "other" / "val", classes=("ant", "yak"))
    make_images(folder / "other" / "train", classes=("ant",))
    for name, message in (
        ("nowhere", r"nowhere has no folder for each class\. The layout is nowhere/CLASS/FILE"),
        ("train/ant", "has no folder for each class"),
        ("empty", r"empty has no images: no file of its class folders ends in \.bmp"),
        ("other", r"other/val/yak is a class that .*other/train has not \(1 in all\)"),
    ):
        with pytest.raises(DataError, match=message):
            imagefolder_source(folder / name, "test", PLAIN)


def test_classes_in_the_networks_order(folder: Path) -> None:
    names = ("cow", "dog", "bee", "ant")
    assert targets_of(imagefolder_source(folder, "test", PLAIN, classes=names)) == [2, 2, 0, 0]
    with pytest.raises(DataError, match="val/cow is a class that the list of classes has not"):
        imagefolder_source(folder, "test", PLAIN, classes=("ant", "bee"))


def test_options_that_cannot_be() -> None:
    for options in ({"crop": 8, "size": 4}, {"crop": 0}, {"mean": (0.5, 0.5), "std": (1.0, 1.0)}):
        with pytest.raises(DataError):
            ImageOptions(**options)  # type: ignore[arg-type]


def test_pillow_is_an_extra(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingExtraError, match=r"sigmaquant\[images\]"):
        imagefolder_source(folder, "train")


def test_recordings(tmp_path: Path) -> None:
    soundfile = pytest.importorskip("soundfile", reason="needs the extra audio")
    for number, name in enumerate(("no", "yes")):
        (tmp_path / name).mkdir()
        wave = np.full((100 + 60 * number, 2), 0.25 + 0.5 * number, np.float32)
        soundfile.write(tmp_path / name / "a.wav", wave, 100, subtype="FLOAT")
    source = audiofolder_source(tmp_path, "train", rate=100, seconds=1.2)
    inputs = inputs_of(source)
    assert inputs.shape == (2, 1, 120)
    assert torch.equal(inputs[0, 0, :100], torch.full((100,), 0.25))
    assert not inputs[0, 0, 100:].any()
    assert targets_of(source) == [0, 1]
    with pytest.raises(DataError, match=r"no/a\.wav has 100 samples a second, not 200\. .* rate=100"):
        inputs_of(audiofolder_source(tmp_path, "train", rate=200))
    (tmp_path / "yes" / "a.wav").write_bytes(b"RIFF")
    with pytest.raises(DataError, match=r"yes/a\.wav is no readable recording"):
        inputs_of(source.select(torch.arange(2)))


def test_soundfile_is_an_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(MissingExtraError, match=r"sigmaquant\[audio\]"):
        audiofolder_source(tmp_path, "train")
