"""``python -m sigmaquant.measurement.tflite_runner MODEL RUNS [tflm]``: latency of one inference on this machine.

The median of RUNS inferences of a .tflite file after a warm-up, in milliseconds: in LiteRT with one thread, or in
TensorFlow Lite Micro, whose process and its pipes are part of what is measured.
"""

from __future__ import annotations

import statistics
import sys
import time

import torch

from sigmaquant.export.litert.runner import LitertRunner
from sigmaquant.export.tflm.runner import TflmRunner


def latency_ms(model: str, runs: int, micro: bool = False) -> float:
    """Median latency of one inference on random input.

    Raises:
        ArtifactError: no file that the runtime can run.
        MissingExtraError: the runtime is not installed.
    """
    runner = TflmRunner(model) if micro else LitertRunner(model)
    shapes = [port.shape for port in runner.inputs] if isinstance(runner, TflmRunner) else runner.input_shapes
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(shape, generator=generator) for shape in shapes]
    for _ in range(max(3, runs // 10)):
        runner.raw(*inputs)
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        runner.raw(*inputs)
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


if __name__ == "__main__":
    print(latency_ms(sys.argv[1], int(sys.argv[2]), sys.argv[3:] == ["tflm"]))
