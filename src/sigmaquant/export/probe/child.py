"""The process that runs a file which may crash it. It imports nothing of this package."""

from __future__ import annotations

import sys
from typing import Any

FAILED, NOT_INSTALLED = 3, 4
"""Exit codes: the runtime refused the file, the runtime is not there."""
_BATCH = 2


def _numbers(generator: Any, shape: list[int], kind: Any) -> Any:
    import numpy as np

    kind = np.dtype(kind)
    if kind.kind == "f":
        return generator.standard_normal(shape).astype(kind)
    if kind.itemsize == 1 and kind.kind in "iu":
        return generator.integers(0, 100, shape).astype(kind)
    return np.zeros(shape, kind)  # indices: what is in range is not known


def run_onnx(path: str) -> None:
    """Once with the runtime's optimizations and once without."""
    import numpy as np
    import onnxruntime

    kinds = {"tensor(float)": "f4", "tensor(int8)": "i1", "tensor(uint8)": "u1", "tensor(int64)": "i8",
             "tensor(int32)": "i4", "tensor(bool)": "?", "tensor(double)": "f8"}  # fmt: skip
    for level in (onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL, None):
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        if level is not None:
            options.graph_optimization_level = level
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        generator = np.random.default_rng(0)
        feed = {
            value.name: _numbers(
                generator, [n if isinstance(n, int) else _BATCH for n in value.shape], kinds[value.type]
            )
            for value in session.get_inputs()
        }
        session.run(None, feed)


def run_litert(path: str) -> None:
    """Once with the runtime's default kernels and once with its own."""
    import numpy as np
    from ai_edge_litert import interpreter  # type: ignore[import-untyped]

    kinds = interpreter.OpResolverType
    for resolver in (kinds.AUTO, kinds.BUILTIN_WITHOUT_DEFAULT_DELEGATES):
        runtime = interpreter.Interpreter(model_path=path, num_threads=1, experimental_op_resolver_type=resolver)
        for detail in runtime.get_input_details():
            shape = [int(n) for n in detail["shape"]]
            runtime.resize_tensor_input(detail["index"], [_BATCH, *shape[1:]])
        runtime.allocate_tensors()
        generator = np.random.default_rng(0)
        for detail in runtime.get_input_details():
            shape = [int(n) for n in detail["shape"]]
            runtime.set_tensor(detail["index"], _numbers(generator, shape, detail["dtype"]))
        runtime.invoke()
        for detail in runtime.get_output_details():
            runtime.get_tensor(detail["index"])


def run_tflm(path: str) -> None:
    """Once, with room for more than its tensors."""
    import numpy as np
    from tflite_micro.python.tflite_micro import runtime
    from tflite_micro.tensorflow.lite.micro.python import schema_py_generated as schema

    with open(path, "rb") as file:  # noqa: PTH123 - as little as possible is imported
        data = file.read()
    graph = schema.Model.GetRootAs(data, 0).Subgraphs(0)
    sizes = [int(np.prod(graph.Tensors(k).ShapeAsNumpy())) for k in range(graph.TensorsLength())]
    interpreter = runtime.Interpreter.from_bytes(data, arena_size=2 * len(data) + 16 * sum(sizes) + (1 << 20))
    generator = np.random.default_rng(0)
    for number in range(graph.InputsLength()):
        detail = interpreter.get_input_details(number)
        interpreter.set_input(_numbers(generator, [int(n) for n in detail["shape"]], detail["dtype"]), number)
    interpreter.invoke()
    for number in range(graph.OutputsLength()):
        interpreter.get_output(number)


def main() -> int:
    """Run the file; what a runtime says against it is the last line that is printed."""
    runtime, path = sys.argv[1:]
    try:
        {"onnx": run_onnx, "litert": run_litert, "tflm": run_tflm}[runtime](path)
    except ImportError:
        return NOT_INSTALLED
    except Exception as error:  # runtimes raise whatever they like
        print(" ".join(f"{type(error).__name__}: {error}".split())[:300])
        return FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main())
