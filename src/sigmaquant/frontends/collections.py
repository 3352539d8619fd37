"""Networks of timm, torchvision and transformers by name, with trained weights of theirs or of a file."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import torch
from torch import nn

from sigmaquant.errors import MissingExtraError, SigmaQuantError, near_matches
from sigmaquant.frontends.options import Option


class Collection(Protocol):
    """Makes a network by its name."""

    def __call__(self, name: str, options: Mapping[str, Option], *, trained: bool) -> nn.Module:
        """The network, with the collection's own trained weights if `trained`."""


def _library(name: str, extra: str, what: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and name.startswith(error.name):
            raise MissingExtraError(what, extra) from None
        raise SigmaQuantError(f"{name} cannot be imported: {error}. Install {error.name!r}.") from error
    except Exception as error:
        raise SigmaQuantError(
            f"{name} cannot be imported: {type(error).__name__}: {error}. Install the version of it that was made for "
            f"torch {torch.__version__}."
        ) from error


def _timm(name: str, options: Mapping[str, Option], *, trained: bool) -> Any:
    timm = _library("timm", "timm", "timm:NAME")
    _check_name(f"timm:{name}", name.partition(".")[0], timm.list_models())
    return _made(f"timm:{name}", lambda: timm.create_model(name, pretrained=trained, **options), trained)


def _torchvision(name: str, options: Mapping[str, Option], *, trained: bool) -> Any:
    models = _library("torchvision.models", "torchvision", "torchvision:NAME")
    _check_name(f"torchvision:{name}", name, models.list_models())
    weights = "DEFAULT" if trained else None
    return _made(f"torchvision:{name}", lambda: models.get_model(name, weights=weights, **options), trained)


def _hf(name: str, options: Mapping[str, Option], *, trained: bool) -> Any:
    transformers = _library("transformers", "hf", "hf:NAME")
    given = dict(options)
    wanted = given.pop("architecture", None)

    def make() -> Any:
        config = transformers.AutoConfig.from_pretrained(name, local_files_only=True, **given)
        architecture = wanted or next(iter(config.architectures or ()), None)
        kind = getattr(transformers, str(architecture), None)
        if architecture is None or kind is None:
            raise SigmaQuantError(
                f"the model: hf:{name} does not say which class of transformers it is. Add it: "
                f"hf:{name}?architecture=BertForSequenceClassification, say."
            )
        if not trained:
            return kind(config)
        return kind.from_pretrained(name, config=config, local_files_only=True)

    return _made(
        f"hf:{name}", make, trained, "Files are only looked for on this machine: give the folder that has config.json. "
    )


COLLECTIONS: dict[str, Collection] = {"timm": _timm, "torchvision": _torchvision, "hf": _hf}
"""By what stands before the colon."""


def _check_name(spec: str, name: str, known: Iterable[str]) -> None:
    names = list(known)
    if name not in names:
        raise SigmaQuantError(f"the model: there is no {spec}. {near_matches(name, names)}")


def _made(spec: str, make: Callable[[], Any], trained: bool, hint: str = "") -> Any:
    try:
        return make()
    except SigmaQuantError:
        raise
    except Exception as error:
        own = "Give a file with its weights with --weights (weights= in Python) if they cannot be had. "
        reason = (str(error).strip().splitlines() or [""])[0].rstrip(".")
        remedy = f"{hint}{own if trained else ''}".rstrip()
        raise SigmaQuantError(
            f"the model: {spec} cannot be made: {type(error).__name__}: {reason}. {remedy}".rstrip()
        ) from error
