"""Files in a folder for each class: ImageNet's layout, read as it goes, never all at once."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal, Self

import torch
from torch import Tensor

from sigmaquant.data.batch import Batch
from sigmaquant.data.indexed import IndexedSource
from sigmaquant.data.sources import Augment, Transform
from sigmaquant.errors import DataError

_TEST_FOLDERS = ("test", "val", "validation")
_KEPT_BYTES = 2**29
"""Of examples that are not augmented; those that decisions are judged on are read again and again."""
_AHEAD = 2
"""Batches that are read before they are asked for."""


@dataclass(frozen=True)
class Listing:
    """Files and the class of each, as its number among the names."""

    paths: tuple[Path, ...]
    labels: Tensor
    classes: tuple[str, ...]


def split_folder(directory: str | Path, split: Literal["train", "test"]) -> Path:
    """The folder of a split: ``train``, or else ``test``, ``val`` or ``validation``; or the folder itself.

    A ``test`` or ``val`` without folders for its classes, such as ImageNet's unlabelled test images, is passed over.
    """
    root = Path(directory)
    if not (root / "train").is_dir():
        return root
    if split == "train":
        return root / "train"
    return next((root / name for name in _TEST_FOLDERS if _folders(root / name)), root / "val")


def list_files(
    directory: str | Path, endings: Sequence[str], what: str, classes: Sequence[str] | None = None
) -> Listing:
    """All files of a folder that has one folder for each class.

    The classes are numbered in the order of their names: those of ``train`` beside the folder where there is one, so
    that a class without test examples takes no other's number.

    Args:
        directory: the folder.
        endings: of the files that count, such as ``".png"``.
        what: for messages, such as ``"images"``.
        classes: names of the folders, in the order of the network's outputs.

    Raises:
        DataError: no such folder, one without class folders or files, or a class that is not in the list.
    """
    root = Path(directory)
    own = _folders(root)
    if not own:
        raise DataError(
            f"{root} has no folder for each class. The layout is {root.name}/CLASS/FILE, or "
            f"{root.name}/train/CLASS/FILE and {root.name}/val/CLASS/FILE. Check the directory."
        )
    known = list(classes) if classes is not None else _folders(root.parent / "train") or own
    if classes is None and not set(own) <= set(known):
        known = own if root.name not in _TEST_FOLDERS else known
    if unknown := [name for name in own if name not in known]:
        source = "the list of classes has" if classes is not None else f"{root.parent / 'train'} has"
        raise DataError(
            f"{root / unknown[0]} is a class that {source} not ({len(unknown)} in all). Rename it, or take it out."
        )
    numbers = {name: number for number, name in enumerate(known)}
    paths: list[Path] = []
    labels: list[int] = []
    for name in own:
        found = sorted(path for path in (root / name).rglob("*") if path.suffix.lower() in endings and path.is_file())
        paths += found
        labels += [numbers[name]] * len(found)
    if not paths:
        raise DataError(f"{root} has no {what}: no file of its class folders ends in {', '.join(endings)}.")
    return Listing(tuple(paths), torch.tensor(labels), tuple(known))


def read_classes(path: str | Path) -> tuple[str, ...]:
    """Names of classes from a text file with one in each line.

    Raises:
        DataError: no such file, or a name twice.
    """
    try:
        names = [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as a list of classes: {error}.") from error
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise DataError(f"{path} names the class {twice!r} twice.")
    return tuple(names)


def _folders(root: Path) -> list[str]:
    if not root.is_dir():
        return []
    return sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))


class FileSource(IndexedSource):
    """Examples that are read from their files when they are asked for, by several threads.

    Args:
        listing: the files and their classes.
        name: see `DataSource`, as the rest.
        workers: threads; None: one for each processor, at most 16.
    """

    def __init__(
        self,
        listing: Listing,
        *,
        name: str = "data",
        batch_size: int = 128,
        augment: Augment | None = None,
        transform: Transform | None = None,
        workers: int | None = None,
    ) -> None:
        super().__init__(name, batch_size, augment, transform)
        self.listing = listing
        self.workers = workers or min(os.cpu_count() or 1, 16)
        self._index = torch.arange(len(listing.paths))
        self._kept: dict[int, Tensor] = {}

    @abstractmethod
    def read(self, path: Path, seed: int | None) -> Tensor:
        """One example.

        Args:
            path: its file.
            seed: of its augmentation; None: there is none.

        Raises:
            DataError: the file is damaged; the message names it.
        """

    @property
    def examples(self) -> int:
        """Number of examples."""
        return len(self._index)

    def select(self, index: Tensor) -> Self:
        """A copy with the examples at `index`."""
        other = self.with_options()
        other._index, other._kept = self._index[index], {}
        return other

    def _batches(self, shuffle: bool, seed: int) -> Iterator[Batch]:
        def example(number: int) -> Tensor:
            if shuffle:
                return self.read(self.listing.paths[number], hash((seed, number)))
            if number not in self._kept:
                found = self.read(self.listing.paths[number], None)
                if found.numel() * found.element_size() * len(self._index) > _KEPT_BYTES:
                    return found
                self._kept[number] = found
            return self._kept[number]

        with ThreadPoolExecutor(self.workers) as pool:  # decoding runs outside the interpreter's lock
            yield from _in_order(pool, example, self._indices(shuffle, seed), self._index, self.listing.labels)


def _in_order(
    pool: ThreadPoolExecutor, read: Callable[[int], Tensor], order: Iterator[Tensor], index: Tensor, labels: Tensor
) -> Iterator[Batch]:
    """Batches as they are read, a few ahead of the one that is asked for."""
    waiting: list[tuple[Tensor, list[Future[Tensor]]]] = []

    def start(count: int) -> None:
        for places in islice(order, count):
            numbers = index[places]
            waiting.append((numbers, [pool.submit(read, number) for number in numbers.tolist()]))

    try:
        start(1 + _AHEAD)
        while waiting:
            numbers, futures = waiting.pop(0)
            examples = [future.result() for future in futures]
            start(1)
            yield torch.stack(examples), labels[numbers]
    finally:
        for _, futures in waiting:
            for future in futures:
                future.cancel()
