"""A sensitivity of your own: what tells the search which layer suffers from few bits.

    pip install "sigmaquant[demo]"
    python examples/own_sensitivity.py              # about half a minute; the network is trained on first use
    python examples/own_sensitivity.py --quick

A sensitivity is a function that gives a number for every layer and bitwidth, the harm of quantizing that layer alone.
The one here is the squared error that the rounded weights make, as many papers have it: cheap, and blind to what the
layers behind do with the error. The package's own stands beside it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import digits

import sigmaquant
from sigmaquant import QuantizationResult
from sigmaquant.numerics import dequantize_weight, mse_weight_scales, quantize_weight
from sigmaquant.statistics.registry import Request, register_sensitivity

QUICK = {"max_cycles": 2, "sensitivity_examples": 64, "batch_norm_examples": 512}
"""Settings for a few seconds."""


@register_sensitivity("weight-error")
def weight_error(request: Request) -> dict[str, dict[int, float]]:
    """The sum of squared rounding errors of a layer's weights at each bitwidth; needs no data."""
    table: dict[str, dict[int, float]] = {}
    for layer in request.graph.layers:
        weight = request.graph.weight(layer.name).detach().movedim(layer.channel_axis, 0).flatten(1)
        table[layer.name] = {}
        for bits in request.bitwidths:
            midrise = bits <= request.midrise_up_to
            scale = mse_weight_scales(weight, bits, midrise=midrise)
            codes = quantize_weight(weight, scale, bits, midrise=midrise)
            table[layer.name][bits] = float((weight - dequantize_weight(codes, scale)).square().sum())
    return table


def main(arguments: Sequence[str] | None = None) -> dict[str, QuantizationResult]:
    """The integer program by this sensitivity and by the package's, at the same size and without training."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer measurements")
    options = parser.parse_args(arguments)
    network, results = digits.model(), {}
    print(f"{'sensitivity':14}{'validation':>12}{'divergence':>12}{'bytes':>8}  bits")
    for name in ("weight-error", "curvature"):
        result = sigmaquant.quantize(
            network,
            digits.train_data(),
            validation_data=digits.val_data(),
            budget="12x",
            strategy="ilp",
            sensitivity=name,
            post_training=True,
            **(QUICK if options.quick else {}),
        )
        results[name] = result
        print(
            f"{name:14}{result.scores.validation:>12.4f}{result.scores.divergence:>12.4f}"
            f"{result.cost.total_bytes:>8,}  {' '.join(map(str, result.plan.weights.values()))}"
        )
    return results


if __name__ == "__main__":
    main()
