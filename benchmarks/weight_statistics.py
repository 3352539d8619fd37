"""Time and memory of σ and D_i(b) on a network of ViT-Base's size, against one read of its weights.

    python benchmarks/weight_statistics.py [--threads N] [--repeats N] [--width 768] [--blocks 12]

Everything is measured in a fresh process, whose peak memory is then that of the statistics. Times are the least of
several, taken in turn with the read they are compared with; CPU seconds stand beside wall seconds because a shared
machine inflates the latter.

The file is not called statistics.py: Python puts a script's folder first on its path, and the standard library's module
of that name, which torch imports, would be this file.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

BITWIDTHS = (2, 4, 6, 8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--blocks", type=int, default=12)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(measure(arguments.threads, arguments.repeats, arguments.width, arguments.blocks)))
        return
    environment = {"GOMP_SPINCOUNT": "10000", **os.environ}
    done = subprocess.run(
        [sys.executable, __file__, *sys.argv[1:], "--child"], env=environment, stdout=subprocess.PIPE, check=True
    )
    for name, value in json.loads(done.stdout).items():
        print(f"{name:<44} {value:,.4g}")


def measure(threads: int, repeats: int, width: int, blocks: int) -> dict[str, float]:
    """All figures of one process; the imports are here so that the parent stays small."""
    import torch

    from sigmaquant.statistics import divergences, layer_sigmas

    torch.set_num_threads(threads)
    divergences(bag(torch.nn.Linear(64, 64)), BITWIDTHS)  # code and libraries are loaded before memory is counted
    empty = resident_bytes()
    torch.manual_seed(0)
    graph = bag(*vit_layers(width, blocks))
    model_bytes = sum(p.numel() * p.element_size() for p in graph.module.parameters())
    loaded = resident_bytes()
    layer_sigmas(graph)
    divergences(graph, BITWIDTHS)
    peak = peak_bytes()

    weights = [graph.weight(spec.name).detach() for spec in graph.layers]
    tasks: dict[str, Callable[[], object]] = {
        "read": lambda: [weight.sum() for weight in weights],
        "sigma": lambda: layer_sigmas(graph),
        "divergence": lambda: divergences(graph, BITWIDTHS),
    }
    wall = dict.fromkeys(tasks, float("inf"))
    cpu = dict.fromkeys(tasks, float("inf"))
    for _ in range(repeats):
        for name, task in tasks.items():
            started, used = time.perf_counter(), time.process_time()
            task()
            cpu[name] = min(cpu[name], time.process_time() - used)
            wall[name] = min(wall[name], time.perf_counter() - started)
    both = wall["sigma"] + wall["divergence"]
    return {
        "weights [million]": sum(weight.numel() for weight in weights) / 1e6,
        "layers": len(weights),
        "threads": threads,
        **{f"{name}, wall [s]": value for name, value in wall.items()},
        **{f"{name}, CPU [s]": value for name, value in cpu.items()},
        "sigma / one read": wall["sigma"] / wall["read"],
        f"divergence at {len(BITWIDTHS)} bitwidths / one read": wall["divergence"] / wall["read"],
        "both / one read": both / wall["read"],
        "both, CPU / one read, CPU": (cpu["sigma"] + cpu["divergence"]) / cpu["read"],
        "both, per weight [ns]": both / sum(weight.numel() for weight in weights) * 1e9,
        "model [MB]": model_bytes / 1e6,
        "peak beyond the interpreter [MB]": (peak - empty) / 1e6,
        "peak beyond the model [MB]": (peak - loaded) / 1e6,
        "peak / model": (peak - empty) / model_bytes,
    }


def vit_layers(width, blocks):
    """The weights of a Vision Transformer with 16 x 16 patches and 1000 classes (12 blocks of 768: ViT-Base)."""
    from torch import nn

    layers = [nn.Conv2d(3, width, 16, 16)]
    for _ in range(blocks):
        layers += [nn.Linear(width, width) for _ in range(4)]
        layers += [nn.Linear(width, 4 * width), nn.Linear(4 * width, width)]
    return [*layers, nn.Linear(width, 1000)]


def bag(*layers):
    """A graph that calls the layers one after the other; it is never run."""
    from torch import fx, nn

    from sigmaquant.graph.specs import LayerSpec, QuantGraph

    module = fx.symbolic_trace(nn.Sequential(*layers))
    kind = {nn.Conv2d: "conv2d", nn.Linear: "linear"}
    specs = [
        LayerSpec(
            str(index), kind[type(m)], f"{index}.weight", tuple(m.weight.shape), 0, 1, m.bias is not None, 0, (), ()
        )
        for index, m in enumerate(layers)
    ]
    return QuantGraph(module, tuple(specs))


def resident_bytes() -> int:
    """Memory this process holds now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def peak_bytes() -> int:
    """The most memory this process ever held."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
