"""Time of the search's own decisions, without any training: phase 1, and one move of phase 2.

Run with ``python benchmarks/decisions.py``. Synthetic networks with a fixed seed; CPU milliseconds, median of repeats.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np

from sigmaquant.search import SearchProblem, cluster_to_budget, propose
from sigmaquant.search.ilp import ilp
from sigmaquant.search.problem import Sensitivity

BITWIDTHS = (2, 4, 6, 8)


def network(layers: int, seed: int) -> tuple[SearchProblem, dict[str, float], Sensitivity]:
    """Wide layers with small sigmas, limits on size and latency at what 4.5 bits cost, a latency plateau at 4 bits."""
    rng = np.random.default_rng(seed)
    names = [f"layer{index}" for index in range(layers)]
    elements = dict(zip(names, np.sort(rng.lognormal(9, 1.5, layers)).astype(int).tolist(), strict=True))
    sigma = {name: float(count**-0.3 * rng.lognormal(0, 0.3)) for name, count in elements.items()}
    size = {name: {b: count * b / 8 for b in BITWIDTHS} for name, count in elements.items()}
    macs = {name: count * float(rng.integers(1, 1000)) for name, count in elements.items()}
    latency = {name: {b: macs[name] * max(b, 4) * 1e-9 for b in BITWIDTHS} for name in names}
    harm = {name: {b: float(rng.lognormal(0, 1)) * 4.0**-b for b in BITWIDTHS} for name in names}
    costs = {"size_bytes": size, "latency_ms": latency}
    upper = {resource: sum(row[8] for row in table.values()) * 4.5 / 8 for resource, table in costs.items()}
    choices = dict.fromkeys(names, BITWIDTHS)
    return SearchProblem(choices, costs, {"size_bytes": 1000.0}, upper, elements), sigma, harm


def cpu_ms(action: Callable[[], object], repeats: int) -> float:
    """Median CPU time of a call in milliseconds."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        action()
        times.append(1e3 * (time.process_time() - start))
    return statistics.median(times)


def timings(layers: int, seed: int, repeats: int) -> dict[str, float]:
    """CPU milliseconds of every kind of decision for one synthetic network."""
    problem, sigma, harm = network(layers, seed)
    high = dict.fromkeys(problem.choices, 8)
    fitted = propose(problem, high, harm, accuracy_met=True, count=layers)
    if fitted is None:
        raise SystemExit("no demotion fits; this synthetic network is no use")
    best = ilp(problem, harm)
    actions: dict[str, Callable[[], object]] = {
        "phase 1": lambda: cluster_to_budget(sigma, problem),
        "demote 1": lambda: propose(problem, high, harm, accuracy_met=True, count=1),
        "demote to fit": lambda: propose(problem, high, harm, accuracy_met=True, count=layers),
        "exchange 1": lambda: propose(problem, fitted.bits, harm, accuracy_met=False, count=1),
        "exchange 8": lambda: propose(problem, fitted.bits, harm, accuracy_met=False, count=8),
        # From the optimum nothing improves, so that every candidate is looked at.
        "exhausted": lambda: propose(problem, best, harm, accuracy_met=False, count=8),
        "ilp": lambda: ilp(problem, harm),
    }
    return {name: cpu_ms(action, repeats) for name, action in actions.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, nargs="+", default=[20, 60, 200])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rows = {layers: timings(layers, arguments.seed, arguments.repeats) for layers in arguments.layers}
    print("CPU milliseconds of one decision, median of", arguments.repeats)
    print("layers", *(f"{column:>14}" for column in next(iter(rows.values()))))
    for layers, row in rows.items():
        print(f"{layers:6d}", *(f"{value:14.2f}" for value in row.values()))


if __name__ == "__main__":
    main()
