"""Integer models made operator by operator, and the comparison of their ONNX files with the reference."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor

from sigmaquant.export.onnx import OnnxRunner, export_onnx
from sigmaquant.lowering import IntegerExecutor, IntegerModel
from sigmaquant.lowering.executor import decode
from sigmaquant.lowering.fixed_point import factor
from sigmaquant.lowering.model import Convolution, Edge, Linear, Operator
from sigmaquant.plan import BitwidthPlan
from sigmaquant.quant.numerics import activation_range, weight_qmax

PLAN = BitwidthPlan({"layer": 3}, {"x": 8}, "fingerprint", 2)
LARGEST_GAINED = 64
ROUNDINGS = 0.003
"""Share of codes that may differ by one: the reference rounds a fixed-point product, the runtime a float32 one."""


@dataclass
class Net:
    """A model under construction; shapes of outputs are what the executor makes."""

    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))
    edges: dict[str, Edge] = field(default_factory=dict)
    operators: list[Operator] = field(default_factory=list)
    inputs: list[str] = field(default_factory=list)

    def grid(self, bits: int = 8, shape: tuple[int, ...] = ()) -> Edge:
        """A new edge with any zero-point and a scale that makes no ties."""
        low, high = activation_range(bits)
        scale = float(np.float32(self.random.uniform(0.01, 0.05)))
        return Edge(f"e{len(self.edges)}", shape, bits, scale, int(self.random.integers(low, high + 1)))

    def input(self, *shape: int, bits: int = 8) -> str:
        edge = self.grid(bits, shape)
        self.edges[edge.name] = edge
        self.inputs.append(edge.name)
        return edge.name

    def add(self, cls: type, *inputs: str, grid: Edge | None = None, **fields: Any) -> str:
        """An operator, its output on the given grid or on that of its first input."""
        edge = grid or replace(self.edges[inputs[0]], name=f"e{len(self.edges)}")
        operator = cls(f"module.{edge.name}", inputs, edge.name, **fields)
        sources = tuple(dict.fromkeys(inputs))
        alone = IntegerModel((operator,), {**self.edges, edge.name: edge}, sources, (edge.name,), PLAN)
        zeros = [torch.zeros(1, *self.edges[name].shape, dtype=torch.int8) for name in sources]
        (result,) = IntegerExecutor(alone).run_codes(*zeros)
        self.edges[edge.name] = replace(edge, shape=tuple(result.shape[1:]))
        self.operators.append(operator)
        return edge.name

    def layer(
        self,
        source: str,
        shape: tuple[int, ...],
        *,
        bits: int = 8,
        midrise: bool = False,
        fine: bool = True,
        output_bits: int = 8,
        clip: tuple[int, int] | None = None,
        **geometry: Any,
    ) -> str:
        """A linear layer, or with any geometry given a convolution, whose outputs fill their range.

        Args:
            source: edge that it reads.
            shape: of the weight.
            bits: of the weight.
            midrise: its grid.
            fine: with the gain that lowering chooses.
            output_bits: of the output.
            clip: smallest and largest output code.
            geometry: what is no stride of one, no dilation, no padding, no groups.
        """
        given, output, rank = self.edges[source], self.grid(output_bits), len(shape) - 2
        transposed, groups = geometry.get("transposed", False), geometry.get("groups", 1)
        outputs = shape[1] * groups if transposed else shape[0]
        qmax = weight_qmax(bits, midrise)
        codes = self.random.integers(0, 2 * qmax // (1 + midrise) + 1, shape) * (1 + midrise) - qmax
        gain = 2 ** int(np.log2(max(1, LARGEST_GAINED // qmax))) if fine else 1
        sums = 74 * qmax * np.sqrt(np.prod(shape) / outputs)  # their magnitude, in steps of input and weight
        low, high = clip or output.range
        factors = self.random.uniform(0.5, 1.5, outputs) * (high - low + 1) / 2 / sums
        scale = (factors * output.scale / given.scale).astype(np.float32)
        unit = given.scale * scale.astype(np.float64) / gain
        fields: dict[str, Any] = {
            "layer": "layer",
            "codes": codes.astype(np.int8),
            "bits": bits,
            "midrise": midrise,
            "gain": gain,
            "scale": scale,
            "bias": np.rint(self.random.uniform(-1, 1, outputs) * sums * gain).astype(np.int32),
            "factor": factor(unit / output.scale, "test"),
            "low": low,
            "high": high,
        }
        if not rank:
            return self.add(Linear, source, grid=output, **fields)
        ones: dict[str, Any] = {
            "stride": (1,) * rank,
            "dilation": (1,) * rank,
            "padding": ((0, 0),) * rank,
            "groups": 1,
        }
        return self.add(Convolution, source, grid=output, **fields, **{**ones, **geometry})

    def model(self, *outputs: str) -> IntegerModel:
        """What has been built; its output is the last edge if nothing else is said."""
        last = outputs or (next(reversed(self.edges)),)
        return IntegerModel(tuple(self.operators), self.edges, tuple(self.inputs), last, PLAN)


def random_codes(model: IntegerModel, count: int = 3) -> list[Tensor]:
    """Codes of every input."""
    generator = torch.Generator().manual_seed(0)
    edges = [model.edges[name] for name in model.inputs]
    sizes = [(edge.range[0], edge.range[1] + 1, (count, *edge.shape)) for edge in edges]
    return [torch.randint(*size, generator=generator, dtype=torch.int8) for size in sizes]


def codes_of(values: Tensor | tuple[Tensor, ...], model: IntegerModel) -> list[Tensor]:
    """Float outputs as codes of their edges."""
    tensors = values if isinstance(values, tuple) else (values,)
    edges = [model.edges[name] for name in model.outputs]
    return [(x / edge.scale).round() + edge.zero_point for x, edge in zip(tensors, edges, strict=True)]


def check(model: IntegerModel, folder: Path, *, exact: bool = False, count: int = 3, **options: Any) -> None:
    """The file gives the reference's codes, without and with the runtime's fusions."""
    path = folder / "model.onnx"
    export_onnx(model, path, **options)
    codes = random_codes(model, count)
    expected = IntegerExecutor(model).run_codes(*codes)
    real = [decode(x, model.edges[name]) for name, x in zip(model.inputs, codes, strict=True)]
    for fused in (False, True):
        found = codes_of(OnnxRunner(path, fused=fused)(*real), model)
        for name, ours, theirs in zip(model.outputs, found, expected, strict=True):
            assert ours.shape == theirs.shape, name
            wrong = (ours - theirs).abs()
            told = f"{name}, fused={fused}: {int((wrong > 0).sum())} of {wrong.numel()} codes differ, by {wrong.max()}"
            assert wrong.max() <= (not exact), told
            assert (wrong > 0).sum() <= max(1, ROUNDINGS * wrong.numel()), told


def optimized(path: Path, folder: Path) -> onnx.ModelProto:
    """What the runtime makes of a file at its default settings."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return onnx.load(folder / "optimized.onnx")
