"""`export_onnx`: an `IntegerModel` as an ONNX file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args

from sigmaquant.errors import ExportError, MissingExtraError
from sigmaquant.export.onnx.checks import refuse_damage, refuse_floats
from sigmaquant.lowering.model import IntegerModel
from sigmaquant.runs.atomic import write_bytes_atomic

_Form = Literal["planes", "native"]
_Inputs = Literal["float", "int8", "uint8"]
_Processor = Literal["any", "vnni"]
_LARGEST_BYTES = 2**31 - 1
"""Of a protobuf message."""


def export_onnx(
    model: IntegerModel,
    path: str | Path,
    *,
    form: _Form = "planes",
    inputs: _Inputs = "float",
    name: str = "sigmaquant",
    processor: _Processor = "any",
) -> None:
    """Write the network as an ONNX file, b bits a weight, that ONNX Runtime computes with integer kernels.

    The first dimension of inputs is the batch, of any size (a multiple of it where examples have several rows there:
    ``"N*4"``); outputs are float, with the batch where the network has it. Nodes are named after the
    user's modules, tensors after the model's edges. The metadata hold ``sigmaquant.version``, ``sigmaquant.form``,
    ``sigmaquant.plan`` (JSON), ``sigmaquant.inputs`` (JSON: scale and zero-point of each input's codes) and, where
    functions stand in float behind the last integers, ``sigmaquant.endings`` (JSON: function by name).

    Args:
        model: the network.
        path: the file, replaced in one instant.
        form: ``"planes"`` packs any bitwidth into bytes and unpacks them by bit operations (opset 18, ONNX Runtime 1.18
            and newer); ``"native"`` stores 2, 4 and 6 bits in ONNX' own types (opset 25, ONNX Runtime 1.24 and newer).
        inputs: ``"float"`` takes float32 and quantizes it; ``"int8"`` takes codes, ``"uint8"`` codes + 128.
        name: of the graph.
        processor: ``"any"`` gives the same results everywhere; for that, weights of 8 bits whose sums could saturate
            on x86 without VNNI take kernels of half the speed. ``"vnni"`` keeps the fast ones, for processors that have
            VNNI (x86 servers since 2019, laptops since 2021); on others its results may be wrong.

    Raises:
        ExportError: the network has operators without an integer form, or ones that ONNX cannot express; it is damaged;
            an argument is unknown.
        MissingExtraError: the extra ``onnx`` is not installed.
        StorageError: the file could not be written; an old one is intact.
    """
    for what, value, kind in (("form", form, _Form), ("inputs", inputs, _Inputs), ("processor", processor, _Processor)):
        if value not in get_args(kind):
            raise ExportError(f"ONNX {what} {value!r} is unknown. Choose one of {', '.join(get_args(kind))}.")
    try:
        import onnx  # noqa: F401
    except ImportError:
        raise MissingExtraError("ONNX export", "onnx") from None
    from sigmaquant.export.onnx.assembly import assemble

    refuse_floats(model)
    refuse_damage(model)
    write_bytes_atomic(path, _serialized(assemble(model, form, inputs, name, processor == "any")))


def _serialized(proto: Any) -> bytes:
    import onnx

    size = proto.ByteSize()
    if size > _LARGEST_BYTES:
        raise ExportError(
            f"the ONNX file would have {size / 1e9:.1f} GB, more than the 2 GB that the format holds. Use fewer "
            "bits, or export the network in parts."
        )
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError) as error:
        raise ExportError(
            f"the network is no valid ONNX graph: {' '.join(str(error).split())}. Its operators and shapes do not fit "
            "together: lower the network again."
        ) from error
    result: bytes = proto.SerializeToString(deterministic=True)
    return result
