"""Groups of channels that can only go together, from torch-pruning's dependency graph; each group is tried.

The dependency graph knows which channels depend on which (Fang et al., DepGraph, CVPR 2023, arXiv:2301.12900). Whether
that is so in a network is measured: with the channels removed the network must compute what it computes when the layers
that read them are deaf to them. What does not, such as channels that are shuffled or normalised together, is kept.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from sigmaquant.errors import MissingExtraError, PruningError
from sigmaquant.graph.copying import copied
from sigmaquant.graph.inputs import Arguments, ExampleInputs, read_arguments
from sigmaquant.plan import Removed
from sigmaquant.pruning.removal import (
    CONVOLUTIONS,
    NORMS,
    PRUNABLE,
    TRANSPOSED,
    channels,
    is_depthwise,
    remove_,
    silence_inputs_,
)

Item = tuple[str, str, int]
"""A module's name, ``"outputs"`` or ``"inputs"``, and a channel."""
_PART = 1e-3
"""How far a removal may be off, as a part of what it changes."""
_EXACT, _SINGLE = 1e-12, 1e-6
"""How far rounding is off, in float64 and float32, as a part of the largest output."""


@dataclass(frozen=True)
class ChannelGroup:
    """Channels of several modules that go together.

    Attributes:
        name: of the first layer whose outputs they are.
        units: what goes at once, each a tuple of `Item`, in order.
    """

    name: str
    units: tuple[tuple[Item, ...], ...]

    @property
    def modules(self) -> tuple[tuple[str, str], ...]:
        """Modules and sides that it touches."""
        return tuple(dict.fromkeys((name, role) for name, role, _ in self.units[0]))

    def removed(self, units: Iterable[int]) -> Removed:
        """What goes with some of its units."""
        return removed_of(item for unit in units for item in self.units[unit])


@dataclass(frozen=True)
class Groups:
    """What can be removed from a network.

    Attributes:
        groups: all groups that can.
        kept: name of a layer whose outputs cannot, and why.
    """

    groups: tuple[ChannelGroup, ...]
    kept: Mapping[str, str]


def removed_of(items: Iterable[Item]) -> dict[str, dict[str, tuple[int, ...]]]:
    """Items by module and side, ascending."""
    found: dict[str, dict[str, set[int]]] = defaultdict(lambda: defaultdict(set))
    for name, role, channel in items:
        found[name][role].add(channel)
    return {name: {role: tuple(sorted(sides[role])) for role in sorted(sides)} for name, sides in sorted(found.items())}


def merged(parts: Iterable[Removed]) -> dict[str, dict[str, tuple[int, ...]]]:
    """All that several groups remove."""
    return removed_of(
        (name, role, channel)
        for part in parts
        for name, sides in part.items()
        for role, positions in sides.items()
        for channel in positions
    )


def find_groups(model: nn.Module, example_inputs: ExampleInputs, pinned: Iterable[str] = ()) -> Groups:
    """The groups of a network, each tried.

    Args:
        model: a copy, in evaluation mode; it is not changed.
        example_inputs: as for `sigmaquant.graph.trace`, two examples or more.
        pinned: layers that keep all their channels, inputs and outputs.

    Raises:
        MissingExtraError: torch-pruning is not installed.
        PruningError: nothing can be removed; names every layer, and why.
    """
    twin = copied(model).eval()
    given = read_arguments(twin, example_inputs)
    kept: dict[str, str] = {}
    found = [
        group
        for group in _grouped(twin, _units(twin, given))
        if _allowed(twin, group, frozenset(pinned), kept) and _tried(twin, given, group, kept)
    ]
    if not found:
        told = "; ".join(f"{name}: {why}" for name, why in kept.items()) or "it has no two layers in a row"
        raise PruningError(
            f"no channels of {type(model).__name__} can be removed ({told}). Leave prune out, or unpin layers."
        )
    return Groups(tuple(found), kept)


def check_removal(model: nn.Module, example_inputs: ExampleInputs, removed: Removed) -> None:
    """Raise unless a network without channels computes what it computes deaf to them.

    Raises:
        PruningError: it does not.
    """
    given = read_arguments(model, example_inputs)
    if not _same(model, given, removed):
        raise PruningError(
            "without the chosen channels together the network does not compute what it should, although it does "
            "without each group's. Pin a layer, or leave prune out."
        )


def _graph_of(model: nn.Module, given: Arguments) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import torch_pruning
    except ImportError:
        raise MissingExtraError("removing channels", "prune") from None
    for parameter in model.parameters():
        parameter.requires_grad_(True)  # the library follows gradients
    for module in model.modules():
        if isinstance(module, nn.ReLU | nn.ReLU6 | nn.Hardswish | nn.Hardtanh | nn.SiLU | nn.LeakyReLU):
            module.inplace = False
    try:
        with warnings.catch_warnings(), torch.enable_grad():
            warnings.simplefilter("ignore")
            return torch_pruning.DependencyGraph().build_dependency(
                model,
                example_inputs=given.args,
                forward_fn=lambda net, _: net(*given.args, **given.kwargs),
                output_transform=lambda out: [x for x in tree_leaves(out) if isinstance(x, Tensor) and x.requires_grad],
                verbose=False,
            )
    except Exception as error:  # the library follows operators that it knows; of others it may raise anything
        raise PruningError(
            f"the dependencies between the channels of {type(model).__name__} cannot be read: {type(error).__name__}: "
            f"{str(error).partition(chr(10))[0]}. Leave prune out."
        ) from error


def _units(model: nn.Module, given: Arguments) -> list[tuple[Item, ...]]:
    """Smallest sets of channels that go together, in the order of the layers."""
    graph = _graph_of(model, given)
    names = {module: name for name, module in model.named_modules()}
    order = {name: index for index, name in enumerate(names.values())}
    sets = _Sets()
    for module in list(graph.module2node):
        if module not in names or not isinstance(module, (*CONVOLUTIONS, *TRANSPOSED, nn.Linear)):
            continue
        pruner = graph.get_pruner_of_module(module)
        count = channels(module, "outputs")
        whole = graph.get_pruning_group(module, pruner.prune_out_channels, list(range(count)))
        for entry in whole:
            dependency, target = entry.dep, entry.dep.target.module
            if target not in names:
                continue  # an operator of the library's own
            role = "outputs" if graph.is_out_channel_pruning_fn(dependency.handler) else "inputs"
            if isinstance(target, (*NORMS, nn.PReLU)) or is_depthwise(target):
                role = "outputs"
            for index, root in zip(entry.idxs, entry.root_idxs, strict=True):
                sets.join((names[module], "outputs", int(root)), (names[target], role, int(index)))
    for name, module in model.named_modules():
        if isinstance(module, (*CONVOLUTIONS, *TRANSPOSED)) and module.groups > 1 and not is_depthwise(module):
            for role in ("outputs", "inputs"):  # every group of a convolution loses as many
                size = channels(module, role) // module.groups
                for channel in range(size, size * module.groups):
                    sets.join((name, role, channel % size), (name, role, channel))
    return sorted(
        (tuple(sorted(unit, key=lambda item: (order[item[0]], item[1], item[2]))) for unit in sets.all()),
        key=lambda unit: [(order[name], role, channel) for name, role, channel in unit],
    )


class _Sets:
    """Disjoint sets that are joined (Tarjan 1975)."""

    def __init__(self) -> None:
        self._parent: dict[Item, Item] = {}

    def _root(self, item: Item) -> Item:
        path = [item]
        while (parent := self._parent.setdefault(path[-1], path[-1])) != path[-1]:
            path.append(parent)
        for step in path:
            self._parent[step] = path[-1]
        return path[-1]

    def join(self, one: Item, other: Item) -> None:
        self._parent[self._root(other)] = self._root(one)

    def all(self) -> list[list[Item]]:
        found: dict[Item, list[Item]] = defaultdict(list)
        for item in list(self._parent):
            found[self._root(item)].append(item)
        return list(found.values())


def _grouped(model: nn.Module, units: Sequence[tuple[Item, ...]]) -> list[ChannelGroup]:
    """Units that touch the same modules are one group."""
    found: dict[frozenset[tuple[str, str]], list[tuple[Item, ...]]] = defaultdict(list)
    for unit in units:
        found[frozenset((name, role) for name, role, _ in unit)].append(unit)
    made, seen = [], set()
    for several in found.values():
        producers = [name for name, role, _ in several[0] if role == "outputs" and _is_layer(model, name)]
        name = producers[0] if producers else several[0][0][0]
        number = 1
        while (unique := name if number == 1 else f"{name}#{number}") in seen:
            number += 1
        seen.add(unique)
        made.append(ChannelGroup(unique, tuple(several)))
    return made


def _is_layer(model: nn.Module, name: str) -> bool:
    return isinstance(model.get_submodule(name), (*CONVOLUTIONS, *TRANSPOSED, nn.Linear))


def _allowed(model: nn.Module, group: ChannelGroup, pinned: frozenset[str], kept: dict[str, str]) -> bool:
    why = None
    if not any(role == "inputs" for _, role in group.modules):
        why = "its channels are outputs of the network"
    elif len(group.units) < 2:
        why = "all its channels go together"
    elif held := sorted(pinned & {name for name, _ in group.modules}):
        why = f"{held[0]} is pinned"
    else:
        for name, _ in group.modules:
            module = model.get_submodule(name)
            if not isinstance(module, PRUNABLE):
                why = f"channels of {name}, a {type(module).__name__}, go with it"
    if why is not None:
        kept[group.name] = why
    return why is None


def _tried(model: nn.Module, given: Arguments, group: ChannelGroup, kept: dict[str, str]) -> bool:
    """Whether the network computes what it should without every other unit."""
    try:
        same = _same(model, given, group.removed(range(0, len(group.units), 2)))
        why = "without some of its channels the network computes something else"
    except Exception as error:  # the user's code may count on the number of channels
        same, why = False, f"the network cannot run without some of its channels ({str(error).partition(chr(10))[0]})"
    if not same:
        kept[group.name] = why
    return same


@torch.no_grad()
def _same(model: nn.Module, given: Arguments, removed: Removed) -> bool:
    """Whether a network without channels computes what it computes deaf to them; in float64 where it can run so."""
    try:
        wide = given.map(lambda x: x.double() if x.is_floating_point() else x)
        return _agree(copied(model).double(), wide, removed, _EXACT)
    except (RuntimeError, TypeError):  # as for a user's code that makes float32 tensors itself
        return _agree(model, given, removed, _SINGLE)


def _agree(model: nn.Module, given: Arguments, removed: Removed, rounding: float) -> bool:
    cut, deaf = copied(model), copied(model)
    remove_(cut, removed)
    for name, sides in removed.items():
        module = deaf.get_submodule(name)
        if "inputs" in sides and not is_depthwise(module):
            silence_inputs_(module, sides["inputs"])
    whole, found, wanted = (_outputs(network, given) for network in (model, cut, deaf))
    return len(found) == len(wanted) and all(
        one.shape == other.shape
        and (one - other).abs().max() <= _PART * (other - before).abs().max() + rounding * other.abs().max()
        for one, other, before in zip(found, wanted, whole, strict=True)
    )


def _outputs(network: nn.Module, given: Arguments) -> list[Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # what a network draws is no difference
        found = tree_leaves(network(*given.args, **given.kwargs))
    return [x if x.is_floating_point() else x.double() for x in found if isinstance(x, Tensor)]
