"""Integer models made operator by operator, and the comparison of their ONNX files with the reference."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from sigmaquant.export.onnx import OnnxRunner, OnnxWatch, export_onnx
from sigmaquant.graph import trace
from sigmaquant.lowering import IntegerExecutor, IntegerModel, lower
from sigmaquant.numerics import activation_range, weight_qmax
from sigmaquant.operators import (
    Concatenation,
    Convolution,
    Edge,
    Extremum,
    Linear,
    Lookup,
    MaxPool,
    Move,
    Operator,
    Select,
    compute,
    decode,
)
from sigmaquant.operators.fixed_point import factor
from sigmaquant.plan import BITWIDTHS, BitwidthPlan
from sigmaquant.quant import calibrate_, prepare, set_plan_

PLAN = BitwidthPlan({"layer": 3}, {"x": 8}, "fingerprint", 2)
SHARE = 0.01
"""Of codes that one step may separate from the reference's: resizings of any ratio are compared too."""
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
        zeros = [torch.zeros(self.edges[n].rows, *self.edges[n].shape, dtype=torch.int8) for n in sources]
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
    sizes = [(edge.range[0], edge.range[1] + 1, (count * edge.rows, *edge.shape)) for edge in edges]
    return [torch.randint(*size, generator=generator, dtype=torch.int8) for size in sizes]


def codes_of(values: Tensor | tuple[Tensor, ...], model: IntegerModel) -> list[Tensor]:
    """Float outputs as codes of their edges."""
    tensors = values if isinstance(values, tuple) else (values,)
    edges = [model.edges[name] for name in model.outputs]
    return [(x / edge.scale).round() + edge.zero_point for x, edge in zip(tensors, edges, strict=True)]


def check(
    model: IntegerModel, folder: Path, *, exact: bool = False, count: int = 3, share: float = ROUNDINGS, **options: Any
) -> None:
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
            assert (wrong > 0).sum() <= max(1, share * wrong.numel()), told


EXACT = (Move, Lookup, MaxPool, Concatenation, Extremum, Select)
"""Operators that are computed on codes, or through tables."""


def check_each(model: IntegerModel, path: Path, *inputs: Tensor, share: float = ROUNDINGS) -> int:
    """Every operator in the file gives the reference's codes from the codes that the file itself gives it.

    Returns:
        how many operators the file shows.
    """
    reference, shown = IntegerExecutor(model), 0
    found = OnnxWatch(path, model)(*inputs)
    values = dict(zip(model.inputs, reference.quantize_inputs(*inputs), strict=True))
    for operator in model.operators:
        expected = compute(operator, reference, *(values[name] for name in operator.inputs))
        ours = values[operator.output] = found.get(operator.output, expected)
        assert ours.shape == expected.shape, operator.name
        if operator.output in found:
            shown += 1
            wrong = (ours.int() - expected.int()).abs()
            told = f"{operator.name}: {int((wrong > 0).sum())} of {wrong.numel()} codes differ, by {wrong.max()}"
            assert wrong.max() <= (not isinstance(operator, EXACT)), told
            assert (wrong > 0).sum() <= max(1, share * wrong.numel()), told
    results = OnnxRunner(path, fused=False)(*inputs)
    for name, result in zip(model.outputs, results if isinstance(results, tuple) else (results,), strict=True):
        edge = model.edges[name]
        expected = values[name] if edge.is_float else decode(values[name], edge)
        assert result.shape == expected.shape, name
        assert torch.allclose(result, expected, atol=1e-5), name
    return shown


def integers(module: nn.Module, bits: int, *inputs: Tensor) -> IntegerModel:
    """The module with weights of all widths in turn and activations of one."""
    graph = trace(module.eval(), tuple(x[:2] for x in inputs))
    network = prepare(graph)
    weights = {spec.name: BITWIDTHS[(k + bits) % len(BITWIDTHS)] for k, spec in enumerate(graph.layers)}
    set_plan_(network, BitwidthPlan(weights, dict.fromkeys(graph.activation_names, bits), graph.fingerprint, 4))
    calibrate_(network, [inputs[0] if len(inputs) == 1 else inputs])
    return lower(network)


def compare(model: IntegerModel, path: Path, form: Any, *inputs: Tensor) -> None:
    """Operator by operator, and as deployed with one example and with five."""
    assert not model.float_operators
    export_onnx(model, path, form=form)
    assert check_each(model, path, *inputs, share=SHARE)
    for count in (1, 5):
        few = [x[:count] for x in inputs]
        results = [runner(*few) for runner in (OnnxRunner(path), OnnxRunner(path, fused=False), IntegerExecutor(model))]
        deployed, plain, expected = (r if isinstance(r, tuple) else (r,) for r in results)
        for name, ours, theirs, reference in zip(model.outputs, deployed, plain, expected, strict=True):
            step = 0.02 if model.edges[name].is_float else model.edges[name].scale
            assert ours.shape == reference.shape, name
            assert (ours - theirs).abs().max() < 1.5 * step, name
            assert (ours - reference).abs().max() < 2.5 * step, name


def noise(*shape: int) -> Tensor:
    """The same numbers each time."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def optimized(path: Path, folder: Path) -> onnx.ModelProto:
    """What the runtime makes of a file at its default settings."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return onnx.load(folder / "optimized.onnx")
