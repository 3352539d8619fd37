"""`load_model`: a network named by text: a factory, a file of another framework, an entry of a collection."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from torch import nn

from sigmaquant.errors import CheckpointError, ModelFileError, SigmaQuantError
from sigmaquant.frontends.collections import COLLECTIONS
from sigmaquant.frontends.endings import drop_softmax_, softmax_ends
from sigmaquant.frontends.factories import call_factory, load_object
from sigmaquant.frontends.options import partition, read_options
from sigmaquant.runs import load_weights

log = logging.getLogger("sigmaquant")

_AS_WEIGHTS = (
    "holds weights, or a module together with code that only Python can find again. Give the network as "
    "path/file.py:factory, timm:NAME, torchvision:NAME or hf:NAME, and this file with --weights (weights= in Python)."
)
_OTHERS = {
    ".pt": _AS_WEIGHTS,
    ".pth": _AS_WEIGHTS,
    ".bin": _AS_WEIGHTS,
    ".ckpt": _AS_WEIGHTS,
    ".safetensors": _AS_WEIGHTS,
    ".pt2": "is a program of torch.export, whose modules are gone. Give the module that it was exported from.",
    ".pte": "is a program for ExecuTorch. Give the module that it was exported from.",
    ".tflite": "is a LiteRT file. Give the Keras or PyTorch network that it was converted from.",
    ".pb": "is a TensorFlow graph. Convert it: python -m tf2onnx.convert --saved-model DIR --output net.onnx.",
    ".mlmodel": "is a Core ML file. Give the network that it was converted from.",
    ".mlpackage": "is a Core ML file. Give the network that it was converted from.",
    ".engine": "is built for one GPU by TensorRT. Give the ONNX file that it was built from.",
    ".json": "holds an architecture at most. Save the whole network as .keras.",
    ".weights": "holds weights only. Save the whole network as .keras, or export it to ONNX.",
}


def load_model(spec: str | Path, weights: str | Path | None = None) -> nn.Module:
    """The network that a text names, in evaluation mode; the same texts that the command line takes.

    - ``package.module:factory`` or ``path/file.py:factory``: what the function gives, or a finished module.
    - ``net.onnx``: a float ONNX file; ``net.onnx?shape=3x224x224`` gives the shape of an input that the file leaves
      open (without the batch; several with commas), ``net.onnx?logits=true`` leaves out a softmax at its end. Needs the
      extra ``onnx``.
    - ``net.keras``, ``net.h5``: a Keras network, with the same options. Needs the extra ``keras``.
    - ``timm:NAME``, ``torchvision:NAME``, ``hf:NAME``: a network of timm, torchvision or transformers, with arguments
      as ``timm:resnet18?num_classes=100``. Without `weights` it has the collection's own trained ones. ``hf:`` takes
      a folder, or a name whose files are on this machine.

    Networks from files consist of stock layers under the file's names, take what the file takes (``[n, height, width,
    channels]`` of a Keras network), and are checked on random inputs against the file's own runtime.

    Args:
        spec: see above.
        weights: a file with a ``state_dict``: ``.safetensors``, or saved by ``torch.save``.

    Raises:
        SigmaQuantError: the factory fails or gives no `nn.Module`, or the collection has no such network.
        ModelFileError: a file that cannot become a network.
        CheckpointError: the weights do not fit.
        MissingExtraError: what reads this kind is not installed.

    Example:
        >>> load_model("torch.nn:Identity")
        Identity()
    """
    spec = str(spec)
    path = None if weights is None else Path(weights)
    model = _make(spec, path)
    if not isinstance(model, nn.Module):
        raise SigmaQuantError(f"the model: {spec} gives a {type(model).__name__}, not a torch.nn.Module.")
    if path is not None:
        _fill(model, spec, path)
    return model.eval()


def _make(spec: str, weights: Path | None) -> object:
    source, query = partition(spec)
    suffix = Path(source).suffix.lower()
    if suffix in _FILES:
        return _FILES[suffix](Path(source), query, spec)
    collection, separator, name = source.partition(":")
    if separator and collection in COLLECTIONS:
        return COLLECTIONS[collection](name, read_options(query, f"the model {spec!r}"), trained=weights is None)
    if suffix in _OTHERS:
        raise ModelFileError(f"the model: {spec} {_OTHERS[suffix]}")
    if Path(source).is_dir():
        raise ModelFileError(
            f"the model: {spec} is a folder. A TensorFlow SavedModel becomes an ONNX file with python -m "
            f"tf2onnx.convert --saved-model {spec} --output net.onnx; a folder of Hugging Face is read as hf:{spec}."
        )
    return call_factory(spec, "the model") if ":" in spec else load_object(spec, "the model")


def _fill(model: nn.Module, spec: str, path: Path) -> None:
    tensors = load_weights(path)
    try:
        result = model.load_state_dict(tensors, strict=False)
    except RuntimeError as error:  # of another shape
        raise CheckpointError(f"{path} does not fit {spec}: {str(error).splitlines()[-1].strip()}") from error
    missing = [key for key in result.missing_keys if not key.endswith("num_batches_tracked")]
    for what, keys in (("lacks", missing), ("has the unknown", result.unexpected_keys)):
        if keys:
            raise CheckpointError(f"{path} does not fit {spec}: it {what} {keys[0]!r} ({len(keys)} in all).")


def _onnx(path: Path, query: str, spec: str) -> nn.Module:
    from sigmaquant.frontends.onnx.load import load_onnx

    options = _file_options(query, spec)
    return _ended(load_onnx(path, _shapes(options, spec)), options, spec)


def _keras(path: Path, query: str, spec: str) -> nn.Module:
    from sigmaquant.frontends.keras.load import load_keras

    options = _file_options(query, spec)
    return _ended(load_keras(path, _shapes(options, spec)), options, spec)


def _file_options(query: str, spec: str) -> dict[str, str]:
    options = {name: str(value) for name, value in read_options(query, f"the model {spec!r}", as_text=True).items()}
    if unknown := sorted(set(options) - {"shape", "logits"}):
        raise ModelFileError(
            f"the model {spec!r} has the unknown option {unknown[0]!r}; known are 'shape' and 'logits'."
        )
    if options.get("logits", "true") not in ("true", "false"):
        raise ModelFileError(f"the model {spec!r}: logits must be true or false, not {options['logits']!r}.")
    return options


def _shapes(options: Mapping[str, str], spec: str) -> list[tuple[int, ...]] | None:
    if "shape" not in options:
        return None
    try:
        found = [tuple(int(size) for size in part.lower().split("x")) for part in options["shape"].split(",")]
    except ValueError:
        found = []
    if not found or any(size < 1 for shape in found for size in shape):
        raise ModelFileError(f"the shape of {spec!r} must be sizes without the batch, like shape=3x224x224.")
    return found


def _ended(network: nn.Module, options: Mapping[str, str], spec: str) -> nn.Module:
    """The network with or without the softmax at its end."""
    if options.get("logits") == "true":
        if not drop_softmax_(network):
            raise ModelFileError(f"the model {spec!r} has no softmax at its end. Leave the option logits out.")
    elif "logits" not in options and softmax_ends(network):
        joined = "&" if options else "?"
        log.warning(
            "%s ends in a softmax. Networks train better without it, and devices seldom need it: %s%slogits=true "
            "leaves it out, and logits=false says that it shall stay",
            spec,
            spec,
            joined,
        )
    return network


_FILES: dict[str, Callable[[Path, str, str], nn.Module]] = {
    ".onnx": _onnx,
    ".keras": _keras,
    ".h5": _keras,
    ".hdf5": _keras,
}
