"""One network, from the module to files that are run: what `benchmarks/coverage.py` does in a process of its own."""

from __future__ import annotations

import json
import re
import resource
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor

from networks.registry import entries
from networks.subject import call, enliven_
from sigmaquant.errors import SigmaQuantError
from sigmaquant.export.targets import TARGETS, ExportOptions, Source
from sigmaquant.export.verification import Reference, Watch
from sigmaquant.graph import trace
from sigmaquant.lowering import IntegerExecutor, IntegerModel, lower
from sigmaquant.lowering.model import FloatOperator
from sigmaquant.operators import compute, encode
from sigmaquant.plan import BitwidthPlan
from sigmaquant.quant import calibrate_, prepare, set_plan_

EXAMPLES, CALIBRATION = 4, (8, 8)
STEPS = 2  # a code may be off by this much: two roundings
Row = dict[str, Any]


class Report:
    """Prints what is known as soon as it is, so that a process that is ended has said how far it came."""

    def __init__(self) -> None:
        self.begin = cpu_seconds()

    def __call__(self, **facts: Any) -> None:
        print(json.dumps({**facts, "cpu_s": round(cpu_seconds() - self.begin, 1)}), flush=True)


def cpu_seconds() -> float:
    """Of this process and of the compilers that it has waited for."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def failure(error: Exception) -> Row:
    """An error of the program's own kind, or any other with the line that raised it."""
    if isinstance(error, SigmaQuantError):
        return {"refused": _without_paths(str(error))[:400]}
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "sigmaquant" in f.filename]
    where = "" if not frames else f" at {Path(frames[-1].filename).name}:{frames[-1].lineno} ({frames[-1].name})"
    return {"raw": f"{type(error).__name__}{where}: {_without_paths(' '.join(str(error).split()))[:300]}"}


def _without_paths(text: str) -> str:
    """Files by their place in a package: results say nothing of the machine."""
    return re.sub(r"/\S*/(?:site-packages|benchmarks|src)/", "", text)


def measure(name: str, files: Iterable[str]) -> None:
    """One network, from the module to files."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    entry = entries()[name]
    model, inputs = entry.build()
    enliven_(model, inputs)
    calibration, examples = [inputs(count) for count in CALIBRATION], inputs(EXAMPLES)
    report = Report()
    report(parameters=sum(p.numel() for p in model.parameters()))
    try:
        graph = trace(model, inputs(2))
    except Exception as error:
        report(trace=failure(error))
        return
    quantized = sum(spec.elements for spec in graph.layers)
    in_layers = sum(spec.macs for spec in graph.layers)
    macs = in_layers + graph.weightless_macs + graph.float_macs
    report(
        trace={"difference": difference(lambda x: call(model, x), graph.module, examples)},
        quantized_parameters=quantized / max(1, sum(p.numel() for p in model.parameters())),
        quantized_macs=in_layers / max(1, macs),
        macs=macs,
        float_operators=dict(Counter(label.rpartition(": ")[2] for label in graph.float_operators)),
    )
    integers(graph, calibration, examples, files, report, (model, inputs(2)))


def flat(given: Any) -> tuple[Any, ...]:
    """The tensors of an input in the order of the graph's placeholders."""
    return tuple(leaf for leaf in pytree.tree_leaves(given) if hasattr(leaf, "dim"))


def difference(model: Callable[[Any], Any], module: Any, examples: Any) -> float:
    """Largest difference between the model and its graph, relative to the largest output."""
    with torch.no_grad():
        pairs = zip(*(tensors(out) for out in (model(examples), module.eval()(*flat(examples)))), strict=False)
        found = [float((a - b).abs().max() / b.abs().max().clamp_min(1e-9)) for a, b in pairs if a.is_floating_point()]
    return max(found, default=0.0)


def tensors(outputs: Any) -> list[Any]:
    """The tensors in what a model gives, those in objects included."""
    return [leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, torch.Tensor)]


def integers(
    graph: Any, calibration: list[Any], examples: Any, files: Iterable[str], report: Report, source: tuple[Any, Any]
) -> None:
    """8 bits everywhere, then integers, then files; `source` is the model and what it is called with."""
    try:
        network = prepare(graph)
        activations = dict.fromkeys(graph.activation_names, 8)
        set_plan_(network, BitwidthPlan(dict.fromkeys(graph.layer, 8), activations, graph.fingerprint))
        calibrate_(network, [flat(batch) for batch in calibration])
        model = lower(network.eval())
    except Exception as error:
        report(integers=failure(error))
        return
    left = floats(model)
    try:
        apart = steps_apart(network, model, flat(examples))
    except Exception as error:
        report(integers={**left, **failure(error)})
        return
    report(integers={**left, **apart})
    found: Row = {}
    for target in files:
        found[target] = written(target, network, model, flat(examples), source)
        report(files=found)


def floats(model: IntegerModel) -> Row:
    """Operators in float by name: those that begin a part in float, and those that are in it behind them."""
    own: Counter[str] = Counter()
    behind: Counter[str] = Counter()
    edges: set[str] = set()
    for operator in model.operators:
        if isinstance(operator, FloatOperator):
            (behind if edges & set(operator.inputs) else own)[operator.operator.rpartition(": ")[2]] += 1
            edges.add(operator.output)
    return {"float": dict(own), "behind": dict(behind)}


def steps_apart(network: Any, model: Any, inputs: tuple[Any, ...]) -> Row:
    """How far each quantized activation's codes are from the network's, given the network's own codes before it.

    ``end_steps`` is the largest difference at an output where the integers run on their own.
    """
    real: dict[str, Any] = {}
    hooks = [
        quantizer.register_forward_hook(lambda _m, _i, out, name=name: real.update({name: out}))
        for name, quantizer in network.activation_quantizers.items()
    ]
    with torch.no_grad():
        outputs = tensors(network(*inputs))
    for hook in hooks:
        hook.remove()
    executor = IntegerExecutor(model)
    with torch.no_grad():
        own = executor(*inputs)
        values = dict(zip(model.inputs, executor.quantize_inputs(*inputs), strict=True))
        worst, where, off, total = 0, "", 0, 0
        for operator in model.operators:
            code = compute(operator, executor, *(values[name] for name in operator.inputs))
            edge = model.edges[operator.output]
            if edge.name in real and not edge.is_float:
                expected = encode(real[edge.name].movedim(edge.batch_axis, 0), edge)
                steps = (code.reshape(expected.shape).to(torch.int64) - expected.to(torch.int64)).abs()
                off, total = off + int((steps > STEPS).sum()), total + steps.numel()
                if int(steps.max()) > worst:
                    worst, where = int(steps.max()), f"{edge.name} ({type(operator).__name__})"
                code = expected
            values[operator.output] = code
    ends: list[float] = []
    for theirs, out, name in zip(tensors(own), outputs, model.outputs, strict=False):
        edge = model.edges[name]
        scale = float(out.abs().max()) / 255 if edge.is_float else edge.scale
        ends.append(float((theirs.reshape(out.shape) - out).abs().max()) / max(scale, 1e-12))
    return {
        "steps": worst,
        "where": where,
        "beyond": off / max(1, total),
        "end_steps": round(max(ends, default=0.0), 2),
    }


def local_steps(watch: Watch, model: IntegerModel, inputs: tuple[Tensor, ...]) -> int:
    """How far any of a file's operators is from the reference's, given the file's own codes.

    Runtimes may round otherwise, and random deep networks turn one such code into another decision, so that
    their ends alone say nothing of the operators.
    """
    seen, executor = watch(*inputs), IntegerExecutor(model)
    values = dict(zip(model.inputs, executor.quantize_inputs(*inputs), strict=True))
    largest = 0
    for operator in model.operators:
        code = compute(operator, executor, *(values[name] for name in operator.inputs))
        if operator.output in seen:
            theirs = seen[operator.output].reshape(code.shape).to(code.dtype)
            largest = max(largest, int((theirs.to(torch.int64) - code.to(torch.int64)).abs().max()))
            code = theirs
        values[operator.output] = code
    return largest


def written(target: str, network: Any, model: Any, inputs: tuple[Any, ...], own: tuple[Any, Any]) -> Row:
    """One kind of file: written, run, compared with the integers and with the network."""
    kind, options = TARGETS[target], ExportOptions()
    before = cpu_seconds()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / kind.file
        try:
            kind.write(network, model, path, options)
            form = model if kind.form is None else kind.form(model, options)
            reference = Reference(form, [inputs], "values")
            edges = tuple(tuple(model.edges[name] for name in names) for names in (model.inputs, model.outputs))
            source = Source(*own, edges[0], tuple(x[:1] for x in inputs), edges[1])
            runner = kind.runner(path, source)
            agreement = reference.agreement(runner)
            local = None if kind.exact else local_steps(kind.watch(path, source, form), form, inputs)
            with torch.no_grad():
                theirs, ours = tensors(runner(*inputs))[0], tensors(network(*inputs))[0]
            ours = ours.movedim(edges[1][0].batch_axis, 0)
            steps = float((theirs.reshape(ours.shape) - ours).abs().max()) / edges[1][0].scale
        except Exception as error:
            return {**failure(error), "cpu_s": round(cpu_seconds() - before, 1)}
    same = agreement.decisions >= kind.required and (agreement.equal == 1 or not kind.exact)
    return {
        "same": bool(same or (local is not None and local <= STEPS)),
        "equal": agreement.equal,
        "local_steps": local,
        "steps": agreement.largest_steps,
        "network_steps": round(steps, 2),
        "cpu_s": round(cpu_seconds() - before, 1),
    }
