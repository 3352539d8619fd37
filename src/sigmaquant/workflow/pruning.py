"""Channels that are removed before the search: groups, what removing them costs, the choice, the smaller network."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sigmaquant.budget import Budget
from sigmaquant.errors import SigmaQuantError
from sigmaquant.export.deployed import DeployedCosts
from sigmaquant.graph import QuantGraph, trace
from sigmaquant.graph.inputs import map_tensors
from sigmaquant.graph.reading import read_copy
from sigmaquant.hardware.profile import HardwareProfile
from sigmaquant.json_text import read_json
from sigmaquant.plan import Removed, check_removed
from sigmaquant.pruning.groups import ChannelGroup, check_removal, find_groups
from sigmaquant.pruning.harm import DeafNetwork
from sigmaquant.pruning.removal import channels, remove_
from sigmaquant.runs import Progress, task
from sigmaquant.runs.atomic import write_text_atomic
from sigmaquant.search.pruning import GroupHarm, all_removed, allowed_counts, choose_removal, measured_counts
from sigmaquant.search.session import Session, Statistics, some
from sigmaquant.search.settings import Settings
from sigmaquant.training.student import Judge
from sigmaquant.units import format_count

log = logging.getLogger("sigmaquant")

EVERYTHING = Budget(size="0.01x")
"""A budget that admits every plan."""
_EXAMPLES = 512
_JUDGED = 256
_LEAST = 0.2
"""Share of the minutes that the search and training have, however long the removal took."""
_SCHEMA = "sigmaquant.pruning"


@dataclass(frozen=True)
class Pruned:
    """A network without some channels.

    Attributes:
        session: its session, whose plans say what was removed.
        costs: its costs.
        document: what was removed, for JSON.
    """

    session: Session
    costs: DeployedCosts
    document: dict[str, Any]

    @property
    def sentence(self) -> str:
        """What became of the network."""
        groups = self.document["groups"]
        gone = ", ".join(f"{row['name']} {row['removed']} of {row['units']}" for row in groups if row["removed"])
        macs, before = (format_count(self.document[key]) for key in ("macs", "float_macs"))
        return f"removed channels: {gone or 'none'}; {macs} multiply-accumulates are left of {before}"


def prune_and_open(
    model: nn.Module,
    origin: Session,
    profile: HardwareProfile,
    budget: Budget,
    settings: Settings,
    path: Path | None,
    progress: Progress,
) -> Pruned:
    """Choose channels for a budget and remove them.

    Args:
        model: the user's.
        origin: session of the whole network, without limits.
        profile: the hardware.
        budget: what is allowed.
        settings: of the run.
        path: where the choice is kept, so that a resumed run need not measure again; None: nowhere.
        progress: display.

    Raises:
        PruningError: nothing can be removed.
        UnreachableBudgetError: the largest removals do not suffice.
    """
    begun = time.perf_counter()
    device, train = origin.device, origin.data.train
    whole = read_copy(model).cpu().eval()
    example = map_tensors(train.example_structure(), lambda x: x[:2].cpu())
    saved = _read(path)
    with task(progress, "removing channels"):
        source = some(train, _EXAMPLES, origin.seed("pruning"))
        batches = [device.put(x) for x, _ in source.batches()]
        judge = Judge.of(origin.teacher, some(train, _JUDGED, origin.seed("pruning")), origin.task, device)
        groups = find_groups(whole, example, settings.pin).groups
        deaf = DeafNetwork(origin.graph, groups, batches, judge)
        if saved is None:
            harms = [_harm(deaf, group, settings.prune) for group in groups]
            harms = [harm for harm in harms if harm.counts]
            counts = _counts(origin, budget, harms)
            removed: Removed = all_removed(harms, counts)
            document = _document(groups, harms, counts)
        else:
            document, removed = saved["pruning"], check_removed(saved["removed"])
        deaf.silence_(removed)
        check_removal(whole, example, removed)
        smaller = read_copy(model).cpu().eval()
        _take_over_(smaller, deaf.network, removed)
        remove_(smaller, removed)
        graph = trace(smaller.to(device.name), map_tensors(example, lambda x: x.to(device.name)))
        device.put_module(graph.module)
        costs = DeployedCosts(graph, profile).counting(budget.size_counts)
        if saved is None:
            macs = costs.reference().macs, origin.reference.macs
            divergence = judge(deaf.network).divergence
            seconds = time.perf_counter() - begun
            document |= {"macs": macs[0], "float_macs": macs[1], "divergence": divergence, "seconds": seconds}
            if path is not None:
                kept = {"schema": _SCHEMA, "version": 1, "pruning": document, "removed": removed}
                write_text_atomic(path, json.dumps(kept, indent=1) + "\n")
    if settings.minutes is not None:  # the time for everything
        left = settings.minutes - document["seconds"] / 60
        settings = replace(settings, effort=None, minutes=max(_LEAST * settings.minutes, left))
    session = Session(
        graph, origin.data, budget, settings, costs, origin.task, device, Statistics(), origin=origin, removed=removed
    )
    return Pruned(session, costs, document)


def origin_session(graph: QuantGraph, data: Any, settings: Settings, costs: DeployedCosts, kind: Any, device: Any,
                   statistics: Statistics) -> Session:  # fmt: skip
    """A session of the whole network that admits everything, by the sensitivity that is a distance of outputs."""
    plain = replace(settings, equalize=False, sensitivity="curvature", objective="accurate")
    return Session(graph, data, EVERYTHING, plain, costs, kind, device, statistics)


def _harm(deaf: DeafNetwork, group: ChannelGroup, share: float) -> GroupHarm:
    counts = allowed_counts(len(group.units), share)
    if not counts:
        return GroupHarm(group, (), {}, ())
    order = deaf.order(group)
    found: dict[int, float] = {}
    for count in measured_counts(counts):
        found[count] = max(deaf.harm(group.removed(order[:count])), *found.values(), 0.0)  # more is never less harm
    log.info("%s: %s", group.name, ", ".join(f"without {n} of {len(order)} {h:.4f}" for n, h in found.items()))
    return GroupHarm(group, order, found, counts)


def _counts(origin: Session, budget: Budget, harms: Sequence[GroupHarm]) -> dict[str, int]:
    limits = origin._resolved(budget, origin.float_accuracy)
    upper = {name: limit for name, limit in limits.upper.items() if name != "macs"}
    problem = origin._problem(replace(limits, upper={name: limit * 1e9 for name, limit in upper.items()}))
    problem = replace(problem, upper=upper)
    if "macs" in limits.upper:
        table = {spec.name: dict.fromkeys(origin.choices[spec.name], float(spec.macs)) for spec in origin.graph.layers}
        rest = float(origin.graph.weightless_macs + origin.graph.float_macs)
        problem = replace(
            problem,
            upper={**upper, "macs": limits.upper["macs"]},
            costs={**problem.costs, "macs": table},
            fixed={**problem.fixed, "macs": rest},
        )
    table_of_bits, _ = origin.sensitivity(origin.graph)
    return choose_removal(origin.graph, problem, table_of_bits, harms)


def _document(groups: Sequence[ChannelGroup], harms: Sequence[GroupHarm], counts: dict[str, int]) -> dict[str, Any]:
    by_name = {harm.group.name: harm for harm in harms}
    rows = []
    for group in groups:
        harm = by_name.get(group.name)
        measured = {} if harm is None else {str(n): value for n, value in harm.harm.items()}
        rows.append(
            {
                "name": group.name,
                "layers": list(dict.fromkeys(name for name, _ in group.modules)),
                "units": len(group.units),
                "removed": counts.get(group.name, 0),
                "harm": measured,
            }
        )
    return {"groups": rows}


@torch.no_grad()
def _take_over_(model: nn.Module, network: nn.Module, removed: Removed) -> None:
    """Parameters and statistics of the compensated network for the modules that change, and all BatchNorms."""
    for name, module in network.named_modules():
        changed = name in removed or isinstance(module, nn.modules.batchnorm._BatchNorm)
        if not changed or not name:
            continue
        own = model.get_submodule(name)
        for key, value in module.state_dict().items():
            target = getattr(own, key, None)
            if isinstance(target, Tensor) and target.shape == value.shape:
                target.copy_(value)
    for name, sides in removed.items():
        assert all(channels(model.get_submodule(name), side) for side in sides), name


def _read(path: Path | None) -> dict[str, Any] | None:
    if path is None or not path.exists():
        return None
    try:
        document = read_json(path.read_bytes(), infinities=True)
        if document["schema"] == _SCHEMA and document["version"] == 1 and document["pruning"]["groups"] is not None:
            return dict(document)
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise SigmaQuantError(f"{path} is damaged. Delete it, and the run measures again what channels may go.")
