"""SigmaQuant itself, with the settings of ``benchmarks/cifar.py``; ``workflow/control.py`` is its uniform control.

.peers/sigmaquant/bin/python benchmarks/peers/ours.py --data DIR --stages post-training,trained
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import common
from common import POST_TRAINING, TRAINED, Outcome, Task

# isort: split
# user code: begin
import sigmaquant
from sigmaquant import Budget, Settings
from sigmaquant.data import CropAndFlip, Normalize, TensorSource
from sigmaquant.export.litert import export_litert
from sigmaquant.export.onnx import export_onnx
from sigmaquant.export.packed import export_packed
from sigmaquant.lowering import lower

# user code: end


def quantize(task: Task, strategy: str = "sigma") -> Outcome:
    # user code: begin
    prepare = Normalize(common.MEAN, common.STD)
    train = TensorSource(task.train.pixels, task.train.labels, augment=CropAndFlip(), transform=prepare)
    validation = TensorSource(task.validation.pixels, task.validation.labels, transform=prepare)
    result = sigmaquant.quantize(
        task.network,
        train,
        budget=Budget(size=f"{task.size!r}x", size_counts="weights"),
        validation_data=validation,
        settings=Settings(
            strategy=strategy,
            bitwidths=common.WIDTHS,
            post_training=task.stage == POST_TRAINING,
            cycle_examples=0,
            max_cycles=3,
            sensitivity_examples=256,
            search_examples=512,
            final_epochs=task.epochs,
            lr=task.lr,
            seed=task.seed,
            # user code: end
            bf16=False,  # all others train in float32, on every processor
            # user code: begin
        ),
    )
    # user code: end
    return Outcome(result.network, dict(result.plan.weights), partial(export, result.network))


def export(network: sigmaquant.quant.QuantizedNetwork, folder: Path) -> None:
    # user code: begin
    model = lower(network)
    export_onnx(model, folder / "model.onnx")
    export_litert(model, folder / "model.tflite")
    export_packed(network, folder / "packed.safetensors")
    # user code: end


if __name__ == "__main__":
    common.main("sigmaquant", quantize, ["sigmaquant"], __file__, (POST_TRAINING, TRAINED))
