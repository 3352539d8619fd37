"""`load_onnx`: a file as a network that computes what ONNX Runtime computes of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from sigmaquant.errors import MissingExtraError, ModelFileError
from sigmaquant.frontends.checking import check_same, random_inputs
from sigmaquant.frontends.onnx import operators  # noqa: F401  # it registers them
from sigmaquant.frontends.onnx.file import OnnxFile, read_onnx, tensor_of
from sigmaquant.frontends.onnx.patterns import with_patterns
from sigmaquant.frontends.onnx.reader import Reader

_EXAMPLES = 4


def load_onnx(path: str | Path, shapes: Sequence[tuple[int, ...]] | None = None) -> nn.Module:
    """The network of an ONNX file: stock layers under the names of its weights; inputs and outputs as in the file.

    The file is a float one of opset 11 or newer. A batch size that it is fixed to is lifted: the network takes any. It
    is checked on random inputs against ONNX Runtime before it is given back.

    Args:
        path: the file.
        shapes: of one example of each input, without the batch; None: as the file says.

    Raises:
        ModelFileError: no such file, no float ONNX file, operators that are not read, a shape that the file leaves
            open, or a network that does not compute what ONNX Runtime computes.
        MissingExtraError: the extra ``onnx`` is not installed.
    """
    try:
        import onnxruntime
    except ImportError:
        raise MissingExtraError("Reading ONNX files", "onnx") from None
    file = read_onnx(Path(path))
    sizes = _shapes(file, shapes)
    network = Reader(with_patterns(file), sizes).read()
    _check(onnxruntime, file, sizes, network)
    return network


def _shapes(file: OnnxFile, given: Sequence[tuple[int, ...]] | None) -> list[tuple[int, ...]]:
    if given is not None and len(given) != len(file.inputs):
        names = ", ".join(repr(value.name) for value in file.inputs)
        raise ModelFileError(
            f"{file.path} has {len(file.inputs)} inputs ({names}), but {len(given)} shapes were given."
        )
    found = []
    for index, value in enumerate(file.inputs):
        own = value.shape[1:]
        shape = own if given is None else given[index]
        if any(size is None for size in shape):
            shown = "x".join("?" if size is None else str(size) for size in own)
            raise ModelFileError(
                f"{file.path} leaves the shape of its input {value.name!r} open: {shown} without the batch. Give it: "
                f"{file.path.name}?shape={'x'.join('64' if size is None else str(size) for size in own)}, say."
            )
        if len(shape) != len(own) or any(a is not None and a != b for a, b in zip(own, shape, strict=True)):
            shown = "x".join("?" if size is None else str(size) for size in own)
            raise ModelFileError(
                f"{file.path}: the input {value.name!r} has the shape {shown} without the batch, not "
                f"{'x'.join(map(str, shape))}."
            )
        found.append(tuple(int(size) for size in shape if size is not None))
    return found


def _check(onnxruntime: Any, file: OnnxFile, sizes: Sequence[tuple[int, ...]], network: nn.Module) -> None:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(str(file.path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ModelFileError(f"{file.path} is refused by ONNX Runtime: {str(error).splitlines()[0]}") from error
    batch = file.batch or _EXAMPLES
    examples = batch * max(_EXAMPLES // batch, 2) if file.batch else _EXAMPLES
    types = [tensor_of(np.zeros(1, value.dtype)).dtype for value in file.inputs]
    inputs = random_inputs(network, sizes, types, examples)
    kinds = [*(value.dtype for value in file.inputs), *(array.dtype for array in file.stored.values())]
    half = np.dtype(np.float16) in kinds
    parts: list[list[torch.Tensor]] = []
    for start in range(0, examples, batch):
        feeds = {
            value.name: tensor[start : start + batch].numpy().astype(value.dtype)
            for value, tensor in zip(file.inputs, inputs, strict=True)
        }
        parts.append([tensor_of(np.asarray(output)) for output in session.run(None, feeds)])
    expected = tuple(torch.cat(column) for column in zip(*parts, strict=True))
    check_same(network, inputs, expected, f"{file.path}", "ONNX Runtime", 1e-2 if half else 1e-4)
