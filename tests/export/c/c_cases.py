"""Integer models made operator by operator, and exported networks that share one compilation of the kernels."""

from __future__ import annotations

import hashlib
import json
import subprocess
from dataclasses import replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sigmaquant.export.c import CRunner, export_c
from sigmaquant.graph import trace
from sigmaquant.lowering import IntegerExecutor, IntegerModel, lower
from sigmaquant.operators import Edge, MaxPool, Operator
from sigmaquant.plan import BitwidthPlan
from sigmaquant.quant import calibrate_, prepare, set_plan_

STRICT = ("-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-Wconversion", "-Wshadow", "-Wstrict-prototypes")
SANITIZED = ("-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
ENDING = "sq_ending.c"
NO_PLAN = BitwidthPlan({"none": 8}, {}, "", 0)


class Net:
    """A model under construction; shapes of outputs are what the executor makes.

    Args:
        rows: of an example, on every edge.
    """

    def __init__(self, rows: int = 1) -> None:
        self.rows = rows
        self.edges: dict[str, Edge] = {}
        self.operators: list[Operator] = []
        self.inputs: list[str] = []

    def input(self, shape: tuple[int, ...], bits: int = 8, zero_point: int = 0) -> str:
        name = f"x{len(self.edges)}"
        self.edges[name] = Edge(name, shape, bits, 0.5, zero_point, self.rows)
        self.inputs.append(name)
        return name

    def add(self, cls: type, inputs: list[str], /, out_bits: int = 8, zero_point: int = 0, **fields: Any) -> str:
        name = f"y{len(self.edges)}"
        edge = Edge(name, (), out_bits, 0.25, zero_point, self.rows)
        operator = cls(f"op {name}", tuple(inputs), name, **fields)
        edges = {**self.edges, name: edge}
        alone = IntegerModel((operator,), edges, tuple(dict.fromkeys(inputs)), (name,), NO_PLAN)
        zeros = [torch.zeros(self.rows, *self.edges[n].shape, dtype=torch.int8) for n in alone.inputs]
        (result,) = IntegerExecutor(alone, "integer").run_codes(*zeros)
        self.edges[name] = replace(edge, shape=tuple(result.shape[1:]))
        self.operators.append(operator)
        return name

    def channels_last(self, name: str) -> str:
        """The same codes, after an operator that lays them out channels last."""
        edge = self.edges[name]
        rank = len(edge.shape) - 1
        if rank not in (1, 2, 3):
            return name
        ones, zeros = (1,) * rank, (0,) * rank
        return self.add(
            MaxPool, [name], edge.bits, edge.zero_point,
            kernel=ones, stride=ones, padding=zeros, dilation=ones, ceil_mode=False,
        )  # fmt: skip

    def model(self, outputs: list[str]) -> IntegerModel:
        return IntegerModel(tuple(self.operators), self.edges, tuple(self.inputs), tuple(outputs), NO_PLAN)


def random_codes(model: IntegerModel, count: int, seed: int = 0) -> list[Tensor]:
    """Codes of every input, the extremes among them."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for name in model.inputs:
        edge = model.edges[name]
        if edge.is_float:  # nothing reads it
            found.append(torch.zeros(count * edge.rows, *edge.shape))
            continue
        low, high = edge.range
        codes = torch.randint(low, high + 1, (count * edge.rows, *edge.shape), generator=generator, dtype=torch.int8)
        codes[-1] = torch.where(codes[-1] > 0, high, low).to(torch.int8)
        found.append(codes)
    return found


def kernel_objects(folder: Path, flags: tuple[str, ...]) -> tuple[str, ...]:
    """All kernels of integers, compiled; what needs the library's mathematics is compiled where it is used."""
    source = resources.files("sigmaquant.export.c").joinpath("kernels")
    files = sorted(str(item) for item in source.iterdir() if item.name.endswith(".c") and item.name != ENDING)
    subprocess.run(["gcc", "-std=c99", *flags, "-c", *files], cwd=folder, check=True)
    return tuple(sorted(map(str, folder.glob("*.o"))))


def list_again(folder: Path) -> None:
    """The folder's files as they are now, in its list of digests: what a forger would write."""
    document = json.loads((folder / "export.json").read_text())
    present = {file: folder / file for file in document["files"] if (folder / file).exists()}
    document["files"] = {file: hashlib.sha256(path.read_bytes()).hexdigest() for file, path in present.items()}
    (folder / "export.json").write_text(json.dumps(document))


def compiled(folder: Path, objects: tuple[str, ...], flags: tuple[str, ...]) -> CRunner:
    """The exported folder's own files with kernels that are compiled already."""
    for file in folder.glob("sq*.c"):
        if file.name != ENDING:
            file.unlink()
    list_again(folder)
    return CRunner(folder, flags=("-std=c99", *flags, *objects))


def check_codes(runner: CRunner, model: IntegerModel, inputs: list[Tensor]) -> None:
    """Every output code is the executor's; the message names the first that is not."""
    expected = IntegerExecutor(model, "integer").run_codes(*inputs)
    found = runner(*inputs)
    found = found if isinstance(found, tuple) else (found,)
    for name, ours, theirs in zip(model.outputs, found, expected, strict=True):
        if not torch.equal(ours, theirs):
            at = tuple((ours != theirs).nonzero()[0].tolist())
            made = next((op for op in model.operators if op.output == name), None)
            raise AssertionError(f"{name} at {at}: {int(ours[at])} instead of {int(theirs[at])}; {made}")


def exported_matches(model: IntegerModel, folder: Path, objects: tuple[str, ...], flags: tuple[str, ...] = ()) -> None:
    export_c(model, folder)
    check_codes(compiled(folder, objects, flags), model, random_codes(model, 3))


def integer_model(network: nn.Module, images: Tensor, midrise_up_to: int, first: int = 0) -> IntegerModel:
    """The network in integers, its layers at 2..8 bits in turn."""
    graph = trace(network, (images[:2],))
    prepared = prepare(graph)
    weights = {layer.name: 2 + (i + first) % 7 for i, layer in enumerate(graph.layers)}
    activations = dict.fromkeys(graph.activation_names, 8)
    set_plan_(prepared, BitwidthPlan(weights, activations, graph.fingerprint, midrise_up_to))
    calibrate_(prepared, [images])
    return lower(prepared)


def lowered(network: nn.Module, inputs: tuple[Tensor, ...], bits: int, first: int = 6) -> IntegerModel:
    """The network in integers: activations at `bits`, its layers at 2..8 bits in turn, calibrated on the inputs."""
    graph = trace(network.eval(), tuple(x[:2] for x in inputs))
    prepared = prepare(graph)
    weights = {layer.name: 2 + (i + first) % 7 for i, layer in enumerate(graph.layers)}
    activations = dict.fromkeys(graph.activation_names, bits)
    set_plan_(prepared, BitwidthPlan(weights, activations, graph.fingerprint, 4))
    calibrate_(prepared, [inputs if len(inputs) > 1 else inputs[0]])
    return lower(prepared)


class Mixed(nn.Module):
    """Padding, grouped and depthwise convolutions, squeeze-and-excitation, concatenation, slices, tables, two sums."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(12)
        self.grouped = nn.Conv2d(12, 12, 3, padding="same", groups=3)
        self.depthwise = nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.squeeze = nn.Conv2d(12, 5, 1)
        self.excite = nn.Conv2d(5, 12, 1)
        self.dilated = nn.Conv2d(24, 7, 3, padding=2, dilation=2)
        self.after = nn.BatchNorm2d(24)
        self.head = nn.Linear(7, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(nn.functional.pad(x, (0, 1, 0, 1)))))
        y = nn.functional.hardswish(self.grouped(x)) + x
        y = nn.functional.relu6(self.depthwise(y))
        gate = torch.sigmoid(self.excite(torch.relu(self.squeeze(y.mean((2, 3), keepdim=True)))))
        y = nn.functional.max_pool2d(y * gate, 2)
        x = nn.functional.avg_pool2d(x, 2)
        y = torch.relu(self.after(torch.cat([x, y], 1)))
        y = torch.relu(self.dilated(y[:, :, 1:]))
        return self.head(y.flatten(2).transpose(1, 2)).mean(1)


@cache
def mixed_model(midrise_up_to: int = 3, first: int = 0) -> IntegerModel:
    """`Mixed` with random weights and BatchNorms away from their starting values."""
    torch.manual_seed(3)
    network = Mixed()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return integer_model(network.eval(), torch.randn(16, 3, 20, 20), midrise_up_to, first)
