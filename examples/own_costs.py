"""Costs of your own device, as a function: what no table of MACs can say.

    pip install "sigmaquant[demo]"
    python examples/own_costs.py              # about half a minute; the network is trained on first use
    python examples/own_costs.py --quick

The device here fetches weights in lines of 256 bits and computes while it waits, so that a layer takes the longer of
the two times. A function sees one layer and its bitwidths, and gives energy, latency or cycles; yours may ask a
simulator.

On the command line the same device is there as soon as the file that registers it has been imported, for instance by
your model's file: ``sigmaquant quantize my_model.py:network --hardware line-buffer --latency "20 us" …``.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from math import ceil

import digits

import sigmaquant
from sigmaquant import Budget, QuantizationResult
from sigmaquant.graph.specs import LayerSpec
from sigmaquant.hardware.own_costs import LayerEstimate, register_costs

QUICK = {"max_cycles": 2, "sensitivity_examples": 64, "batch_norm_examples": 512}
"""Settings for a few seconds."""
CLOCK_MHZ, LINE_BITS, PARALLEL_MACS = 200.0, 256, 64


@register_costs("line-buffer", "An accelerator whose weights arrive in lines of 256 bits.")
def line_buffer(layer: LayerSpec, weight_bits: int, activation_bits: int) -> LayerEstimate:
    """The longer of the time to fetch a layer's weights and the time to compute with them."""
    fetching = 4 * ceil(layer.elements * weight_bits / LINE_BITS)
    computing = ceil(layer.macs / PARALLEL_MACS)
    cycles = max(fetching, computing)
    energy_pj = 0.9 * layer.elements * weight_bits + 0.01 * layer.macs * weight_bits * activation_bits / 8
    return LayerEstimate(energy_pj=energy_pj, latency_ms=cycles / (1e3 * CLOCK_MHZ), cycles=cycles)


def main(arguments: Sequence[str] | None = None) -> QuantizationResult:
    """Half of the energy that 8 bits everywhere take on that device."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer measurements")
    options = parser.parse_args(arguments)
    network = digits.model()
    graph = sigmaquant.trace(network, digits.test_data().example())
    at_eight = sum(line_buffer(layer, 8, 8).energy_pj or 0.0 for layer in graph.layers)
    result = sigmaquant.quantize(
        network,
        digits.train_data(),
        validation_data=digits.val_data(),
        budget=Budget(energy=f"{at_eight / 2:.0f} pJ"),
        hardware="line-buffer",
        post_training=True,
        **(QUICK if options.quick else {}),
    )
    print(result)
    print(f"energy {at_eight / 1e3:.1f} nJ at 8 bits, {(result.cost.energy_pj or 0) / 1e3:.1f} nJ now")
    return result


if __name__ == "__main__":
    main()
