"""ONNX files of quantized networks: their size, their time in ONNX Runtime, and how far they agree with the integers.

    OMP_NUM_THREADS=1 python benchmarks/export.py --data DIR
    OMP_NUM_THREADS=1 python benchmarks/export.py --data DIR --networks resnet20,mobilenetv2 --images 200 --rounds 30

Every network is quantized after training, its weights at all widths from 2 to 8 bits (the larger the layer, the fewer),
and again with 8 bits everywhere. The float network is the same graph with dequantized weights. Times are of one
image on one thread; files take turns, and ratios are medians over rounds. DIR as for ``benchmarks/cifar.py``;
MobileNetV2 has random weights and sees noise.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import singledispatch
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from sigmaquant.data.cifar10 import cifar10_arrays
from sigmaquant.export.onnx import OnnxRunner, export_onnx
from sigmaquant.export.onnx.builder import GraphBuilder
from sigmaquant.graph import QuantGraph, trace
from sigmaquant.hardware.costs import IdealCosts
from sigmaquant.lowering import IntegerExecutor, IntegerModel, lower
from sigmaquant.operators import Affine, Average, Concatenation, Convolution, Linear, Operator, Pad, Reshape, Slice, Sum
from sigmaquant.plan import BITWIDTHS, BitwidthPlan
from sigmaquant.quant import calibrate_, prepare, reestimate_batch_norm_, set_plan_

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TRAINED = {
    "resnet8": ("mlperf_resnet8_cifar10", (0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255)),
    "resnet20": ("akamaster_resnet20_cifar10", MEAN, STD),
    "resnet56": ("akamaster_resnet56_cifar10", MEAN, STD),
    "densenet100": ("dice_densenet100_12_cifar10", (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
}
MIDRISE_UP_TO = 4


@dataclass(frozen=True)
class Subject:
    """A network, images to calibrate on and images to compare on."""

    graph: QuantGraph
    calibration: Tensor
    images: Tensor


class Logits(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x).logits


def subject(name: str, data: Path, images: int) -> Subject:
    if name == "mobilenetv2":
        from transformers import MobileNetV2Config, MobileNetV2ForImageClassification

        config = MobileNetV2Config(image_size=64, tf_padding=False, num_labels=10)
        network: nn.Module = Logits(MobileNetV2ForImageClassification(config)).eval()
        calibration, test = torch.randn(256, 3, 64, 64), torch.randn(images, 3, 64, 64)
    else:
        import load

        key, mean, std = TRAINED[name]
        network, _ = load.network(key)

        def normalised(split: str, count: int) -> Tensor:
            found = torch.from_numpy(cifar10_arrays(data / "cifar10", split)[0][:count])
            real = found.permute(0, 3, 1, 2).float() / 255
            return (real - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)

        calibration, test = normalised("train", 512), normalised("test", images)
    return Subject(trace(network, test[:2]), calibration, test)


def quantized(given: Subject, widths: tuple[int, ...]) -> IntegerModel:
    """At the widths, fewest bits for the largest layers."""
    layers = sorted(given.graph.layers, key=lambda spec: -spec.elements)
    weights = {spec.name: widths[i * len(widths) // len(layers)] for i, spec in enumerate(layers)}
    activations = dict.fromkeys(given.graph.activation_names, 8)
    network = prepare(given.graph)
    set_plan_(network, BitwidthPlan(weights, activations, given.graph.fingerprint, MIDRISE_UP_TO))
    batches = given.calibration.split(128)
    reestimate_batch_norm_(network, batches)
    calibrate_(network, batches)
    return lower(network)


class FloatGraph(GraphBuilder):
    """The float twin of an integer model; edges are float tensors under their own names."""

    def __init__(self, model: IntegerModel) -> None:
        super().__init__()
        self.model = model

    def write(self, value: str, operator: Any) -> None:
        """The operator's output, clipped as its codes are."""
        edge = self.model.edges[operator.output]
        qmin, qmax = edge.range
        if (operator.low, operator.high) == (edge.zero_point, qmax) or edge.zero_point == qmin:
            self.node("Relu", [value], edge.name)
        else:
            self.node("Identity", [value], edge.name)


@singledispatch
def in_float(operator: Operator, to: FloatGraph) -> None:
    raise TypeError(f"this benchmark does not know {type(operator).__name__}")


def parameters(operator: Convolution | Linear, to: FloatGraph) -> list[str]:
    weight = operator.codes * operator.scale.reshape(-1, *[1] * (operator.codes.ndim - 1))
    unit = operator.scale / operator.gain * to.model.edges[operator.inputs[0]].scale
    constants = {"weight": weight, "bias": operator.bias * unit}
    return [to.constant(v.astype(np.float32), f"{operator.name}.{key}") for key, v in constants.items()]


@in_float.register
def _(operator: Convolution, to: FloatGraph) -> None:
    before, after = zip(*operator.padding, strict=True)
    geometry = {"strides": operator.stride, "pads": before + after, "group": operator.groups}
    inputs = [operator.inputs[0], *parameters(operator, to)]
    to.write(to.node("Conv", inputs, hint=operator.name, **geometry), operator)


@in_float.register
def _(operator: Linear, to: FloatGraph) -> None:
    inputs = [operator.inputs[0], *parameters(operator, to)]
    to.write(to.node("Gemm", inputs, hint=operator.name, transB=1), operator)


@in_float.register
def _(operator: Affine, to: FloatGraph) -> None:
    unit = 2.0**-operator.shift * to.model.edges[operator.output].scale
    factor = operator.multiplier * unit / to.model.edges[operator.inputs[0]].scale
    vectors = (factor, operator.offset * unit, 0 * factor, 0 * factor + 1)
    inputs = [operator.inputs[0], *(to.constant(v.astype(np.float32), f"{operator.name}.vector") for v in vectors)]
    to.write(to.node("BatchNormalization", inputs, hint=operator.name, epsilon=0.0), operator)


@in_float.register
def _(operator: Sum, to: FloatGraph) -> None:
    to.write(to.node("Add", operator.inputs, hint=operator.name), operator)


@in_float.register
def _(operator: Concatenation, to: FloatGraph) -> None:
    to.write(to.node("Concat", operator.inputs, hint=operator.name, axis=operator.axis + 1), operator)


@in_float.register
def _(operator: Average, to: FloatGraph) -> None:
    if operator.kernel:
        geometry = {"kernel_shape": operator.kernel, "strides": operator.stride}
        to.write(to.node("AveragePool", operator.inputs, hint=operator.name, **geometry), operator)
        return
    shape = to.model.edges[operator.output].shape
    mean = to.node("GlobalAveragePool", operator.inputs, hint=operator.name)
    to.write(to.node("Reshape", [mean, to.integers(-1, *shape)], hint=operator.name), operator)


@in_float.register
def _(operator: Pad, to: FloatGraph) -> None:
    sides = to.integers(0, *operator.before, 0, *operator.after)
    to.node("Pad", [*operator.inputs, sides], operator.output)


@in_float.register
def _(operator: Slice, to: FloatGraph) -> None:
    window = (operator.start, operator.stop, operator.axis + 1, operator.step)
    to.node("Slice", [*operator.inputs, *(to.integers(v) for v in window)], operator.output)


@in_float.register
def _(operator: Reshape, to: FloatGraph) -> None:
    to.node("Reshape", [*operator.inputs, to.integers(-1, *operator.shape)], operator.output)


def export_float(model: IntegerModel, path: Path) -> None:
    """The network in float32, without any quantizer."""
    builder = FloatGraph(model)
    for edge in model.edges:
        builder.unique(edge)
    for operator in model.operators:
        in_float(operator, builder)
    inputs, outputs = (
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", *model.edges[n].shape]) for n in names]
        for names in (model.inputs, model.outputs)
    )
    graph = helper.make_graph(builder.nodes, "float", inputs, outputs, builder.initializers)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)


def milliseconds(runners: Mapping[str, OnnxRunner], image: Tensor, rounds: int) -> dict[str, list[float]]:
    """Times of one image in each round; the files take turns, so that a busy machine slows all alike."""
    times: dict[str, list[float]] = {name: [] for name in runners}
    for turn in range(rounds + 3):
        for name, runner in runners.items():
            start = time.perf_counter()
            runner(image)
            if turn >= 3:  # the first ones allocate
                times[name].append(1e3 * (time.perf_counter() - start))
    return times


def outputs(runner: Any, images: Tensor) -> Tensor:
    return torch.cat([runner(batch) for batch in images.split(50)])


def rows(name: str, given: Subject, folder: Path, rounds: int) -> list[str]:
    mixed, uniform = quantized(given, BITWIDTHS), quantized(given, (8,))
    costs = IdealCosts(given.graph).cost(mixed.plan)
    ideal = costs.weight_bytes + costs.scale_bytes + costs.other_bytes
    files = {key: folder / f"{key}.onnx" for key in ("float", "int8", "planes", "native")}
    export_float(mixed, files["float"])
    export_onnx(uniform, files["int8"])
    export_onnx(mixed, files["planes"])
    export_onnx(mixed, files["native"], form="native")
    times = milliseconds({key: OnnxRunner(path) for key, path in files.items()}, given.images[:1], rounds)

    def ratio(key: str, to: str) -> float:
        return statistics.median(a / b for a, b in zip(times[key], times[to], strict=True))

    result = []
    for key, model in (("int8", uniform), ("planes", mixed), ("native", mixed)):
        expected = outputs(IntegerExecutor(model), given.images)
        scale = model.edges[model.outputs[0]].scale
        agreement = []
        for fused in (False, True):
            found = outputs(OnnxRunner(files[key], fused=fused), given.images)
            same = (found.argmax(1) == expected.argmax(1)).double().mean().item()
            steps = ((found - expected) / scale).abs().round()
            agreement.append(f"{100 * same:.2f} % ({(steps == 0).double().mean():.3f}, {int(steps.max())})")
        size = files[key].stat().st_size
        limit = "" if key == "int8" else f"{ideal:,} | {1.25 * ideal + 60_000:,.0f}"
        result.append(
            f"| {name} | {key} | {size:,} | {limit or ' | '} | {statistics.median(times[key]):.2f} "
            f"| {ratio(key, 'float'):.2f} | {ratio(key, 'int8'):.2f} | {agreement[0]} | {agreement[1]} |"
        )
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with cifar10/, weights/ and load.py")
    parser.add_argument("--networks", default=",".join([*TRAINED, "mobilenetv2"]))
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=60)
    args = parser.parse_args()
    sys.path.insert(0, str(args.data))
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print("Agreement: equal decisions (share of equal outputs, largest difference in steps).\n")
    print("| network | file | bytes | ideal | limit | ms | / float | / int8 | fusion off | default |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for name in args.networks.split(","):
        with tempfile.TemporaryDirectory() as folder:
            given = subject(name, args.data, args.images)
            print(*rows(name, given, Path(folder), args.rounds), sep="\n", flush=True)


if __name__ == "__main__":
    with torch.no_grad():
        main()
