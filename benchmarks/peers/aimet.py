"""Qualcomm's AIMET: automatic mixed precision, sequential MSE, then training of its quantization simulation.

    .peers/aimet/bin/python benchmarks/peers/aimet.py --data DIR --stages post-training,post-training-2-4-8,trained

Automatic mixed precision takes a tolerated loss of accuracy and no size. It returns its list of narrowings from most to
least harmless, so the plan here is the first along that list that fits the budget. One search serves all sizes.
"""

from __future__ import annotations

import copy
import json
from functools import partial
from pathlib import Path

import common
import torch
from common import POST_TRAINING, TRAINED, Outcome, Task, cpu_seconds, normalised, packed_bytes, weight_counts

from training import batches, train

# isort: split
# user code: begin
from aimet_torch import onnx as aimet_onnx
from aimet_torch.amp.mixed_precision_algo import EvalCallbackFactory
from aimet_torch.batch_norm_fold import fold_all_batch_norms
from aimet_torch.bn_reestimation import reestimate_bn_stats
from aimet_torch.common.amp.utils import AMPSearchAlgo
from aimet_torch.common.defs import CallbackFunc, QuantizationDataType, QuantScheme
from aimet_torch.common.quantsim_config.utils import get_path_for_per_channel_config
from aimet_torch.mixed_precision import choose_mixed_precision
from aimet_torch.model_preparer import prepare_model
from aimet_torch.quantsim import QuantizationSimModel
from aimet_torch.seq_mse import apply_seq_mse


def simulation(network, example, pixels, plan=None, scheme=QuantScheme.post_training_tf_enhanced):
    sim = QuantizationSimModel(
        network,
        example,
        quant_scheme=scheme,
        default_param_bw=8,
        default_output_bw=8,
        config_file=get_path_for_per_channel_config(),
    )
    for name, bits in (plan or {}).items():
        sim.model.get_submodule(name).param_quantizers["weight"].bitwidth = bits
    sim.compute_encodings(forward, pixels)
    return sim


@torch.no_grad()
def forward(network, pixels):
    for batch in pixels.split(128):
        network(normalised(batch))


def narrowings(network, example, pixels, widths, folder):
    """Every narrowing of one layer, the most harmless first."""
    loader = torch.utils.data.DataLoader([normalised(pixel) for pixel in pixels], batch_size=128)
    integer = QuantizationDataType.int
    points = choose_mixed_precision(
        simulation(network, example, pixels[:128], scheme=QuantScheme.min_max),  # the other is far slower
        example,
        candidates=[((8, integer), (bits, integer)) for bits in sorted(widths, reverse=True)],
        eval_callback_for_phase1=EvalCallbackFactory(loader).sqnr(128),
        eval_callback_for_phase2=CallbackFunc(lambda network, _: 0.0),  # size decides, not the score
        allowed_accuracy_drop=None,
        results_dir=str(folder),
        clean_start=True,
        forward_pass_callback=CallbackFunc(forward, pixels[:128]),
        use_all_amp_candidates=True,
        amp_search_algo=AMPSearchAlgo.BruteForce,
    )
    return [(list(group.parameter_quantizers), candidate[1][0]) for _, _, group, candidate in points]


# user code: end


def search(task: Task, network: torch.nn.Module, widths: tuple[int, ...]) -> tuple[dict[str, int], float]:
    """The plan, and CPU seconds: of the shared search too, for it belongs to every row."""
    started = cpu_seconds()
    folder = task.cache / f"aimet-{task.seed}-{len(task.calibration)}-{''.join(map(str, widths))}"
    kept = folder / "narrowings.json"
    earlier = 0.0
    if kept.exists():
        found = json.loads(kept.read_text())
        points, earlier = found["points"], found["cpu_s"]
    else:
        folder.mkdir(parents=True, exist_ok=True)
        points = narrowings(network, task.example, task.calibration.pixels, widths, folder)
        kept.write_text(json.dumps({"points": points, "cpu_s": cpu_seconds() - started}))
    counts = weight_counts(task.network)
    # user code: begin
    plan = dict.fromkeys(counts, 8)
    for quantizers, bits in points:
        if packed_bytes(plan, counts) <= task.weight_bytes:
            break
        for name in (name for name in plan if any(q == name or q.startswith(name + "_") for q in quantizers)):
            plan[name] = min(plan[name], bits)
    # user code: end
    return plan, earlier + cpu_seconds() - started


def quantize(task: Task) -> Outcome:
    widths = (2, 4, 8) if task.stage.endswith("2-4-8") else common.WIDTHS
    pixels, example = task.calibration.pixels, task.example
    # user code: begin
    network = prepare_model(copy.deepcopy(task.network))  # or it shares layers with the float network
    folded = prepare_model(copy.deepcopy(task.network))
    fold_all_batch_norms(folded, tuple(example.shape), example)
    # user code: end
    plan, search_cpu = search(task, folded, widths)
    started = cpu_seconds()
    training = 0.0
    if task.stage != TRAINED:
        # user code: begin
        sim = simulation(folded, example, pixels, plan)
        apply_seq_mse(sim, [normalised(part) for part in pixels[:512].split(128)], num_candidates=20)
        sim.compute_encodings(forward, pixels)
        # user code: end
        search_cpu += cpu_seconds() - started
    else:
        # user code: begin (trained)
        sim = simulation(network, example, pixels, plan)
        ranges = [p for _, p in sim.named_quantizer_parameters()]
        training = train(sim.model, task.network, task.train, task.epochs, task.seed, task.lr, ranges)
        reestimate_bn_stats(sim.model, list(batches(task.train, 4096, task.seed + 1)), num_batches=32)
        # user code: end
        search_cpu += cpu_seconds() - started - training
    return Outcome(sim.model, plan_of(sim.model, task), partial(export, sim, task), search_cpu, training)


def plan_of(network: torch.nn.Module, task: Task) -> dict[str, int]:
    names = weight_counts(task.network)
    return {name: int(network.get_submodule(name).param_quantizers["weight"].bitwidth) for name in names}


def export(sim: QuantizationSimModel, task: Task, folder: Path) -> None:
    # user code: begin
    aimet_onnx.export(
        sim, task.example, str(folder / "model.onnx"), dynamo=False, opset_version=25, prequantize_constants=True
    )
    # user code: end


if __name__ == "__main__":
    common.main("aimet", quantize, ["aimet-torch"], __file__, (POST_TRAINING, f"{POST_TRAINING}-2-4-8", TRAINED))
