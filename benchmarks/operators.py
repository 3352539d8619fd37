"""Every operator with ordinary and odd arguments: has it an integer form, and which file can hold it?

    python benchmarks/operators.py            # all cases; rows into benchmarks/results/operators.jsonl
    python benchmarks/operators.py --only cat # those whose names hold a text

Each case of ``tests/operators/operator_cases.py`` is traced, quantized at 8 bits, lowered, held against the quantized
network operator by operator, written as every kind of file, run, and compared with the integers. A case is ``exact``
where every code is the integers', ``within N`` where codes are at most N steps off, else the refusal.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "operators"))
from operator_cases import FLOAT, INTEGER, SHAPE, Case  # noqa: E402

from sigmaquant.errors import SigmaQuantError  # noqa: E402
from sigmaquant.export.fidelity import FidelityCheck  # noqa: E402
from sigmaquant.export.targets import TARGETS, ExportOptions, Source  # noqa: E402
from sigmaquant.export.verification import Reference  # noqa: E402
from sigmaquant.graph import trace  # noqa: E402
from sigmaquant.lowering import lower  # noqa: E402
from sigmaquant.plan import BitwidthPlan  # noqa: E402
from sigmaquant.quant import calibrate_, prepare, set_plan_  # noqa: E402
from sigmaquant.runs.atomic import write_text_atomic  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "operators.jsonl"
FILES = ("onnx", "litert", "c")


def row(name: str, body: Any) -> dict[str, Any]:
    """What became of one case."""
    torch.manual_seed(0)
    x = torch.randn(32, *SHAPE, generator=torch.Generator().manual_seed(1))
    graph = trace(Case(body).eval(), x[:2])
    found: dict[str, Any] = {"case": name, "float": sorted({place.operator for place in graph.float_places})}
    if found["float"]:
        return found
    network = prepare(graph)
    set_plan_(network, BitwidthPlan(dict.fromkeys(graph.layer, 8), dict.fromkeys(graph.activation_names, 8)))
    calibrate_(network, [x])
    model = lower(network.eval())
    parting = FidelityCheck(network, model).run([(x[:7],)])
    found["integer"] = "exact" if parting is None else str(parting)
    for target in FILES:
        found[target] = written(target, network, model, x[:5])
    return found


def written(target: str, network: Any, model: Any, x: torch.Tensor) -> str:
    """One kind of file: its verdict, or its refusal."""
    kind, options = TARGETS[target], ExportOptions()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / kind.file
        try:
            kind.write(network, model, path, options)
            form = model if kind.form is None else kind.form(model, options)
            reference = Reference(form, [(x,)], "values")
            inputs, outputs = (tuple(model.edges[name] for name in names) for names in (model.inputs, model.outputs))
            runner = kind.runner(path, Source(network.graph.module, (x[:2],), inputs, (x[:1],), outputs))
            agreement = reference.agreement(runner)
        except SigmaQuantError as error:
            return f"refused: {error}"
    return "exact" if agreement.equal == 1 else f"within {agreement.largest_steps}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="cases whose names hold this")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cases = {**INTEGER, **{name: body for name, (body, _) in FLOAT.items()}}
    rows = []
    for name, body in cases.items():
        if arguments.only in name:
            rows.append(row(name, body))
            print(json.dumps(rows[-1]), flush=True)
    if not arguments.only:
        write_text_atomic(arguments.out, "".join(json.dumps(found) + "\n" for found in rows))
    wrong = [found["case"] for found in rows if found.get("integer", "exact") != "exact"]
    print(f"{len(rows)} cases, {sum(bool(found['float']) for found in rows)} in float, {len(wrong)} wrong {wrong}")


if __name__ == "__main__":
    main()
