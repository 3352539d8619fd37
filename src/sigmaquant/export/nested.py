"""The nested checkpoint: several plans of one network in one safetensors file, their codes stored once.

Weights are bit planes, the most significant first: a plan of b bits reads the first b planes of a layer and nothing
else. Of the largest plan everything else is stored as it is; of every other plan what differs from it (scales,
BatchNorm, activation grids), in 16 bits where that is exact, see `compact_`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor, nn

from sigmaquant.errors import CheckpointError, PlanError
from sigmaquant.graph import trace
from sigmaquant.graph.copying import copied
from sigmaquant.graph.inputs import ExampleInputs
from sigmaquant.numerics import dequantize_weight, weight_qmax
from sigmaquant.plan import BitwidthPlan
from sigmaquant.quant import QuantizedNetwork, prepare, restore_plan_
from sigmaquant.quant.nested import are_nested
from sigmaquant.quant.nesting import codes_of, is_nested_midrise, levels_of
from sigmaquant.runs.atomic import save_tensors_atomic
from sigmaquant.runs.weights import load_tensors

FORMAT = "sigmaquant.nested"
VERSION = "1"
_PLANES = ".planes"
_OTHER = "plan.{}"
_SCALE = "weight_quantizer.scale"


@dataclass(frozen=True)
class NestedPlan:
    """One plan of a nested checkpoint.

    Attributes:
        name: such as ``"12x"``.
        plan: its bitwidths.
    """

    name: str
    plan: BitwidthPlan


class _Other(BaseModel):
    """What a nested file's metadata say of a plan that is not the largest.

    Attributes:
        name: of the plan.
        weights: bitwidths in the order of the largest plan's layers.
        activations: likewise.
        kinds: for each tensor besides weights, by the order of their names: ``.`` as in the largest plan, ``r`` a ratio
            to it or ``d`` a difference from it in 16 bits, ``w`` whole.
    """

    model_config = ConfigDict(strict=True, extra="forbid")
    name: str
    weights: list[int]
    activations: list[int]
    kinds: str


class _Plans(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    name: str
    others: list[_Other]


# -- what differs ----------------------------------------------------------------------------------------------------


def _encoded(value: Tensor, base: Tensor) -> tuple[str, bytes]:
    """A tensor by what it differs in from another one; `_decoded` gives exactly the same tensor."""
    if value.dtype == base.dtype and torch.equal(value, base):
        return ".", b""
    if value.dtype == base.dtype == torch.float32:
        ways = ("r", "d") if bool((value > 0).all()) and bool((base > 0).all()) else ("d",)
        for kind in ways:
            data = _sixteen(value, base, kind)
            if torch.equal(_decoded(kind, data, base), value):
                return kind, data
    return "w", value.contiguous().numpy().tobytes()


def _sixteen(value: Tensor, base: Tensor, kind: str) -> bytes:
    return (value / base if kind == "r" else value - base).to(torch.float16).numpy().tobytes()


def _decoded(kind: str, data: bytes, base: Tensor) -> Tensor:
    if kind == ".":
        return base.clone()
    if kind == "w":
        return torch.from_numpy(np.frombuffer(data, base.numpy().dtype).copy()).reshape(base.shape)
    half = torch.from_numpy(np.frombuffer(data, np.float16).copy()).float().reshape(base.shape)
    return base * half if kind == "r" else base + half


def _length(kind: str, base: Tensor) -> int:
    return {".": 0, "w": base.element_size() * base.numel()}.get(kind, 2 * base.numel())


def _common(network: QuantizedNetwork) -> list[str]:
    """Names of all tensors but quantized weights, in order; of tied layers one scale."""
    left_out = {f"{name}.weight" for spec in network.graph.layers for name in (spec.name, *spec.tied)}
    left_out |= {f"{name}.{_SCALE}" for spec in network.graph.layers for name in spec.tied}
    return sorted(name for name in network.state() if name not in left_out)


@torch.no_grad()
def compact_(networks: Sequence[QuantizedNetwork]) -> None:
    """Move what every smaller plan has of its own to where 16 bits beside the largest plan's values hold it exactly.

    A scale or variance moves by at most 2**-11 of itself, a mean or offset by that part of its difference. What 16 bits
    cannot hold stays as it is.

    Args:
        networks: from the largest plan to the smallest; the first one is not changed. Call this before they are judged.
    """
    first = networks[0].state()
    for network in networks[1:]:
        state = network.state()
        changed = dict(state)
        for name in _common(network):
            value, base = state[name].cpu(), first[name].cpu()
            if value.dtype == torch.int64:  # how many batches BatchNorm has seen means nothing any more
                changed[name] = first[name].clone()
            elif value.dtype == base.dtype == torch.float32 and not torch.equal(value, base):
                positive = bool((value > 0).all()) and bool((base > 0).all())
                kind = "r" if positive else "d"
                moved = _decoded(kind, _sixteen(value, base, kind), base)
                close = torch.allclose(moved, value, rtol=2**-10, atol=float((value - base).abs().max()) * 2**-10)
                if close and torch.equal(_decoded(kind, _sixteen(moved, base, kind), base), moved):
                    changed[name] = moved.to(state[name].device)
        codes = {name: network.codes(name) for name in network.graph.layer}
        network.load_state_(changed)
        for name, quantizer in network.weight_quantizers.items():  # the same codes at the moved scales
            network.weight(name).copy_(dequantize_weight(codes[name], quantizer.scale, quantizer.axis))


# -- the file --------------------------------------------------------------------------------------------------------


def export_nested(networks: Mapping[str, QuantizedNetwork], path: str | Path) -> None:
    """Write the nested checkpoint.

    Args:
        networks: by the plan's name, from the largest plan to the smallest, their codes nested.
        path: the file, written atomically.

    Raises:
        PlanError: the codes are not nested.
        StorageError: the file could not be written.
    """
    several, names = list(networks.values()), list(networks)
    are_nested(several)
    first, plan = several[0], several[0].plan
    assert plan is not None, "nested networks are quantized"
    state, common = first.state(), _common(first)
    tensors = {name: state[name].detach().cpu() for name in common}
    narrowest = _narrowest([plan, *(_plan(network) for network in several[1:])])
    for spec in first.graph.layers:
        bits = plan.weights[spec.name]
        levels = _stored_levels(first.codes(spec.name).cpu(), bits, narrowest[spec.name] < bits)
        tensors[spec.name + _PLANES] = torch.from_numpy(to_planes(levels.numpy(), bits))
    others = []
    for number, network in enumerate(several[1:], 1):
        own, kinds, data = network.state(), "", b""
        for name in common:
            kind, part = _encoded(own[name].detach().cpu(), state[name].detach().cpu())
            kinds, data = kinds + kind, data + part
        tensors[_OTHER.format(number)] = torch.from_numpy(np.frombuffer(data or b"\0", np.uint8).copy())
        chosen = _plan(network)
        rows = {key: [getattr(chosen, key)[name] for name in getattr(plan, key)] for key in ("weights", "activations")}
        others.append(_Other(name=names[number], kinds=kinds, **rows))
    metadata = {
        "format": FORMAT,
        "version": VERSION,
        "model": first.graph.fingerprint,
        "plan": plan.to_json(),
        "plans": _Plans(name=names[0], others=others).model_dump_json(),
    }
    save_tensors_atomic(Path(path), tensors, metadata)


def read_plans(path: str | Path) -> tuple[NestedPlan, ...]:
    """The plans of a nested checkpoint, from the largest to the smallest.

    Raises:
        CheckpointError: missing, damaged, or no nested checkpoint.
    """
    return _File.read(Path(path)).plans


def load_nested(
    model: nn.Module, example_inputs: ExampleInputs, path: str | Path, plan: int | str = 0
) -> QuantizedNetwork:
    """The quantized network of one plan of a nested checkpoint, in evaluation mode.

    Args:
        model: the float model's architecture; its weights do not matter.
        example_inputs: as for `sigmaquant.graph.trace`.
        path: the file.
        plan: its name, or its number, 0 the largest.

    Raises:
        CheckpointError: missing, damaged, or of another model.
        PlanError: there is no such plan.
    """
    return _File.read(Path(path)).network(prepare(trace(copied(model), example_inputs)), plan)


@dataclass(frozen=True)
class _File:
    path: Path
    tensors: dict[str, Tensor]
    plans: tuple[NestedPlan, ...]
    kinds: tuple[str, ...]

    @classmethod
    def read(cls, path: Path) -> _File:
        tensors, metadata = load_tensors(path)
        if metadata.get("format") != FORMAT:
            raise CheckpointError(f"{path} is no nested checkpoint: its metadata do not say so.")
        if metadata.get("version") != VERSION:
            raise CheckpointError(
                f"{path} has version {metadata.get('version')!r}, this program reads {VERSION}. Update sigmaquant."
            )
        try:
            largest = BitwidthPlan.from_json(metadata.get("plan", ""))
            document = _Plans.model_validate_json(metadata.get("plans", ""))
            plans = [NestedPlan(document.name, largest)]
            for other in document.others:
                weights = dict(zip(largest.weights, other.weights, strict=True))
                activations = dict(zip(largest.activations, other.activations, strict=True))
                plans.append(NestedPlan(other.name, replace(largest, weights=weights, activations=activations)))
        except (ValidationError, ValueError) as error:  # a PlanError is one
            raise CheckpointError(f"{path}: its plans are damaged ({str(error).partition(chr(10))[0]}).") from None
        return cls(path, tensors, tuple(plans), ("", *(other.kinds for other in document.others)))

    def number(self, plan: int | str) -> int:
        names = [item.name for item in self.plans]
        if isinstance(plan, str) and plan in names:
            return names.index(plan)
        if isinstance(plan, int) and not isinstance(plan, bool) and 0 <= plan < len(names):
            return plan
        known = ", ".join(f"{i} ({name!r})" for i, name in enumerate(names))
        raise PlanError(f"there is no plan {plan!r} in {self.path}. It has {known}.")

    def network(self, network: QuantizedNetwork, plan: int | str) -> QuantizedNetwork:
        number = self.number(plan)
        chosen, largest = self.plans[number].plan, self.plans[0].plan
        chosen.check(network.graph.layer, network.graph.activation_names, network.graph.fingerprint)
        common = _common(network)
        missing = [name for name in common if name not in self.tensors]
        if missing:
            raise CheckpointError(f"{self.path} belongs to another model, or is damaged: it lacks {missing[0]!r}.")
        tensors = {name: self.tensors[name] for name in common}
        if number:
            tensors = self._other(number, tensors)
        narrowest = _narrowest([item.plan for item in self.plans])
        for spec in network.graph.layers:
            top, bits = largest.weights[spec.name], chosen.weights[spec.name]
            scale = tensors[f"{spec.name}.{_SCALE}"]
            if scale.shape != (spec.weight_shape[spec.channel_axis],) or not bool((scale > 0).all()):
                raise CheckpointError(f"{self.path}: the scales of layer {spec.name!r} are damaged.")
            levels = self._levels(spec.name, spec.weight_shape, top, bits)
            codes = _codes(levels, bits, narrowest[spec.name] < top)
            weight = dequantize_weight(codes, scale, spec.channel_axis)
            for name in (spec.name, *spec.tied):
                tensors[f"{name}.weight"] = weight
                tensors[f"{name}.{_SCALE}"] = scale
        restore_plan_(network, chosen, tensors)
        return network.eval()

    def _other(self, number: int, base: Mapping[str, Tensor]) -> dict[str, Tensor]:
        data = self.tensors.get(_OTHER.format(number), torch.zeros(0, dtype=torch.uint8)).numpy().tobytes()
        kinds, tensors, at = self.kinds[number], {}, 0
        if len(kinds) != len(base) or set(kinds) - set(".rdw"):
            raise CheckpointError(f"{self.path}: plan {number} is damaged, or of another model.")
        ends = sum(_length(kind, value) for kind, value in zip(kinds, base.values(), strict=True))
        if len(data) != max(1, ends):
            raise CheckpointError(f"{self.path}: plan {number} has {len(data)} bytes, not {ends}. The file is damaged.")
        for kind, (name, value) in zip(kinds, base.items(), strict=True):
            size = _length(kind, value)
            tensors[name] = _decoded(kind, data[at : at + size], value)
            at += size
        return tensors

    def _levels(self, name: str, shape: tuple[int, ...], top: int, bits: int) -> Tensor:
        """Of the first `bits` planes; the others are not looked at."""
        planes = self.tensors.get(name + _PLANES)
        if planes is None or planes.dtype != torch.uint8 or planes.shape != (top, -(-prod(shape) // 8)):
            raise CheckpointError(f"{self.path}: the planes of layer {name!r} are missing or of another model.")
        return torch.from_numpy(from_planes(planes[:bits].numpy(), shape))


def to_planes(levels: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Levels as bit planes, the most significant first: uint8 [bits, ceil(elements / 8)].

    Example:
        >>> to_planes(np.array([2, 1, 3], dtype=np.uint8), 2).tolist()
        [[5], [6]]
    """
    flat = levels.reshape(-1)
    return np.stack([np.packbits((flat >> plane) & 1, bitorder="little") for plane in reversed(range(bits))])


def from_planes(planes: NDArray[np.uint8], shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Levels of the planes that are given: inverse of `to_planes`, and of its first planes."""
    levels: NDArray[np.uint8] = np.zeros(prod(shape), np.uint8)
    for plane in planes:
        levels = np.left_shift(levels, 1) | np.unpackbits(plane, count=prod(shape), bitorder="little")
    return levels.reshape(shape)


def _plan(network: QuantizedNetwork) -> BitwidthPlan:
    assert network.plan is not None, "nested networks are quantized"
    return network.plan


def _narrowest(plans: Sequence[BitwidthPlan]) -> dict[str, int]:
    return {name: min(plan.weights[name] for plan in plans) for name in plans[0].weights}


def _stored_levels(codes: Tensor, bits: int, narrowed: bool) -> Tensor:
    """Of 8 bits that no plan narrows, zero is a code."""
    if narrowed or is_nested_midrise(bits):
        return levels_of(codes, bits)
    return (codes.to(torch.int16) + weight_qmax(bits)).to(torch.uint8)


def _codes(levels: Tensor, bits: int, narrowed: bool) -> Tensor:
    if narrowed or is_nested_midrise(bits):
        return codes_of(levels, bits)
    return (levels.to(torch.int16) - weight_qmax(bits)).clamp_(max=weight_qmax(bits)).to(torch.int8)


def document_of(plans: Sequence[NestedPlan]) -> dict[str, Any]:
    """For ``plans.json``: all plans, with their schema and version."""
    rows = [{"name": item.name, "plan": json.loads(item.plan.to_json())} for item in plans]
    return {"schema": "sigmaquant.plans", "version": 1, "plans": rows}
