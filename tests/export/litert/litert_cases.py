"""Small quantized networks for the tests of LiteRT files, and what is in such a file."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from sigmaquant.graph import trace
from sigmaquant.lowering import IntegerModel, lower
from sigmaquant.plan import BitwidthPlan
from sigmaquant.quant import calibrate_, prepare, set_plan_


class Call(nn.Module):
    """Layers and a function of them, such that each case fits on a line."""

    def __init__(self, function, **layers):
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.function = function

    def forward(self, *inputs):
        return self.function(self, *inputs)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def lowered(
    model: nn.Module,
    *shapes,
    bits: int | Sequence[int] = 8,
    activation_bits: int | Sequence[int] = 8,
    midrise_up_to: int = 0,
) -> IntegerModel:
    """The model with random weights, BatchNorms away from their starting values, calibrated on noise.

    Several bitwidths are given to layers, or activations, in turn.
    """
    torch.manual_seed(0)
    for module in model.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.normal_(module.weight)  # negative ones too
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    network = prepare(trace(model.eval(), tuple(noise(2, *shape) for shape in shapes)))
    graph = network.graph
    weights, activations = (
        dict(zip(names, itertools.cycle([width] if isinstance(width, int) else width), strict=False))
        for names, width in ((graph.layer, bits), (graph.activation_names, activation_bits))
    )
    plan = BitwidthPlan(weights, activations, "", midrise_up_to)
    set_plan_(network, plan)
    examples = tuple(noise(16, *shape, seed=1 + i) for i, shape in enumerate(shapes))
    calibrate_(network, [examples if len(examples) > 1 else examples[0]])
    return lower(network.eval())


def steps(found: Tensor, expected: Tensor, model: IntegerModel, output: int = 0) -> Tensor:
    """How many codes apart two outputs are."""
    return ((found - expected) / model.edges[model.outputs[output]].scale).abs().round()


@dataclass(frozen=True)
class Stored:
    """A tensor of a file."""

    kind: str
    shape: tuple[int, ...]
    scale: np.ndarray | None
    zero_point: np.ndarray | None
    axis: int
    data: bytes

    @property
    def integers(self) -> np.ndarray:
        """The elements, unpacked, in the tensor's shape."""
        if self.kind == "INT32":
            return np.frombuffer(self.data, "<i4").reshape(self.shape)
        bits, count = int(self.kind.removeprefix("INT")), int(np.prod(self.shape))
        column = np.frombuffer(self.data, np.uint8)[:, None] >> (np.arange(8 // bits) * bits)
        levels = (column & (2**bits - 1)).reshape(-1)[:count].astype(int)
        return np.where(levels >= 2 ** (bits - 1), levels - 2**bits, levels).reshape(self.shape)


@dataclass(frozen=True)
class File:
    """What a file holds, read with the schema's own classes."""

    tensors: dict[str, Stored]
    operators: list[str]
    metadata: dict[str, bytes]
    inputs: list[str]
    outputs: list[str]


def read(path) -> File:
    from ai_edge_litert import schema_py_generated as schema

    def name_of(enumeration, number):
        return next(key for key, value in vars(enumeration).items() if value == number)

    model = schema.ModelT.InitFromPackedBuf(bytearray(path.read_bytes()), 0)
    (graph,) = model.subgraphs

    def content(index: int) -> bytes:
        data = model.buffers[index].data
        return b"" if data is None else np.asarray(data, dtype=np.uint8).tobytes()

    tensors = {}
    for tensor in graph.tensors:
        grid = tensor.quantization
        tensors[tensor.name.decode()] = Stored(
            name_of(schema.TensorType, tensor.type),
            tuple(int(n) for n in tensor.shape),
            None if grid is None or grid.scale is None else np.asarray(grid.scale, dtype=np.float32),
            None if grid is None or grid.zeroPoint is None else np.asarray(grid.zeroPoint),
            0 if grid is None else grid.quantizedDimension,
            content(tensor.buffer),
        )
    names = list(tensors)
    assert len(names) == len(graph.tensors), "two tensors have the same name"
    return File(
        tensors,
        [name_of(schema.BuiltinOperator, model.operatorCodes[op.opcodeIndex].builtinCode) for op in graph.operators],
        {entry.name.decode(): content(entry.buffer) for entry in model.metadata},
        [names[i] for i in graph.inputs],
        [names[i] for i in graph.outputs],
    )
