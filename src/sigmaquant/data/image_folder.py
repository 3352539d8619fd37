"""`imagefolder_source`: images in a folder for each class, prepared as the network was trained with."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from sigmaquant.data.augment import Normalize
from sigmaquant.data.folders import FileSource, Listing, list_files, split_folder
from sigmaquant.errors import DataError, MissingExtraError

MEAN = (0.485, 0.456, 0.406)
"""Of ImageNet's red, green and blue, as networks are usually trained with."""
STD = (0.229, 0.224, 0.225)
"""Likewise."""
ENDINGS = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")

_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Of these files; Pillow would look for others behind any name, and some of those start programs."""

Layout = Literal["nchw", "nhwc"]


@dataclass(frozen=True)
class ImageOptions:
    """How an image becomes what the network takes.

    Attributes:
        crop: side of the square that the network takes, in pixels.
        size: of the shorter side of the resized image that the square is cut from; None: ``crop / 0.875``, as usual.
        fit: ``"crop"`` cuts the middle; ``"stretch"`` resizes the whole image to the square.
        mean: of each channel, of values in 0..1: three for colours, one for grey images.
        std: likewise.
        scale: what the largest value 255 is divided by before; 1 keeps 0..255 and takes mean and std in that range.
        layout: ``"nchw"``, or ``"nhwc"`` for networks from Keras and TensorFlow.
        augment: whether training images are random sections, half of them mirrored.
    """

    crop: int = 224
    size: int | None = None
    fit: Literal["crop", "stretch"] = "crop"
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD
    scale: float = 255.0
    layout: Layout = "nchw"
    augment: bool = True

    def __post_init__(self) -> None:
        if len(self.mean) not in (1, 3):
            raise DataError(f"mean {list(self.mean)} must have three numbers, or one for grey images.")
        if self.crop < 1 or self.resized < self.crop:
            raise DataError(
                f"size {self.resized} and crop {self.crop} must be above zero, the size no less than the crop."
            )

    @property
    def resized(self) -> int:
        """Pixels of the shorter side."""
        return self.size if self.size is not None else round(self.crop / 0.875)


class ChannelsLast(Normalize):
    """As `Normalize`, with the result as ``[batch, height, width, channels]``."""

    def __call__(self, images: Tensor) -> Tensor:
        """Float32 images, channels last.

        Args:
            images: ``[batch, channels, height, width]``.
        """
        return super().__call__(images).permute(0, 2, 3, 1).contiguous()


def preparation(mean: Sequence[float], std: Sequence[float], scale: float, layout: Layout) -> Normalize:
    """The transform of batches ``[n, channels, height, width]``."""
    return (ChannelsLast if layout == "nhwc" else Normalize)(mean, std, scale)


class ImageFolderSource(FileSource):
    """Images ``[n, channels, height, width]`` as uint8, which are normalised batch by batch.

    Args:
        listing: the files and their classes.
        options: how they are prepared.
        name: see `FileSource`, as the rest.
    """

    def __init__(self, listing: Listing, options: ImageOptions, **rest: Any) -> None:
        transform = preparation(options.mean, options.std, options.scale, options.layout)
        super().__init__(listing, transform=transform, **rest)
        self.options = options

    def read(self, path: Path, seed: int | None) -> Tensor:
        """See `FileSource`."""
        image = _pillow()
        options = self.options
        try:
            with image.open(path, formats=_FORMATS) as opened:
                picture = opened.convert("RGB" if len(options.mean) == 3 else "L")
        except MemoryError:
            raise
        except Exception as error:  # Pillow raises many kinds for damaged files
            raise DataError(
                f"{path} is no readable image ({type(error).__name__}: {error}). Replace it, or take it out of the "
                "folder."
            ) from error
        if seed is not None and options.augment:
            picture = _random_section(image, picture, options.crop, random.Random(seed))
        else:
            picture = _middle(image, picture, options)
        values = np.asarray(picture)
        return (
            torch.from_numpy(np.array(values if values.ndim == 3 else values[:, :, None])).permute(2, 0, 1).contiguous()
        )


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError:
        raise MissingExtraError("Reading images", "images") from None
    return Image


def _middle(image: Any, picture: Any, options: ImageOptions) -> Any:
    """The middle square of the resized image: what networks for ImageNet are judged on."""
    crop = options.crop
    if options.fit == "stretch":
        return picture.resize((crop, crop), image.Resampling.BILINEAR)
    width, height = picture.size
    factor = options.resized / min(width, height)
    size = (max(round(width * factor), crop), max(round(height * factor), crop))
    if picture.size != size:
        picture = picture.resize(size, image.Resampling.BILINEAR)
    left, top = (round((side - crop) / 2) for side in size)
    return picture.crop((left, top, left + crop, top + crop))


def _random_section(image: Any, picture: Any, crop: int, generator: random.Random) -> Any:
    """A section of 8 to 100 % of the area and 3:4 to 4:3, resized, and mirrored or not (arXiv 1409.4842, section 6)."""
    width, height = picture.size
    for _ in range(10):
        area = width * height * generator.uniform(0.08, 1.0)
        ratio = math.exp(generator.uniform(math.log(3 / 4), math.log(4 / 3)))
        wide, high = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < wide <= width and 0 < high <= height:
            left, top = generator.randint(0, width - wide), generator.randint(0, height - high)
            break
    else:
        wide = high = min(width, height)
        left, top = (width - wide) // 2, (height - high) // 2
    box = (left, top, left + wide, top + high)
    section = picture.resize((crop, crop), image.Resampling.BILINEAR, box=box)
    return section.transpose(image.Transpose.FLIP_LEFT_RIGHT) if generator.random() < 0.5 else section


def imagefolder_source(
    directory: str | Path,
    split: Literal["train", "test"],
    options: ImageOptions | None = None,
    *,
    classes: Sequence[str] | None = None,
    name: str = "data",
    batch_size: int = 128,
    workers: int | None = None,
) -> ImageFolderSource:
    """Images in a folder for each class (ImageNet's layout), as a source of normalised float32 batches.

    Files are read when they are asked for; only examples that are not augmented are kept, and those up to 512 MiB.

    Args:
        directory: has the class folders, or ``train`` and ``val`` (or ``test``) that have them.
        split: which of the two.
        options: how images are prepared; None: as usual for ImageNet.
        classes: names of the class folders in the order of the network's outputs; None: those of ``train``, sorted.
        name: for messages.
        batch_size: examples in a batch.
        workers: threads that read; None: one for each processor.

    Raises:
        DataError: no such folder, no images, or a class that is unknown.
        MissingExtraError: Pillow is not installed.
    """
    _pillow()
    listing = list_files(split_folder(directory, split), ENDINGS, "images", classes)
    return ImageFolderSource(listing, options or ImageOptions(), name=name, batch_size=batch_size, workers=workers)
