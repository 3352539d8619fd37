"""How time and memory of a post-training run grow with the network: layers are added, nothing else changes.

    python benchmarks/scale.py [--blocks 4,12,36] [--width 1024] [--threads N] [--rounding compensated]

Residual blocks of two linear layers, as in a transformer, with random weights: 8.4 M parameters a block at the default
width, 302 M in the largest network. Each run is a process of its own, whose peak of resident memory, less what the
imports take, is compared with the bytes of the float weights. Seconds are of the processor, since a shared machine
inflates wall time.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", default="4,12,36")
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounding", default="compensated", choices=["compensated", "nearest"])
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child is not None:
        print(json.dumps(measure(arguments.child, arguments.width, arguments.threads, arguments.rounding)))
        return
    heads = ("parameters", "layers", "CPU s", "CPU s / layer", "peak / weights", "checkpoint / weights")
    print(" | ".join(heads), flush=True)
    for blocks in map(int, arguments.blocks.split(",")):
        command = [sys.executable, __file__, *sys.argv[1:], "--child", str(blocks)]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
        row = json.loads(done.stdout.splitlines()[-1])
        print(
            f"{row['parameters'] / 1e6:.0f} M | {row['layers']} | {row['cpu_s']:.0f} | "
            f"{row['cpu_s'] / row['layers']:.2f} | {row['peak'] / row['weights']:.2f} | "
            f"{row['checkpoint'] / row['weights']:.2f}",
            flush=True,
        )


def measure(blocks: int, width: int, threads: int, rounding: str) -> dict[str, float]:
    """One run; the imports are here so that the parent stays small."""
    import torch
    from torch import Tensor, nn

    import sigmaquant
    from sigmaquant import Budget
    from sigmaquant.runs import RunFiles

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.up, self.down = (
                nn.LayerNorm(width),
                nn.Linear(width, 4 * width),
                nn.Linear(4 * width, width),
            )

        def forward(self, x: Tensor) -> Tensor:
            return x + self.down(torch.relu(self.up(self.norm(x))))

    torch.set_num_threads(threads)
    empty = peak_bytes()
    torch.manual_seed(0)
    network = nn.Sequential(*(Block() for _ in range(blocks)), nn.Linear(width, 10)).eval()
    inputs, targets = torch.randn(64, width), torch.arange(64) % 10
    with tempfile.TemporaryDirectory() as folder:
        begun = time.process_time()
        result = sigmaquant.quantize(
            network,
            (inputs, targets),
            validation_data=(inputs, targets),
            budget=Budget(size="8x", size_counts="weights"),
            post_training=True,
            run_dir=folder,
            rounding=rounding,
        )
        seconds = time.process_time() - begun
        checkpoint = RunFiles(folder).checkpoint_path.stat().st_size
    parameters = sum(p.numel() for p in network.parameters())
    return {
        "parameters": parameters,
        "weights": 4 * parameters,
        "layers": len(result.plan.weights),
        "cpu_s": seconds,
        "peak": peak_bytes() - empty,
        "checkpoint": checkpoint,
    }


def peak_bytes() -> int:
    """Most memory that this process has had."""
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    main()
