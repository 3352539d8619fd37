"""The packed checkpoint: a safetensors file with b bits a weight, which loads back as the same quantized network.

Weights are stored as packed codes and float32 scales, everything else (biases, BatchNorm, activation grids) as it is.
The network that is read back holds ``code * scale`` as its weights: its fake-quantized outputs, and the integers that
it is lowered to, are those of the network that was written.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from sigmaquant.errors import CheckpointError
from sigmaquant.export.packing import pack_codes, unpack_codes
from sigmaquant.graph import trace
from sigmaquant.graph.inputs import ExampleInputs
from sigmaquant.numerics import dequantize_weight
from sigmaquant.plan import BitwidthPlan
from sigmaquant.pruning.removal import pruned_model
from sigmaquant.quant import QuantizedNetwork, prepare, restore_plan_
from sigmaquant.runs.atomic import save_tensors_atomic
from sigmaquant.runs.weights import load_tensors

FORMAT = "sigmaquant.packed"
_CODES = ".codes"


def export_packed(network: QuantizedNetwork, path: str | Path) -> None:
    """Write the packed checkpoint.

    Args:
        network: at its plan.
        path: the file, written atomically.

    Raises:
        CheckpointError: the network has no plan.
        StorageError: the file could not be written.
    """
    if network.plan is None:
        raise CheckpointError("the network has no plan yet, so there are no codes to pack. Quantize it first.")
    tensors = dict(network.state())
    for spec in network.graph.layers:
        codes = network.codes(spec.name).cpu().numpy()
        packed = pack_codes(codes, network.plan.weights[spec.name], network.plan.is_midrise(spec.name))
        for name in (spec.name, *spec.tied):  # a tied weight is stored once
            tensors.pop(f"{name}.weight", None)
            if name != spec.name:
                tensors.pop(f"{name}.weight_quantizer.scale", None)
        tensors[spec.name + _CODES] = torch.from_numpy(packed)
    metadata = {"format": FORMAT, "version": "1", "model": network.graph.fingerprint, "plan": network.plan.to_json()}
    save_tensors_atomic(Path(path), {key: value.detach().cpu() for key, value in tensors.items()}, metadata)


def load_packed(model: nn.Module, example_inputs: ExampleInputs, path: str | Path) -> QuantizedNetwork:
    """The quantized network of a packed checkpoint, in evaluation mode.

    Args:
        model: the float model's architecture; its weights do not matter.
        example_inputs: as for `sigmaquant.graph.trace`.
        path: the file.

    Raises:
        CheckpointError: missing, damaged, or of another model.
        PlanError: the plan inside is malformed or of another model.
    """
    path = Path(path)
    tensors, metadata = load_tensors(path)
    if metadata.get("format") != FORMAT:
        raise CheckpointError(f"{path} is no packed checkpoint: its metadata do not say so.")
    plan = BitwidthPlan.from_json(metadata.get("plan", ""))
    network = prepare(trace(pruned_model(model, plan), example_inputs))
    plan.check(network.graph.layer, network.graph.activation_names, network.graph.fingerprint)
    for spec in network.graph.layers:
        weight = _weight(tensors, spec.name, spec.weight_shape, spec.channel_axis, plan, path)
        scale = tensors[f"{spec.name}.weight_quantizer.scale"]
        for name in (spec.name, *spec.tied):
            tensors[f"{name}.weight"] = weight
            tensors[f"{name}.weight_quantizer.scale"] = scale
    restore_plan_(network, plan, tensors)
    return network.eval()


def _weight(
    tensors: dict[str, Tensor], name: str, shape: tuple[int, ...], axis: int, plan: BitwidthPlan, path: Path
) -> Tensor:
    """The weight that the packed codes stand for; the codes leave `tensors`."""
    packed, scale = tensors.pop(name + _CODES, None), tensors.get(f"{name}.weight_quantizer.scale")
    if packed is None or scale is None or packed.dtype != torch.uint8 or scale.shape != (shape[axis],):
        raise CheckpointError(f"{path}: the codes or scales of layer {name!r} are missing or of another model.")
    if not bool((torch.isfinite(scale) & (scale > 0)).all()):
        raise CheckpointError(f"{path}: a scale of layer {name!r} is not positive and finite. The file is damaged.")
    try:
        codes = unpack_codes(np.asarray(packed), shape, plan.weights[name], plan.is_midrise(name))
    except CheckpointError as error:
        raise CheckpointError(f"{path}: layer {name!r}: {error}") from None
    return dequantize_weight(torch.from_numpy(codes), scale, axis)
