"""NVIDIA's modelopt: AutoQuantize for the weights' widths, then training of its fake-quantized network.

.peers/modelopt/bin/python benchmarks/peers/nvidia_modelopt.py --data DIR --stages post-training,trained
"""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path

import common
import torch
from common import POST_TRAINING, TRAINED, Outcome, Task, weight_layers

from training import train

# isort: split
# user code: begin
import modelopt.torch.opt as mto
import modelopt.torch.quantization as mtq


def width(bits):
    """Weights of so many bits per channel, clipped for the least squared error; inputs of 8 bits per tensor."""
    return {
        "quant_cfg": [
            {"quantizer_name": "*weight_quantizer", "cfg": {"num_bits": bits, "axis": 0}},
            {"quantizer_name": "*input_quantizer", "cfg": {"num_bits": 8, "axis": None}},
        ],
        "algorithm": {"method": "mse", "step_size": 0.05, "start_multiplier": 0.3, "stop_multiplier": 1.0},
    }


def loss(outputs, batch):
    return torch.nn.functional.cross_entropy(outputs, batch[1])


# user code: end


def quantize(task: Task) -> Outcome:
    # user code: begin
    batches = list(task.calibration.batches(128))
    network, _ = mtq.auto_quantize(
        copy.deepcopy(task.network),  # it works on the network itself
        constraints={"effective_bits": 32 / task.size},
        quantization_formats=[width(bits) for bits in common.WIDTHS],
        data_loader=batches,
        forward_step=lambda network, batch: network(batch[0]),
        loss_func=loss,
        num_calib_steps=len(batches),
        num_score_steps=len(batches),
    )
    # user code: end
    training = 0.0
    if task.stage == TRAINED:
        # user code: begin (trained)
        training = train(network, task.network, task.train, task.epochs, task.seed, task.lr)
        # user code: end
    return Outcome(network.eval(), plan_of(network, task), partial(export, network, task), 0.0, training)


def plan_of(network: torch.nn.Module, task: Task) -> dict[str, int]:
    plan = {}
    for name, layer in weight_layers(network).items():
        weights, inputs = layer.weight_quantizer, layer.input_quantizer
        plan[name] = int(weights.num_bits) if weights.is_enabled else 32
        if weights.is_enabled and not (inputs.is_enabled and inputs.num_bits == 8):
            raise RuntimeError(f"{name}: quantized weights, but inputs that are not of 8 bits")
    return plan


def export(network: torch.nn.Module, task: Task, folder: Path) -> None:
    # user code: begin
    mto.save(network, folder / "modelopt.pth")
    # user code: end


if __name__ == "__main__":
    common.main("modelopt", quantize, ["nvidia-modelopt"], __file__, (POST_TRAINING, TRAINED))
