"""Sony's model-compression-toolkit: mixed precision by its ILP, its label-free reconstruction, its own QAT.

.peers/mct/bin/python benchmarks/peers/mct.py --data DIR --stages post-training,gptq,trained
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import common
import torch
from common import POST_TRAINING, TRAINED, Outcome, Task, normalised, weight_counts

from training import train

# isort: split
# user code: begin
import model_compression_toolkit as mct
from mct_quantizers import QuantizationMethod
from model_compression_toolkit.target_platform_capabilities.constants import KERNEL_ATTR, WEIGHTS_N_BITS
from model_compression_toolkit.target_platform_capabilities.tpc_models.imx500_tpc.v1_0 import tpc as imx500

WIDTHS = (8, 7, 6, 5, 4, 3, 2)


def platform():
    """The default platform with every width for weights and free scales for activations."""
    base, _, default = imx500.get_op_quantization_configs()
    method = {"activation_quantization_method": QuantizationMethod.SYMMETRIC}
    base, default = base.clone_and_edit(**method), default.clone_and_edit(**method)
    options = [base.clone_and_edit(attr_to_edit={KERNEL_ATTR: {WEIGHTS_N_BITS: bits}}) for bits in WIDTHS]
    return imx500.generate_tpc(default, base, options, "every_width")


def images(pixels):
    for batch in pixels.split(64):
        yield [normalised(batch)]


def settings():
    search = mct.core.MixedPrecisionQuantizationConfig(num_of_images=64, use_hessian_based_scores=False)
    return mct.core.CoreConfig(mixed_precision_config=search)


# user code: end


def quantize(task: Task) -> Outcome:
    given = {
        "representative_data_gen": partial(images, task.calibration.pixels),
        "target_resource_utilization": mct.core.ResourceUtilization(weights_memory=task.weight_bytes),
        "core_config": settings(),
        "target_platform_capabilities": platform(),
    }
    training = 0.0
    if task.stage == POST_TRAINING:
        # user code: begin (post-training)
        network, _ = mct.ptq.pytorch_post_training_quantization(task.network, **given)
        # user code: end
    elif task.stage == TRAINED:
        # user code: begin (trained)
        init = mct.qat.pytorch_quantization_aware_training_init_experimental
        network, _ = init(task.network, **given)
        training = train(network, task.network, task.train, task.epochs, task.seed, task.lr)
        network = mct.qat.pytorch_quantization_aware_training_finalize_experimental(network)
        # user code: end
    else:
        # user code: begin (gptq)
        network, _ = mct.gptq.pytorch_gradient_post_training_quantization(
            task.network,
            gptq_config=mct.gptq.get_pytorch_gptq_config(n_epochs=50),
            gptq_representative_data_gen=partial(images, task.calibration.pixels[:320]),
            **given,
        )
        # user code: end
    return Outcome(network.eval(), plan_of(network, task), partial(export, network, task), 0.0, training)


def plan_of(network: torch.nn.Module, task: Task) -> dict[str, int]:
    """Bits of every layer, by the float network's names, which MCT writes with underscores."""
    names = {name.replace(".", "_"): name for name in weight_counts(task.network)}
    plan = {}
    for name, module in network.named_modules():
        quantizers = getattr(module, "weights_quantizers", None)
        if quantizers:
            (quantizer,) = quantizers.values()
            plan[names[name.removesuffix("_bn")]] = int(quantizer.num_bits)
    return plan


def export(network: torch.nn.Module, task: Task, folder: Path) -> None:
    """TorchScript, since its ONNX exporter fails with this PyTorch; in both formats weights are floats."""
    # user code: begin
    exporter = mct.exporter
    exporter.pytorch_export_model(
        network.eval(),
        str(folder / "model.pt"),
        partial(images, task.calibration.pixels[:64]),
        serialization_format=exporter.PytorchExportSerializationFormat.TORCHSCRIPT,
        quantization_format=exporter.QuantizationFormat.FAKELY_QUANT,
    )
    # user code: end


if __name__ == "__main__":
    common.main("mct", quantize, ["model-compression-toolkit"], __file__, (POST_TRAINING, "gptq", TRAINED))
