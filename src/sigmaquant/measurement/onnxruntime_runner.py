"""``python -m sigmaquant.measurement.onnxruntime_runner MODEL RUNS``: latency of one inference on this machine.

The median of RUNS single-threaded inferences after a warm-up, in milliseconds: the runner for the machine at hand, and
an example of what a runner for a board has to do.
"""

from __future__ import annotations

import statistics
import sys
import time

import numpy as np

from sigmaquant.errors import MissingExtraError


def latency_ms(model: str, runs: int) -> float:
    """Median latency of one inference on random input.

    Raises:
        MissingExtraError: ONNX Runtime is not installed.
    """
    try:
        import onnxruntime
    except ImportError:
        raise MissingExtraError("running ONNX models", "onnx") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    feeds = {}
    for item in session.get_inputs():
        shape = [size if isinstance(size, int) else 1 for size in item.shape]
        kind = {"tensor(int8)": np.int8, "tensor(uint8)": np.uint8}.get(item.type, np.float32)
        feeds[item.name] = np.random.default_rng(0).normal(0, 1, shape).astype(kind)
    for _ in range(max(3, runs // 10)):
        session.run(None, feeds)
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        session.run(None, feeds)
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


if __name__ == "__main__":
    print(latency_ms(sys.argv[1], int(sys.argv[2])))
