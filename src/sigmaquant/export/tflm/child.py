"""The process that a file runs in, where it can crash no other. It imports nothing of this package.

It reads batches from standard input and writes results to standard output, each a list of arrays: their number and
length in bytes, then each in NumPy's format. What the runtime says goes to standard error. A first message tells how
many inputs and outputs there are, their shapes and grids; the memory that the interpreter needs is printed after the
first run.
"""

from __future__ import annotations

import io
import struct
import sys
from typing import IO, Any

import numpy as np

_HEAD = struct.Struct("<iq")
_SPARE = 1 << 20


def send(stream: IO[bytes], arrays: list[Any]) -> None:
    """Write a list of arrays."""
    content = io.BytesIO()  # NumPy takes a pipe for a file in which it can seek
    for array in arrays:
        np.lib.format.write_array(content, np.ascontiguousarray(array), allow_pickle=False)
    data = content.getvalue()
    stream.write(_HEAD.pack(len(arrays), len(data)))
    stream.write(data)
    stream.flush()


def receive(stream: IO[bytes]) -> list[Any] | None:
    """Read a list of arrays; None at the end."""
    head = stream.read(_HEAD.size)
    if len(head) < _HEAD.size:
        return None
    count, size = _HEAD.unpack(head)
    data = stream.read(size)
    if len(data) < size:
        return None
    content = io.BytesIO(data)
    return [np.lib.format.read_array(content, allow_pickle=False) for _ in range(count)]


def arena_size(data: bytes, graph: Any) -> int:
    """More than all tensors of a file together need, twice: kernels have scratch."""
    total = len(data) + _SPARE
    for index in range(graph.TensorsLength()):
        tensor = graph.Tensors(index)
        total += 1024 + 8 * int(np.prod(tensor.ShapeAsNumpy())) if tensor.ShapeLength() else 1024
    return 2 * total


def details(interpreter: Any, number: int, outputs: bool) -> list[Any]:
    """Shape, whether it is float, scale and zero-point of an input or output."""
    found = interpreter.get_output_details(number) if outputs else interpreter.get_input_details(number)
    grid = found["quantization_parameters"]
    is_float = np.dtype(found["dtype"]) == np.float32
    scale, zero = (1.0, 0) if is_float else (grid["scales"][0], grid["zero_points"][0])
    return [np.array(found["shape"], np.int64), np.array([is_float, scale, zero], np.float64)]


def main() -> int:
    """Run a file on batches; arguments are its path and the tensors to show beside its outputs."""
    from tflite_micro.python.tflite_micro import runtime
    from tflite_micro.tensorflow.lite.micro.python import schema_py_generated as schema

    path, *shown = sys.argv[1:]
    with open(path, "rb") as file:  # noqa: PTH123 - as little as possible is imported
        data = file.read()
    graph = schema.Model.GetRootAs(data, 0).Subgraphs(0)
    inputs, outputs = graph.InputsLength(), graph.OutputsLength()
    kinds = runtime.InterpreterConfig
    config = kinds.kPreserveAllTensors if shown else kinds.kAllocationRecording
    interpreter = runtime.Interpreter.from_bytes(data, arena_size=arena_size(data, graph), intrepreter_config=config)
    given = [details(interpreter, k, False) for k in range(inputs)]
    gives = [details(interpreter, k, True) for k in range(outputs)]
    send(sys.stdout.buffer, [np.array([inputs]), *(array for pair in (*given, *gives) for array in pair)])
    rows = [int(shape[0]) if len(shape) else 1 for shape, _ in given]
    first = True
    while (batch := receive(sys.stdin.buffer)) is not None:
        found: list[list[Any]] = []
        for example in range(len(batch[0]) // rows[0]):
            for number, (array, count) in enumerate(zip(batch, rows, strict=True)):
                part = array[example * count : (example + 1) * count]
                interpreter.set_input(part.reshape([int(n) for n in given[number][0]]), number)
            interpreter.invoke()
            results = [interpreter.get_output(k).copy() for k in range(outputs)]
            found.append(results + [interpreter.GetTensor(int(k), 0)["tensor_data"].copy() for k in shown])
            interpreter.reset()
        if first and not shown:
            interpreter.print_allocations()
            first = False
        sys.stderr.flush()
        columns = zip(*found, strict=True)
        send(sys.stdout.buffer, [np.concatenate([np.atleast_1d(one) for one in column]) for column in columns])
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ImportError:
        sys.exit(4)
    except Exception as error:  # the runtime has said more before
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(3)
