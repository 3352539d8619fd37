"""Costs of what is deployed: bytes of files, and memory and flash of the program on a microcontroller.

The files are written by their own exporters, with grids that mean nothing, at one bitwidth everywhere. What each layer
takes there, and what the rest takes, gives every mixed plan: to the byte for C, whose constants depend on nothing else,
and closely for files that hold operators for single layers.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from torch import Tensor

from sigmaquant.budget import FILES, Cost, SizeCounts
from sigmaquant.errors import BudgetError, ExportError, LoweringError
from sigmaquant.export.c.flash import CodeBytes, code_bytes, functions_of
from sigmaquant.export.c.writing import export_c, planned_c
from sigmaquant.export.feasibility import describe
from sigmaquant.graph.specs import QuantGraph
from sigmaquant.hardware.costs import packed_bytes
from sigmaquant.hardware.profile import HardwareProfile
from sigmaquant.hardware.profiled import HardwareCost, ProfiledCosts
from sigmaquant.lowering import IntegerModel, lower
from sigmaquant.plan import BitwidthPlan
from sigmaquant.quant import prepare, set_plan_

_SCALE, _SPREAD = 0.05, 1.003
"""Grids that mean nothing; no two are alike, since those of data are not."""
_WIDEST = 8
_RESERVE = 0.005
"""Share of a file's limit that the search leaves free; C needs none."""


@dataclass(frozen=True)
class Sizes:
    """A file at one bitwidth everywhere.

    Attributes:
        total: its bytes.
        layers: of each layer's weights.
    """

    total: int
    layers: Mapping[str, int]

    @property
    def rest(self) -> int:
        """What is not weights."""
        return self.total - sum(self.layers.values())


def _onnx(graph: QuantGraph, model: IntegerModel) -> Sizes:
    from sigmaquant.export.onnx import export_onnx

    widths = model.plan.weights
    layers = {spec.name: packed_bytes(spec.elements, widths[spec.name]) for spec in graph.layers}
    return Sizes(_written(lambda path: export_onnx(model, path)), layers)


def _litert(graph: QuantGraph, model: IntegerModel) -> Sizes:
    from sigmaquant.export.litert import export_litert

    layers: dict[str, int] = {}

    def write(path: Path) -> None:
        layers.update({layer.name: layer.weight_bytes for layer in export_litert(model, path).layers})

    return Sizes(_written(write), layers)


def _tflm(graph: QuantGraph, model: IntegerModel) -> Sizes:
    from sigmaquant.export.tflm import export_tflm

    layers: dict[str, int] = {}

    def write(path: Path) -> None:
        layers.update({layer.name: layer.stored_bytes for layer in export_tflm(model, path).layers})

    return Sizes(_written(write), layers)


def _c(graph: QuantGraph, model: IntegerModel) -> Sizes:
    report = planned_c(model)
    names = {weight.name: weight.layer for weight in model.weights}
    layers = {names[layer.name]: layer.weight_bytes for layer in report.layers}  # tied ones share them
    return Sizes(report.weight_bytes + report.table_bytes, layers)


def _written(write: Callable[[Path], object]) -> int:
    with tempfile.TemporaryDirectory(prefix="sigmaquant-") as folder:
        path = Path(folder) / "file"
        write(path)
        return path.stat().st_size


_WRITERS: Mapping[str, Callable[[QuantGraph, IntegerModel], Sizes]] = {
    "onnx": _onnx, "litert": _litert, "tflm": _tflm, "c": _c,
}  # fmt: skip


class DeployedCosts(ProfiledCosts):
    """Costs of one network on one profile, those of files and programs included.

    Args:
        graph: the network.
        profile: the device; where its `program` is ``"c"``, RAM and flash are those of the exported C program.
        size_counts: which bytes a size limit counts.
    """

    def __init__(self, graph: QuantGraph, profile: HardwareProfile, size_counts: SizeCounts = "total") -> None:
        super().__init__(graph, profile)
        self.size_counts = size_counts
        self._is_program = profile.program == "c"
        self._sizes: dict[tuple[str, int, bool, BitwidthPlan], Sizes] = {}
        self._programs: dict[BitwidthPlan, tuple[int, CodeBytes | None]] = {}

    def counting(self, size_counts: SizeCounts) -> DeployedCosts:
        """The same costs where a size limit counts something else; what was measured is shared."""
        twin = copy.copy(self)
        twin.size_counts = size_counts
        twin.reserve = {
            **self.reserve,
            **({"size_bytes": _RESERVE} if size_counts in FILES and size_counts != "c" else {}),
        }
        return twin

    def report(self, plan: BitwidthPlan, codes: Mapping[str, Tensor] | None = None) -> HardwareCost:
        """Every layer's costs and the total."""
        found = super().report(plan, codes)
        total = found.total
        if self.size_counts in FILES:
            total = replace(total, file_bytes=round(self._file(self.size_counts, plan)))
        if self._is_program and not self.program_refused:
            ram, code = self._program(plan)
            total = replace(total, ram_bytes=ram)
            if code is not None:
                total = replace(total, flash_bytes=round(self._file("c", plan)) + code.total(self._functions(plan)))
        return replace(found, total=total)

    def reference(self) -> Cost:
        """The float32 network; reductions of files compare with all its bytes."""
        found = super().reference()
        return replace(found, file_bytes=found.total_bytes) if self.size_counts in FILES else found

    def layer(self, name: str, bits: int, plan: BitwidthPlan, size_counts: SizeCounts) -> Mapping[str, float]:
        """What one layer's weight adds to each resource that depends on it."""
        found = dict(super().layer(name, bits, plan, size_counts))
        if size_counts in FILES:
            found["size_bytes"] = self._share(size_counts, name, bits, plan)
        if self._is_program and not self.program_refused:
            found["flash_bytes"] = self._share("c", name, bits, plan)
        return found

    @cached_property
    def program_refused(self) -> str:
        """Why the network is no C program; empty where it is one."""
        try:
            self._sizes_at("c", _WIDEST, BitwidthPlan({}, dict.fromkeys(self._graph.activation_names, _WIDEST)))
        except BudgetError as error:
            return str(error)
        return ""

    # -- files ---------------------------------------------------------------------------------------------------------

    def _file(self, target: str, plan: BitwidthPlan) -> float:
        shares = sum(self._share(target, name, bits, plan) for name, bits in plan.weights.items())
        once = sum(self._once(target, bits, plan) for bits in set(plan.weights.values()))
        return self._sizes_at(target, _WIDEST, plan).rest + shares + once

    def _share(self, target: str, name: str, bits: int, plan: BitwidthPlan) -> float:
        """Bytes of a layer's weights, and its share of what the file has more at its width than at 8 bits."""
        here, widest = self._sizes_at(target, bits, plan), self._sizes_at(target, _WIDEST, plan)
        more = here.rest - widest.rest - self._once(target, bits, plan)
        return here.layers.get(name, 0) + more / len(self._graph.layers)

    def _once(self, target: str, bits: int, plan: BitwidthPlan) -> float:
        """What a file has more once some layer has a width: ONNX' functions that unpack it."""
        count = len(self._graph.layers)
        if target != "onnx" or bits == _WIDEST or count == 1:
            return 0.0
        widest = self._sizes_at(target, _WIDEST, plan).rest
        whole = self._sizes_at(target, bits, plan).rest - widest
        single = self._sizes_at(target, bits, plan, only=True)
        one = single.total - widest - sum(single.layers.values())
        return max(0.0, (one * count - whole) / (count - 1))

    def _sizes_at(self, target: str, bits: int, plan: BitwidthPlan, only: bool = False) -> Sizes:
        like = BitwidthPlan({}, plan.activations, "", plan.midrise_up_to)
        key = target, bits, only, like
        if key not in self._sizes:
            self._sizes[key] = self._measured(target, bits, like, only)
        return self._sizes[key]

    def _measured(self, target: str, bits: int, like: BitwidthPlan, only: bool) -> Sizes:
        model = self._lowered(target, bits, like, only)
        try:
            return _WRITERS[target](self._graph, model)
        except (ExportError, LoweringError) as error:
            raise BudgetError(
                f"a limit counts the bytes of {target} files, which cannot hold the network: {error}"
            ) from error

    def _lowered(self, target: str, bits: int, like: BitwidthPlan, only: bool = False) -> IntegerModel:
        """The network at one bitwidth everywhere, or in its first layer alone and 8 in the others."""
        if self._graph.float_places:
            raise BudgetError(
                f"a limit counts the bytes of {target} files, which cannot hold the network: "
                f"{describe(self._graph.float_places)}"
            )
        network = prepare(self._graph)
        weights = dict.fromkeys(self._graph.layer, _WIDEST if only else bits)
        weights[self._graph.layers[0].name] = bits
        set_plan_(network, BitwidthPlan(weights, like.activations, self._graph.fingerprint, like.midrise_up_to))
        for number, (name, quantizer) in enumerate(network.activation_quantizers.items()):
            quantizer.set_grid_(_SCALE * _SPREAD**number, 0, like.activations[name])
        try:
            return lower(network)
        except LoweringError as error:
            raise BudgetError(f"a limit counts the bytes of {target} files, which cannot be known: {error}") from error

    # -- the program ---------------------------------------------------------------------------------------------------

    def _program(self, plan: BitwidthPlan) -> tuple[int, CodeBytes | None]:
        """RAM and code; neither depends on the bits of weights, but for the functions that unpack them."""
        like = BitwidthPlan({}, plan.activations, "", plan.midrise_up_to)
        if like not in self._programs:
            model = self._lowered("c", _WIDEST, like)
            with tempfile.TemporaryDirectory(prefix="sigmaquant-") as folder:
                report = export_c(model, Path(folder) / "c")
                self._programs[like] = report.ram_bytes, code_bytes(Path(folder) / "c")
        return self._programs[like]

    def _functions(self, plan: BitwidthPlan) -> set[str]:
        widths = {*plan.weights.values(), _WIDEST}
        return set[str]().union(*(functions_of(bits, bits <= plan.midrise_up_to) for bits in widths))
