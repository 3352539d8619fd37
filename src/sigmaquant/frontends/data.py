"""Data named by text: ``imagefolder:DIR``, ``cifar10:DIR``, ``cifar100:DIR``, ``file.npz``, or a factory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

from sigmaquant.data import (
    CropAndFlip,
    ImageOptions,
    TensorSource,
    audiofolder_source,
    cifar10,
    cifar10_arrays,
    cifar100,
    cifar100_arrays,
    imagefolder_source,
    npz_arrays,
)
from sigmaquant.data.folders import read_classes, split_folder
from sigmaquant.data.image_folder import Layout, preparation
from sigmaquant.errors import DataError
from sigmaquant.frontends.factories import call_factory
from sigmaquant.frontends.options import Option, check_known, partition, read_options

Split = Literal["train", "test"]
_PREPARED = ("mean", "std", "scale", "layout")
_FOLDER = ("classes", "workers", "augment")


def load_data(spec: str, split: Split, what: str, batch_size: int = 128) -> Any:
    """Data for `sigmaquant.data.as_source`.

    ``DIR`` is a folder; options follow behind ``?``, joined by ``&``:

    - ``imagefolder:DIR``: see `sigmaquant.data.ImageOptions` (``crop``, ``size``, ``fit``, ``mean``, ``std``,
      ``scale``, ``layout``, ``augment``), and ``classes`` (a text file), ``workers``.
    - ``cifar10:DIR``, ``cifar100:DIR``: ``mean``, ``std``, ``scale``, ``layout``, ``augment``.
    - ``audiofolder:DIR``: ``rate``, ``seconds``, ``augment``, ``classes``, ``workers``.
    - ``FILE.npz``: ``inputs``, ``targets`` (names of the arrays), ``mean``, ``std``, ``scale``, ``layout``.
    - anything else: ``package.module:factory`` or ``path/file.py:factory``.

    Args:
        spec: see above.
        split: which part of what has parts.
        what: for messages.
        batch_size: examples in a batch; what a factory gives keeps its own, or gets one from `as_source`.

    Raises:
        SigmaQuantError: the factory fails.
        DataError: the folder cannot be read, or the options are malformed.
        MissingExtraError: what reads the files is not installed.
    """
    source, query = partition(spec)
    kind, _, place = source.partition(":")
    described = f"{what}: {spec!r}"
    if kind in _KINDS and place:
        options = read_options(query, described, as_text=True)
        return _KINDS[kind](Path(place), split, options, described, batch_size)
    if source.lower().endswith(".npz"):
        options = read_options(query, described, as_text=True)
        return _npz(Path(source), split, options, described, batch_size)
    return call_factory(spec, what)


def place_of(spec: str | None, split: Split) -> object:
    """Which data a text names, however it is written; None: none."""
    if spec is None:
        return None
    source, query = partition(spec)
    kind, _, place = source.partition(":")
    if kind in ("imagefolder", "audiofolder") and place:
        return split_folder(Path(place).resolve(), split)
    if kind in _KINDS and place:
        return Path(place).resolve(), split
    if source.lower().endswith(".npz"):
        return Path(source).resolve(), split, query
    module, _, name = source.rpartition(":")
    return Path(module).resolve() if module.endswith(".py") else module, name


def _imagefolder(place: Path, split: Split, options: Mapping[str, Option], what: str, batch_size: int) -> Any:
    check_known(options, ("crop", "size", "fit", *_PREPARED, *_FOLDER), what)
    mean, std, scale, layout = _prepared(options, what, ImageOptions.mean, ImageOptions.std)
    fit = options.get("fit", "crop")
    if fit not in ("crop", "stretch"):
        raise DataError(f"{what}: fit must be crop or stretch, not {fit!r}.")
    prepared = ImageOptions(
        crop=_whole(options, "crop", 224, what),
        mean=mean,
        std=std,
        scale=scale,
        layout=layout,
        fit=cast(Literal["crop", "stretch"], fit),
        augment=_yes(options, "augment", what),
    )
    if "size" in options:
        prepared = replace(prepared, size=_whole(options, "size", 0, what))
    rest = _folder_options(options, what, batch_size)
    return imagefolder_source(place, split, prepared, **rest)


def _audiofolder(place: Path, split: Split, options: Mapping[str, Option], what: str, batch_size: int) -> Any:
    check_known(options, ("rate", "seconds", *_FOLDER), what)
    rate, (seconds,) = _whole(options, "rate", 16000, what), _numbers(options, "seconds", (1.0,), (1,), what)
    augment = _yes(options, "augment", what)
    rest = _folder_options(options, what, batch_size)
    return audiofolder_source(place, split, rate=rate, seconds=seconds, augment=augment, **rest)


def _folder_options(options: Mapping[str, Option], what: str, batch_size: int) -> dict[str, Any]:
    workers = _whole(options, "workers", 0, what) if "workers" in options else None
    classes = read_classes(str(options["classes"])) if "classes" in options else None
    return {"classes": classes, "workers": workers, "batch_size": batch_size}


def _cifar(
    place: Path, split: Split, options: Mapping[str, Option], what: str, batch_size: int, *, hundred: bool
) -> Any:
    check_known(options, (*_PREPARED, "augment"), what)
    own = cifar100 if hundred else cifar10
    mean, std, scale, layout = _prepared(options, what, own.MEAN, own.STD)
    if len(mean) != 3:
        raise DataError(f"{what}: the mean must be three numbers, like mean=0.5,0.5,0.5.")
    images, labels = (cifar100_arrays if hundred else cifar10_arrays)(place, split)
    augmented = split == "train" and _yes(options, "augment", what)
    return TensorSource(
        images.transpose(0, 3, 1, 2),
        labels,
        name=f"{split} data",
        batch_size=batch_size,
        augment=CropAndFlip() if augmented else None,
        transform=preparation(mean, std, scale, layout),
    )


def _npz(path: Path, split: Split, options: Mapping[str, Option], what: str, batch_size: int) -> Any:
    check_known(options, ("inputs", "targets", *_PREPARED), what)
    names = (str(options[name]) if name in options else None for name in ("inputs", "targets"))
    inputs, targets = npz_arrays(path, split, *names)
    if not set(options) & set(_PREPARED):
        return inputs, targets
    if isinstance(inputs, dict):
        raise DataError(f"{what}: mean, std, scale and layout are for one input, and there are {', '.join(inputs)}.")
    channels = inputs.shape[-1] if options.get("layout") == "nhwc" else inputs.shape[1] if inputs.ndim > 1 else 0
    mean, std, scale, layout = _prepared(options, what, (0.0,) * channels, (1.0,) * channels, scale=1.0)
    if inputs.ndim != 4 or len(mean) != channels:
        raise DataError(
            f"{what}: mean, std, scale and layout are for images [n, channels, height, width], or with layout=nhwc [n, "
            f"height, width, channels]; the inputs have the shape {list(inputs.shape)} and there are {len(mean)} means."
        )
    images = inputs.transpose(0, 3, 1, 2) if layout == "nhwc" else inputs
    return TensorSource(
        images, targets, name=path.name, batch_size=batch_size, transform=preparation(mean, std, scale, layout)
    )


_KINDS: dict[str, Callable[[Path, Split, Mapping[str, Option], str, int], Any]] = {
    "imagefolder": _imagefolder,
    "audiofolder": _audiofolder,
    "cifar10": partial(_cifar, hundred=False),
    "cifar100": partial(_cifar, hundred=True),
}


def _prepared(
    options: Mapping[str, Option],
    what: str,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    scale: float = 255.0,
) -> tuple[tuple[float, ...], tuple[float, ...], float, Layout]:
    means = _numbers(options, "mean", mean, (1, 3), what)
    own = options if "std" in options or len(std) == len(means) else {**options, "std": ""}  # then it has to be given
    deviations = _numbers(own, "std", std, (len(means),), what)
    (scale,) = _numbers(options, "scale", (scale,), (1,), what)
    layout = options.get("layout", "nchw")
    if layout not in ("nchw", "nhwc"):
        raise DataError(f"{what}: layout must be nchw or nhwc, not {layout!r}.")
    if scale <= 0:
        raise DataError(f"{what}: scale must be above zero, not {scale}.")
    return means, deviations, scale, cast(Layout, layout)


def _numbers(
    options: Mapping[str, Option], name: str, default: tuple[float, ...], counts: tuple[int, ...], what: str
) -> tuple[float, ...]:
    if name not in options:
        return default
    try:
        found = tuple(float(part) for part in str(options[name]).split(","))
    except ValueError:
        found = ()
    if len(found) not in counts:
        wanted = "three numbers, like {0}=0.5,0.5,0.5" if 3 in counts else "a number, like {0}=1"
        raise DataError(f"{what}: the {name} must be {wanted.format(name)}.")
    return found


def _whole(options: Mapping[str, Option], name: str, default: int, what: str) -> int:
    try:
        found = int(str(options.get(name, default)))
    except ValueError:
        found = 0
    if found < 1:
        raise DataError(f"{what}: {name} must be a whole number above zero, like {name}={default or 256}.")
    return found


def _yes(options: Mapping[str, Option], name: str, what: str) -> bool:
    text = str(options.get(name, "true")).lower()
    if text not in ("true", "false"):
        raise DataError(f"{what}: {name} must be true or false, not {text!r}.")
    return text == "true"
