"""`audiofolder_source`: recordings in a folder for each class, as waveforms of one length."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from sigmaquant.data.folders import FileSource, Listing, list_files, split_folder
from sigmaquant.errors import DataError, MissingExtraError

ENDINGS = (".flac", ".mp3", ".ogg", ".wav")


class AudioFolderSource(FileSource):
    """Waveforms ``[n, 1, samples]`` in -1..1: the mean of all channels, cut or filled with silence at the end.

    Args:
        listing: the files and their classes.
        rate: samples in a second; files of another rate are refused.
        samples: in an example.
        augment: whether training examples are shifted by up to a tenth of their length.
        rest: as for `FileSource`.
    """

    def __init__(self, listing: Listing, rate: int, samples: int, augment: bool, **rest: Any) -> None:
        super().__init__(listing, **rest)
        self.rate, self.samples, self._shifts = rate, samples, augment

    def read(self, path: Path, seed: int | None) -> Tensor:
        """See `FileSource`."""
        try:
            values, rate = _soundfile().read(str(path), dtype="float32", always_2d=True)
        except MissingExtraError:
            raise
        except Exception as error:
            raise DataError(
                f"{path} is no readable recording ({error}). Replace it, or take it out of the folder."
            ) from error
        if rate != self.rate:
            raise DataError(
                f"{path} has {rate} samples a second, not {self.rate}. Convert all files to one rate, or name theirs: "
                f"rate={rate}."
            )
        wave = torch.from_numpy(values).mean(1)[: self.samples]
        wave = torch.nn.functional.pad(wave, (0, self.samples - len(wave)))
        if seed is not None and self._shifts:
            wave = wave.roll(random.Random(seed).randint(-self.samples // 10, self.samples // 10))
        return wave[None]


def _soundfile() -> Any:
    try:
        import soundfile
    except ImportError:
        raise MissingExtraError("Reading recordings", "audio") from None
    return soundfile


def audiofolder_source(
    directory: str | Path,
    split: Literal["train", "test"],
    *,
    rate: int = 16000,
    seconds: float = 1.0,
    augment: bool = True,
    classes: Sequence[str] | None = None,
    name: str = "data",
    batch_size: int = 128,
    workers: int | None = None,
) -> AudioFolderSource:
    """Recordings in a folder for each class, as a source of waveforms ``[n, 1, samples]``.

    Args:
        directory: as for `sigmaquant.data.image_folder.imagefolder_source`.
        split: which of the two.
        rate: samples in a second.
        seconds: length of an example.
        augment: whether training examples are shifted by up to a tenth of their length.
        classes, name, batch_size, workers: as for `sigmaquant.data.image_folder.imagefolder_source`.

    Raises:
        DataError: no such folder, no recordings, or a class that is unknown.
        MissingExtraError: soundfile is not installed.
    """
    _soundfile()
    listing = list_files(split_folder(directory, split), ENDINGS, "recordings", classes)
    samples = round(rate * seconds)
    if samples < 1:
        raise DataError(f"{seconds} seconds of {rate} samples are no recording.")
    return AudioFolderSource(listing, rate, samples, augment, name=name, batch_size=batch_size, workers=workers)
