"""`load_keras`: a file as a network that computes what Keras computes of it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from sigmaquant.errors import ModelFileError
from sigmaquant.frontends.checking import check_same, random_inputs
from sigmaquant.frontends.keras import kinds  # noqa: F401  # it registers them
from sigmaquant.frontends.keras.file import keras_library, open_keras
from sigmaquant.frontends.keras.reader import LAYERS, OPERATIONS, KerasReader

_EXAMPLES = 4


def load_keras(path: str | Path, shapes: Sequence[tuple[int, ...]] | None = None) -> nn.Module:
    """The network of a Keras file: stock layers under the names of Keras' own, inputs and outputs as the file has them.

    Inside, channels come first: images ``[n, height, width, channels]`` are permuted once, at the input. The network is
    checked on random inputs against Keras before it is given back.

    Args:
        path: a ``.keras`` or HDF5 file with a Sequential or functional network.
        shapes: of one example of each input, without the batch; None: as the file says.

    Raises:
        ModelFileError: no such file, no Keras network, layers that are not read, a shape that the file leaves open, or
            a network that does not compute what Keras computes.
        MissingExtraError: the extra ``keras`` is not installed.
    """
    path = Path(path)
    model = open_keras(path, frozenset(LAYERS) | frozenset(OPERATIONS) | {"InputLayer"})
    keras = keras_library()
    sizes = _shapes(path, model, shapes)
    dtypes = [torch.float32 if "float" in tensor.dtype else torch.int64 for tensor in model.inputs]
    network = KerasReader(keras, model, path).read(sizes, dtypes)
    inputs = random_inputs(network, sizes, dtypes, _EXAMPLES)
    expected = _outputs(keras, model, [tensor.numpy() for tensor in inputs])
    half = any("16" in str(layer.compute_dtype) for layer in model.layers)
    check_same(network, inputs, expected, str(path), "Keras", 1e-2 if half else 1e-4)
    return network


def _shapes(path: Path, model: Any, given: Sequence[tuple[int, ...]] | None) -> list[tuple[int, ...]]:
    if not model.built or not model.inputs:
        raise ModelFileError(f"{path} does not say what its network takes. Call it once before it is saved.")
    found = []
    if given is not None and len(given) != len(model.inputs):
        raise ModelFileError(f"{path} has {len(model.inputs)} inputs, but {len(given)} shapes were given.")
    for index, tensor in enumerate(model.inputs):
        own = tuple(tensor.shape[1:])
        shape = own if given is None else given[index]
        shown = "x".join("?" if size is None else str(size) for size in own)
        if any(size is None for size in shape):
            raise ModelFileError(
                f"{path} leaves the shape of its input {tensor.name!r} open: {shown} without the batch. Give it: "
                f"{path.name}?shape={'x'.join('64' if size is None else str(size) for size in own)}, say."
            )
        if len(shape) != len(own) or any(a not in (None, b) for a, b in zip(own, shape, strict=True)):
            raise ModelFileError(
                f"{path}: the input {tensor.name!r} has the shape {shown} without the batch, not "
                f"{'x'.join(map(str, shape))}."
            )
        found.append(shape)
    return found


def _outputs(keras: Any, model: Any, inputs: list[Any]) -> list[torch.Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a single input in a list, or without one, as the file may have it
        found = model(inputs[0] if len(inputs) == 1 else inputs, training=False)
    leaves = list(found.values()) if isinstance(found, dict) else found if isinstance(found, list | tuple) else [found]
    return [torch.from_numpy(np.array(keras.ops.convert_to_numpy(leaf), np.float32)) for leaf in leaves]
