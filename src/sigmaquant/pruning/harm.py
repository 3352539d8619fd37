"""What it costs to remove channels, measured: the float network deaf to them, its other weights compensated.

A second-order estimate fails here: a removed channel is no small change. So the distance of the outputs to those of the
float network is measured on training examples, after the layers that read the channels have been fitted to do without.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sigmaquant.graph.copying import copied
from sigmaquant.graph.specs import QuantGraph
from sigmaquant.plan import Removed
from sigmaquant.pruning.groups import ChannelGroup
from sigmaquant.pruning.removal import CONVOLUTIONS, TRANSPOSED, is_depthwise, silence_inputs_
from sigmaquant.quant import reestimate_batch_norm_
from sigmaquant.training.student import Judge

_RIDGE = 1e-3
"""Added to the diagonal of second moments, as a part of its mean."""
_WIDEST = 2048
"""Layers that read more channels are not compensated: their moments would take longer than all else."""
_POSITIONS = 16384
"""Most positions of a batch's activations that moments look at."""


class DeafNetwork:
    """The float network, which can be made deaf to channels and be restored.

    Args:
        graph: of the float network.
        groups: what may be removed.
        batches: training inputs on the device, for moments and BatchNorm statistics.
        judge: compares outputs with the float network's.
    """

    def __init__(self, graph: QuantGraph, groups: Sequence[ChannelGroup], batches: Sequence[Any], judge: Judge) -> None:
        self.network: nn.Module = copied(graph.module).eval()
        self._before = {key: value.detach().clone() for key, value in self.network.state_dict().items()}
        self._batches, self._judge = list(batches), judge
        readers = {name for group in groups for name, role in group.modules if role == "inputs"}
        self._moments = self._measured_moments(sorted(readers))

    def order(self, group: ChannelGroup) -> tuple[int, ...]:
        """The units of a group, what is missed least first: one after the other, each for what is left then."""
        readers = [_Reader(self._layer(name), self._moments.get(name), self._positions(group, name))
                   for name, role in group.modules if role == "inputs"]  # fmt: skip
        left, found = set(range(len(group.units))), []
        while left:
            costs = torch.stack([reader.costs() for reader in readers]).sum(0)
            unit = min(left, key=lambda index: (float(costs[index]), index))
            left.remove(unit)
            found.append(unit)
            for reader in readers:
                reader.drop_(unit)
        return tuple(found)

    def harm(self, removed: Removed) -> float:
        """Distance of the outputs to the float network's without some channels; the network is as it was then."""
        self.silence_(removed)
        try:
            return max(0.0, self._judge(self.network).divergence)
        finally:
            self.restore_()

    def silence_(self, removed: Removed) -> None:
        """Make the network deaf to channels, compensate what reads them, and find BatchNorm statistics anew."""
        for name, sides in removed.items():
            layer = self._layer(name)
            if "inputs" in sides and not is_depthwise(layer):
                compensate_(layer, sides["inputs"], self._moments.get(name))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            reestimate_batch_norm_(self.network, self._batches)

    def restore_(self) -> None:
        """Undo `silence_`."""
        self.network.load_state_dict(self._before)

    def _layer(self, name: str) -> nn.Module:
        return self.network.get_submodule(name)

    @staticmethod
    def _positions(group: ChannelGroup, name: str) -> list[list[int]]:
        return [[channel for owner, role, channel in unit if (owner, role) == (name, "inputs")] for unit in group.units]

    @torch.no_grad()
    def _measured_moments(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Second moments of what layers read, with a constant as the last channel."""
        found: dict[str, Tensor] = {}
        hooks = []
        for name in names:
            layer = self._layer(name)
            axis = 1 if isinstance(layer, (*CONVOLUTIONS, *TRANSPOSED)) else -1
            width = layer.get_parameter("weight").shape[0 if isinstance(layer, TRANSPOSED) else 1]
            if int(getattr(layer, "groups", 1)) > 1 or int(width) > _WIDEST:
                continue

            def add(_: nn.Module, given: tuple[Any, ...], name: str = name, axis: int = axis) -> None:
                rows = given[0].detach().movedim(axis, -1).flatten(0, -2)
                rows = rows[:: max(1, len(rows) // _POSITIONS)]
                rows = torch.cat([rows, rows.new_ones(len(rows), 1)], 1)
                found[name] = found.get(name, 0.0) + (rows.T @ rows).double()

            hooks.append(layer.register_forward_pre_hook(add))
        try:
            for x in self._batches:
                self.network(*(x if isinstance(x, tuple | list) else (x,)))
        finally:
            for hook in hooks:
                hook.remove()
        return found


class _Reader:
    """What one layer loses by each unit, as a part of its output's energy (Hassibi and Stork, NeurIPS 1992)."""

    def __init__(self, layer: nn.Module, moments: Tensor | None, positions: list[list[int]]) -> None:
        self.positions = positions
        weight = layer.get_parameter("weight").detach().double()
        if moments is None:
            self.inverse = None
            groups = int(getattr(layer, "groups", 1))
            if isinstance(layer, TRANSPOSED):
                energy = weight.square().flatten(1).sum(1)
            else:  # of each group's own rows
                energy = weight.square().reshape(groups, -1, weight.shape[1], *weight.shape[2:]).sum(
                    dim=(1, *range(3, weight.dim() + 1))
                ).flatten()  # fmt: skip
            self.energy = energy / energy.sum().clamp_min(1e-30)
            return
        self.columns = (weight if isinstance(layer, TRANSPOSED) else weight.movedim(1, 0)).flatten(1).clone()
        moments = moments[:-1, :-1]
        self.total = float((self.columns * (moments @ self.columns)).sum().clamp_min(1e-30))
        self.inverse = torch.linalg.inv(_ridged(moments))

    def costs(self) -> Tensor:
        if self.inverse is not None:
            energy = self.columns.square().sum(1) / self.inverse.diagonal().clamp_min(1e-30) / self.total
        else:
            energy = self.energy
        return torch.stack([energy[where].sum() for where in self.positions])

    def drop_(self, unit: int) -> None:
        if self.inverse is None:
            return
        for channel in self.positions[unit]:
            row = self.inverse[channel] / self.inverse[channel, channel]
            self.columns -= row[:, None] * self.columns[channel].clone()
            self.inverse -= torch.outer(self.inverse[:, channel].clone(), row)
            self.inverse[channel, channel] = 1.0


def _ridged(moments: Tensor) -> Tensor:
    mean = moments.diagonal().mean().clamp_min(1e-12)
    return moments + _RIDGE * mean * torch.eye(len(moments), dtype=moments.dtype, device=moments.device)


@torch.no_grad()
def compensate_(layer: nn.Module, inputs: Sequence[int], moments: Tensor | None) -> None:
    """Let the weights of the inputs that stay take over what the others gave, by least squares, and silence these.

    Args:
        layer: a convolution or linear layer.
        inputs: what goes.
        moments: second moments of the inputs with a constant as the last channel; None: nothing takes over.
    """
    if moments is not None:
        weight, bias = layer.get_parameter("weight"), getattr(layer, "bias", None)
        axis = 0 if isinstance(layer, TRANSPOSED) else 1
        columns = weight.movedim(axis, 0)
        kept = torch.ones(len(moments), dtype=torch.bool, device=moments.device)
        kept[list(inputs)] = False
        kept[-1] = isinstance(bias, Tensor)
        stay, gone = kept.nonzero()[:, 0], torch.tensor(list(inputs), device=moments.device)
        share = torch.linalg.solve(_ridged(moments[stay][:, stay]), moments[stay][:, gone]).to(weight.dtype)
        moved = torch.tensordot(share, columns[gone], 1)  # [kept, out, ...] or [kept, ...]
        if isinstance(bias, Tensor):
            bias += moved[-1].flatten(1).sum(1) if moved.dim() > 2 else moved[-1]
            stay, moved = stay[:-1], moved[:-1]
        updated = columns.clone()
        updated[stay] += moved
        weight.copy_(updated.movedim(0, axis))
    silence_inputs_(layer, inputs)
