"""A search of your own: one function, registered under a name, then used like the ones that come with the package.

    pip install "sigmaquant[demo]"
    python examples/own_strategy.py              # about half a minute; the network is trained on first use
    python examples/own_strategy.py --quick

On the command line the same strategy is there as soon as the file that registers it has been imported, for instance by
your model's file: ``sigmaquant quantize my_model.py:network --strategy largest-first …``.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import digits

import sigmaquant
from sigmaquant import QuantizationResult
from sigmaquant.search.problem import SearchProblem
from sigmaquant.search.strategies import Evidence, register

QUICK = {"max_cycles": 2, "sensitivity_examples": 64, "batch_norm_examples": 512}
"""Settings for a few seconds."""


@register("largest-first")
def largest_first(problem: SearchProblem, evidence: Evidence) -> dict[str, int]:
    """Take bits from the layer with the most weight bits until everything fits.

    A strategy sees numbers only, never the network: the bitwidths that each layer may have, what each of them costs,
    and what is allowed. It gives back a bitwidth for every layer. `evidence` holds what can be measured: a sensitivity
    table, and a function that measures a plan.
    """
    bits = {name: allowed[-1] for name, allowed in problem.choices.items()}
    while not problem.fits(bits):
        # Budgets that no plan can meet are refused before any strategy is asked, so that some layer is left to demote.
        candidates = [name for name in bits if problem.lower(name, bits[name]) is not None]
        largest = max(candidates, key=lambda name: problem.elements[name] * bits[name])
        lower = problem.lower(largest, bits[largest])
        assert lower is not None, "only such layers are candidates"
        bits[largest] = lower
    return bits


def main(arguments: Sequence[str] | None = None) -> dict[str, QuantizationResult]:
    """The own strategy beside two that come with the package, at the same size and without training."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer measurements")
    options = parser.parse_args(arguments)
    network, results = digits.model(), {}
    print(f"{'strategy':16}{'validation':>12}{'divergence':>12}{'bytes':>8}  bits")
    for strategy in ("largest-first", "uniform", "sigma"):
        result = sigmaquant.quantize(
            network,
            digits.train_data(),
            validation_data=digits.val_data(),
            budget="12x",
            strategy=strategy,
            post_training=True,
            **(QUICK if options.quick else {}),
        )
        results[strategy] = result
        print(
            f"{strategy:16}{result.scores.validation:>12.4f}{result.scores.divergence:>12.4f}"
            f"{result.cost.total_bytes:>8,}  {' '.join(map(str, result.plan.weights.values()))}"
        )
    return results


if __name__ == "__main__":
    main()
