"""`OnnxRunner`: an exported file in ONNX Runtime, for verification and measurement."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from sigmaquant.errors import MissingExtraError


class OnnxRunner:
    """Runs an ONNX file on the processor, as the network itself is called.

    Args:
        path: the file.
        fused: with the runtime's default optimizations, which make integer kernels of the QDQ form; False computes
            each node as ONNX defines it, in float.
        threads: of the runtime.

    Raises:
        MissingExtraError: the extra ``onnx`` is not installed.
    """

    def __init__(self, path: str | Path, *, fused: bool = True, threads: int = 1) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise MissingExtraError("ONNX Runtime", "onnx") from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        if not fused:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._inputs = [value.name for value in self.session.get_inputs()]

    def __call__(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Float outputs from inputs of the file's type, batch first."""
        feed = {name: x.detach().cpu().numpy() for name, x in zip(self._inputs, inputs, strict=True)}
        outputs = tuple(torch.from_numpy(y) for y in self.session.run(None, feed))
        return outputs[0] if len(outputs) == 1 else outputs
