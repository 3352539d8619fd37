"""Run directories for the report, written without a search: any layers, any names, in milliseconds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from sigmaquant.hardware.costs import packed_bytes
from sigmaquant.numerics import mse_weight_scales, quantize_weight
from sigmaquant.report.histogram import weight_histograms
from sigmaquant.report.layer_records import LayerCosts, LayerRecord, LayersDocument
from sigmaquant.runs.documents import dumps

EVIL = (
    "<script>alert(1)</script>",
    "</script><img src=x onerror=alert(2)>",
    "a\"b'c & {{ 7 * 7 }} <!-- </style>\u2028",
    "conv",
)
"""Names that must stay names."""


def record(name: str, bits: int, number: int, device: bool) -> LayerRecord:
    """A layer with random weights."""
    generator = torch.Generator().manual_seed(number)
    shape = (8, 4 + number % 5, 3, 3)
    weight = torch.randn(shape, generator=generator) * (0.05 + 0.3 / (1 + number))
    trained = weight + 0.1 * weight.std() * torch.randn(shape, generator=generator)
    midrise = bits <= 2
    scale = mse_weight_scales(trained, bits, midrise=midrise)
    codes = quantize_weight(trained, scale, bits, midrise=midrise)
    elements, macs = weight.numel(), 64 * weight.numel()

    def costs(width: int, **more: Any) -> LayerCosts:
        return LayerCosts(
            weight_bytes=packed_bytes(elements, width), scale_bytes=32 * (width < 32), bias_bytes=32,
            bops=float(macs * width * (8 if width < 32 else 32)), **more,
        )  # fmt: skip

    def on_device(width: int) -> LayerCosts:
        energy = macs * (0.1 + 0.05 * width)
        return costs(width, cycles=macs * width / 16, latency_ms=macs * width / 1.6e6, mac_energy_pj=energy,
                     on_chip_energy_pj=0.3 * energy, dram_energy_pj=0.2 * energy, energy_pj=1.5 * energy)  # fmt: skip

    return LayerRecord(
        name=name, kind="conv2d", parameter=f"{name}.weight", weight_shape=shape, input_shape=(shape[1], 8, 8),
        output_shape=(8, 8, 8), groups=1, elements=elements, macs=macs, calls=1, tied=(), batch_norm=None, bits=bits,
        midrise=midrise, activation_bits=8, sigma=float(weight.std()),
        divergence={width: 2.0 ** -(2 * width) for width in range(2, 9)},
        sensitivity={width: (1 + number) * 4.0**-width for width in range(2, 9)},
        float32=costs(32), reference=on_device(8) if device else None, cost=on_device(bits) if device else costs(bits),
        histogram=weight_histograms(weight, trained, codes, scale, bits=bits, midrise=midrise),
    )  # fmt: skip


def write_run(
    path: Path,
    names: Sequence[str] = ("conv1", "conv2", "conv3", "fc"),
    *,
    shift: int = 0,
    accuracy: float = 0.9,
    control: bool = True,
    device: bool = False,
    finished: bool = True,
    layers: bool = True,
    steps: int = 6,
    status: str = "met",
    metric: str = "top1",
    notes: Sequence[str] = (),
) -> Path:
    """A run directory with all files that a report reads.

    Args:
        shift: fewer bits in every layer, down to 2.
        layers: whether there is a ``layers.json``.
    """
    path.mkdir(parents=True)
    records = [
        record(name, max(2, 8 - number * 6 // max(1, len(names) - 1) - shift), number, device)
        for number, name in enumerate(names)
    ]
    weights = {item.name: item.bits for item in records}

    def total(part: str, extra: float = 0.0) -> dict[str, Any]:
        rows = [getattr(item, part) for item in records]
        sums = {key: sum(getattr(row, key) for row in rows) for key in ("weight_bytes", "scale_bytes", "bops")}
        found: dict[str, Any] = {**sums, "other_bytes": sum(row.bias_bytes for row in rows) + 7, "ram_bytes": 4096}
        found["scale_bytes"] += 25 * (part != "float32")
        found["weight_bytes"] += round(extra)
        for key in ("energy_pj", "latency_ms", "cycles"):
            given = [getattr(row, key) for row in rows]
            found[key] = None if None in given else sum(given)
        found["total_bytes"] = found["weight_bytes"] + found["scale_bytes"] + found["other_bytes"]
        return found

    cost, reference = total("cost"), total("float32")
    limits = {"size_bytes": cost["total_bytes"] * 1.01, "accuracy": accuracy - 0.01}
    settings = {"strategy": "sigma", "objective": "auto", "post_training": False, "seed": 0, "sigma": "raw",
                "sensitivity": "curvature", "search_examples": 2048}  # fmt: skip
    config = {"settings": settings, "budget": {"size": "8x", "accuracy": "-1 %", "size_counts": "total"},
              "hardware": "some-device" if device else "ideal", "metric": metric, "float_sha256": "ab" * 32,
              "validation_examples": 5000}  # fmt: skip
    document = {"schema": "sigmaquant.run", "version": 1, "config": config}
    (path / "config.json").write_text(json.dumps(document), encoding="utf-8")
    lines = []
    for number in range(1, steps + 1):
        first = number == 1
        line: dict[str, Any] = {
            "step": number, "stage": "phase1" if first else "phase2" if number < steps else "final",
            "move": "cluster" if first else "demote" if number < steps else "final training",
            "accepted": number % 3 != 0, "changes": {} if first else {names[-1]: [4, 2]}, "weights": weights,
            "mean_bits": 3.5, "cost": total("cost", extra=300 / number - 300 / steps),
            "accuracy": accuracy - 0.03 / number, "divergence": 0.1 / number, "violations": {},
            "limits": limits, "seconds": 1.5 * number,
        }  # fmt: skip
        if first:
            line["zones"] = {"cost": 0.15, "accuracy": 0.02}
        lines.append(dumps(line, indent=None))
    (path / "trajectory.jsonl").write_text("".join(lines), encoding="utf-8")
    if not finished:
        return path
    if layers:
        described = LayersDocument(
            sigma="raw", hardware=config["hardware"], reference_bits=8 if device else None,
            reference_total=total("reference") if device else None, layers=tuple(records),
        )  # fmt: skip
        (path / "layers.json").write_text(dumps(described.to_dict(), indent=None), encoding="utf-8")
    coverage = [
        {"parameter": f"{item.name}.weight", "elements": item.elements, "bits": item.bits, "reason": ""}
        for item in records
    ]
    coverage.append({"parameter": f"{names[-1]}.bias", "elements": 8, "bits": None, "reason": "bias"})
    violations = {} if status == "met" else {"size_bytes": 0.0123}
    uniform = {
        "weights": dict.fromkeys(weights, 4), "cost": {**cost, "total_bytes": cost["total_bytes"] + 40},
        "scores": {"validation": accuracy - 0.02, "test": accuracy - 0.03, "divergence": 0.1},
    }  # fmt: skip
    result = {
        "sigmaquant": "0.1.0", "torch": "2.13.0", "status": status, "violations": violations, "limits": limits,
        "scores": {"validation": accuracy, "test": accuracy - 0.005, "divergence": 0.02},
        "float_scores": {"validation": 0.93, "test": 0.925, "divergence": 0.0}, "cost": cost, "reference": reference,
        "weights": weights, "activations": {"input": 8},
        "control": uniform if control else None, "coverage": coverage,
        "noise": {"float": 0.004},
        "float_operators": [f"{names[0]}: softmax"], "notes": list(notes), "seconds": 12.3456,
    }  # fmt: skip
    (path / "result.json").write_text(dumps(result), encoding="utf-8")
    return path


def verification(path: Path, digest: str | None, **changes: Any) -> Path:
    """An ``export/verification.json`` with one file that passed and one that did not."""
    agreement = {"examples": 500, "decisions": 1.0, "largest_steps": 1, "median_steps": 1.0, "equal": 0.998}
    item = {"target": "onnx", "path": f"{path}/export/model.onnx", "required": 0.999, "agreement": agreement,
            "as_deployed": {**agreement, "decisions": 0.998}, "ideal_bytes": 1000, "real_bytes": 1400,
            "limits": {"size_bytes": [1400, 2000]},
            "latency_ratio": 0.5, "first_difference": "", "notes": [], "passed": True,
            "demand": "99.9 % decided alike"}  # fmt: skip
    failed = {**item, "target": "c", "path": f"{path}/export/model_c", "passed": False, "as_deployed": None,
              "demand": "every code equal",
              "latency_ratio": None, "first_difference": "activation 'x' at index (0, 1): 3 expected, 4 found",
              "agreement": {**agreement, "decisions": 0.75}, "notes": ["a <b>note</b>"], **changes}  # fmt: skip
    document = {"examples": 500, "options": {}, "checkpoint_sha256": digest, "artifacts": [item, failed]}
    document["integers"] = {"agreement": {**agreement, "decisions": 0.994, "mean_steps": 0.25}, "operators": 12,
                            "examples": 256, "largest_beyond": 0.004, "mean_beyond": 1e-6}  # fmt: skip
    if digest is None:
        del document["checkpoint_sha256"]
    (path / "export").mkdir(exist_ok=True)
    (path / "export" / "verification.json").write_text(json.dumps(document), encoding="utf-8")
    return path


def with_plans(path: Path) -> Path:
    """The run with three plans of one set of weights, the last of which costs more than the second at less accuracy."""
    result = json.loads((path / "result.json").read_text(encoding="utf-8"))
    cost, weights = result["cost"], result["weights"]
    plans = []
    for number, (name, share) in enumerate((("8x", 1.0), ("12x", 0.6), ("<b>16x</b>", 0.7))):
        smaller = {**cost, "weight_bytes": round(cost["weight_bytes"] * share)}
        smaller["total_bytes"] = smaller["weight_bytes"] + cost["scale_bytes"] + cost["other_bytes"]
        scores = {"validation": 0.9 - 0.02 * number, "test": 0.89 - 0.02 * number, "divergence": 0.01}
        plans.append({
            "name": name, "status": "not met" if number == 2 else "met", "violations": {}, "cost": smaller,
            "weights": {layer: max(2, bits - 2 * number) for layer, bits in weights.items()}, "scores": scores,
            "alone": {**scores, "validation": scores["validation"] + 0.003} if number < 2 else None,
        })  # fmt: skip
    (path / "result.json").write_text(dumps({**result, "plans": plans}), encoding="utf-8")
    return path
