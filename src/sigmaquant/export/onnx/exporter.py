"""`export_onnx`: an `IntegerModel` as an ONNX file."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from sigmaquant.errors import ExportError, MissingExtraError
from sigmaquant.lowering.model import FloatOperator, IntegerModel
from sigmaquant.runs.atomic import write_bytes_atomic


def export_onnx(
    model: IntegerModel,
    path: str | Path,
    *,
    form: Literal["planes", "native"] = "planes",
    inputs: Literal["float", "int8", "uint8"] = "float",
    name: str = "sigmaquant",
) -> None:
    """Write the network as an ONNX file, b bits a weight, that ONNX Runtime computes with integer kernels.

    The first dimension of inputs and outputs is the batch, of any size; outputs are float. Nodes are named after the
    user's modules, tensors after the model's edges. The metadata hold ``sigmaquant.version``, ``sigmaquant.form``,
    ``sigmaquant.plan`` (JSON) and ``sigmaquant.inputs`` (JSON: scale and zero-point of each input's codes).

    Args:
        model: the network.
        path: the file, replaced in one instant.
        form: ``"planes"`` packs any bitwidth into bytes and unpacks them by bit operations (opset 18, ONNX Runtime 1.18
            and newer); ``"native"`` stores 2, 4 and 6 bits in ONNX' own types (opset 25, ONNX Runtime 1.24 and newer).
        inputs: ``"float"`` takes float32 and quantizes it; ``"int8"`` takes codes, ``"uint8"`` codes + 128.
        name: of the graph.

    Raises:
        ExportError: the network has operators without an integer form, or ones that ONNX cannot express.
        MissingExtraError: the extra ``onnx`` is not installed.
        StorageError: the file could not be written; an old one is intact.
    """
    try:
        import onnx
    except ImportError:
        raise MissingExtraError("ONNX export", "onnx") from None
    from sigmaquant.export.onnx.assembly import assemble

    _refuse_floats(model)
    proto = assemble(model, form, inputs, name)
    onnx.checker.check_model(proto, full_check=True)
    write_bytes_atomic(path, proto.SerializeToString(deterministic=True))


def _refuse_floats(model: IntegerModel) -> None:
    names = [operator.operator for operator in model.operators if isinstance(operator, FloatOperator)]
    if names:
        raise ExportError(
            f"the network has {len(names)} operators without an integer form: {', '.join(names)}. An exported network "
            "computes in integers alone: replace them (LayerNorm by BatchNorm, say), move them out of the network (a "
            "softmax at its end, a resizing at its start), or export the part of it that has none."
        )
