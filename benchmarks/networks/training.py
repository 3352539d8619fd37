"""Whether a network can be trained at few bits: what `benchmarks/coverage.py train` does in a process of its own."""

from __future__ import annotations

import json
import warnings
from typing import Any

import torch
import torch.utils._pytree as pytree

from networks.measure import failure, flat, tensors
from networks.registry import entries
from networks.subject import enliven_
from sigmaquant.graph import trace
from sigmaquant.plan import BitwidthPlan
from sigmaquant.quant import calibrate_, prepare, set_plan_
from sigmaquant.tasks import Task
from sigmaquant.training.devices import choose_device
from sigmaquant.training.losses import Distillation
from sigmaquant.training.qat import Recipe, make_optimizer, train_
from sigmaquant.training.teacher import make_teacher

BITS, STEPS, EXAMPLES = 4, 2, 4


class Everything(Task):
    """All outputs with a row for each example, as values."""

    def outputs(self, returned: Any) -> Any:
        """The tensors of whatever it is."""
        return tuple(x for x in tensors(returned) if x.is_floating_point() and x.dim() > 1 and len(x) == EXAMPLES)


def train(name: str) -> None:
    """Two steps of distillation at 4 bits on random data; prints what became of loss and weights."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    found: dict[str, Any]
    try:
        found = _trained(name)
    except Exception as error:
        found = failure(error)
    print(json.dumps({"training": found}), flush=True)


def _trained(name: str) -> dict[str, Any]:
    model, inputs = entries()[name].build()
    enliven_(model, inputs)
    graph = trace(model, inputs(2))
    network = prepare(graph)
    plan = BitwidthPlan(dict.fromkeys(graph.layer, BITS), dict.fromkeys(graph.activation_names, 8), graph.fingerprint)
    set_plan_(network, plan)
    calibrate_(network, [flat(inputs(2 * EXAMPLES))])
    before = {key: value.detach().clone() for key, value in network.named_parameters()}
    recipe = Recipe(loss=Distillation(task=Everything()))
    given = [(flat(inputs(EXAMPLES)), torch.zeros(EXAMPLES, dtype=torch.int64)) for _ in range(STEPS)]
    device = choose_device("cpu")
    report = train_(network, make_teacher(graph), given, make_optimizer(network, recipe), recipe, device)
    with torch.no_grad():
        outputs = [x for x in pytree.tree_leaves(network(*given[0][0])) if hasattr(x, "isfinite")]
    finite = all(bool(x.isfinite().all()) for x in (*network.parameters(), *outputs))
    moved = sum(not torch.equal(before[key], value) for key, value in network.named_parameters())
    return {"steps": report.steps, "loss": report.loss, "finite": finite, "moved": moved, "tensors": len(before)}
