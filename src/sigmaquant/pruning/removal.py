"""Physical removal of channels, from what a plan says: no library and no data are needed for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from sigmaquant.errors import PlanError, PruningError
from sigmaquant.graph.copying import copied
from sigmaquant.graph.reading import read_copy
from sigmaquant.plan import BitwidthPlan, Removed

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
PRUNABLE = (*CONVOLUTIONS, *TRANSPOSED, nn.Linear, *NORMS, nn.PReLU)
"""Modules whose channels can be removed."""


def is_depthwise(module: nn.Module) -> bool:
    """Whether every input channel of a convolution has one output channel of its own."""
    return isinstance(module, (*CONVOLUTIONS, *TRANSPOSED)) and 1 < module.groups == module.in_channels == (
        module.out_channels
    )


def channels(module: nn.Module, role: str) -> int:
    """How many channels a module has on a side, ``"outputs"`` or ``"inputs"``; 0 where it has none of its own."""
    if isinstance(module, (*CONVOLUTIONS, *TRANSPOSED)):
        return int(module.out_channels if role == "outputs" else module.in_channels)
    if isinstance(module, nn.Linear):
        return int(module.out_features if role == "outputs" else module.in_features)
    if isinstance(module, NORMS):
        return int(module.num_features)
    return int(module.num_parameters) if isinstance(module, nn.PReLU) else 0


def pruned_model(model: nn.Module, plan: BitwidthPlan) -> nn.Module:
    """A copy of the model without the channels that a plan has removed; without any, the copy alone.

    Raises:
        PlanError: the plan removes what the model does not have.
    """
    if not plan.removed:
        return copied(model)
    twin = read_copy(model)
    remove_(twin, plan.removed)
    return twin


def remove_(model: nn.Module, removed: Removed) -> None:
    """Remove channels from a model's modules, in place.

    Args:
        model: any module.
        removed: by module name, the ``"outputs"`` and ``"inputs"`` that go.

    Raises:
        PlanError: a module or channel that the model does not have, or of a kind without channels.
    """
    modules = dict(model.named_modules())
    for name, sides in removed.items():
        module = modules.get(name)
        if not isinstance(module, PRUNABLE):
            what = "which the model does not have" if module is None else f"a {type(module).__name__}"
            raise PlanError(f"the plan removes channels of {name!r}, {what}. Use the model that it was made for.")
        for role, positions in sides.items():
            count = channels(module, role)
            if not 0 <= min(positions) <= max(positions) < count or len(positions) >= count:
                raise PlanError(
                    f"the plan removes {role} of {name!r} up to {max(positions)}, which has {count}. "
                    "Use the model that it was made for."
                )
        _cut_(module, {role: _kept(channels(module, role), positions) for role, positions in sides.items()}, name)


def _kept(count: int, removed: Sequence[int]) -> Tensor:
    mask = torch.ones(count, dtype=torch.bool)
    mask[list(removed)] = False
    return mask.nonzero()[:, 0]


def _cut_(module: nn.Module, kept: Mapping[str, Tensor], name: str) -> None:
    outputs, inputs = kept.get("outputs"), kept.get("inputs")
    if isinstance(module, NORMS):
        for key in ("weight", "bias", "running_mean", "running_var"):
            _select_(module, key, 0, outputs)
        module.num_features = _count(outputs, module.num_features)
    elif isinstance(module, nn.PReLU):
        _select_(module, "weight", 0, outputs)
        module.num_parameters = _count(outputs, module.num_parameters)
    elif isinstance(module, nn.Linear):
        _select_(module, "weight", 0, outputs)
        _select_(module, "bias", 0, outputs)
        _select_(module, "weight", 1, inputs)
        module.out_features = _count(outputs, module.out_features)
        module.in_features = _count(inputs, module.in_features)
    elif is_depthwise(module):
        both = outputs if outputs is not None else inputs
        _select_(module, "weight", 0, both)
        _select_(module, "bias", 0, both)
        assert isinstance(module, (*CONVOLUTIONS, *TRANSPOSED)), "is_depthwise has looked"
        module.in_channels = module.out_channels = module.groups = _count(both, module.groups)
    else:
        assert isinstance(module, (*CONVOLUTIONS, *TRANSPOSED)), "remove_ has looked"
        _cut_convolution_(module, outputs, inputs, name)


def _cut_convolution_(module: nn.Module, outputs: Tensor | None, inputs: Tensor | None, name: str) -> None:
    """Groups keep equally many channels each; a weight's rows of one group see the inputs of that group alone."""
    groups = int(module.groups)  # type: ignore[arg-type]
    transposed = isinstance(module, TRANSPOSED)
    sides = [("outputs", outputs, int(module.out_channels)), ("inputs", inputs, int(module.in_channels))]  # type: ignore[arg-type]
    whole, parted = (sides[1], sides[0]) if transposed else (sides[0], sides[1])  # of the weight's axes 0 and 1
    rows = torch.arange(whole[2]) if whole[1] is None else whole[1]
    columns = torch.arange(parted[2]) if parted[1] is None else parted[1]
    weight = module.get_parameter("weight")
    blocks = []
    for group in range(groups):
        mine = _within(rows, group, whole[2] // groups)
        theirs = _within(columns, group, parted[2] // groups)
        blocks.append(weight.detach().index_select(0, (mine + group * (whole[2] // groups)).to(weight.device)))
        blocks[-1] = blocks[-1].index_select(1, theirs.to(weight.device))
    if len({tuple(block.shape) for block in blocks}) != 1:
        raise PlanError(f"the plan leaves the groups of {name!r} with different numbers of channels.")
    module.weight = nn.Parameter(torch.cat(blocks), requires_grad=weight.requires_grad)
    _select_(module, "bias", 0, outputs)
    module.out_channels = _count(outputs, int(module.out_channels))  # type: ignore[arg-type,assignment]
    module.in_channels = _count(inputs, int(module.in_channels))  # type: ignore[arg-type,assignment]


def _within(positions: Tensor, group: int, size: int) -> Tensor:
    return positions[positions // size == group] - group * size


def _count(kept: Tensor | None, before: int) -> int:
    return before if kept is None else len(kept)


def _select_(module: nn.Module, key: str, axis: int, kept: Tensor | None) -> None:
    value = getattr(module, key, None)
    if kept is None or not isinstance(value, Tensor):
        return
    chosen = value.detach().index_select(axis, kept.to(value.device))
    if isinstance(value, nn.Parameter):
        setattr(module, key, nn.Parameter(chosen, requires_grad=value.requires_grad))
    else:
        module.register_buffer(key, chosen)


@torch.no_grad()
def silence_inputs_(module: nn.Module, positions: Sequence[int]) -> None:
    """Make a layer deaf to some of its inputs: what removing them computes, with all shapes as they were.

    Raises:
        PruningError: a module that has no inputs of its own.
    """
    weight, where = getattr(module, "weight", None), list(positions)
    if not isinstance(weight, Tensor) or isinstance(module, (*NORMS, nn.PReLU)):
        raise PruningError(f"a {type(module).__name__} has no inputs that could be silenced.")
    if isinstance(module, TRANSPOSED):
        weight[where] = 0
    elif isinstance(module, nn.Linear) or int(module.groups) == 1:  # type: ignore[arg-type]
        weight[:, where] = 0
    else:
        assert isinstance(module, CONVOLUTIONS), "no other kind has groups"
        ins, outs = module.in_channels // module.groups, module.out_channels // module.groups
        for position in where:
            group = position // ins
            weight[group * outs : (group + 1) * outs, position % ins] = 0
