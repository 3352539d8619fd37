"""ONNX files with weights of 2 to 8 bits that ONNX Runtime computes in integers.

Needs the extra ``onnx``; importing this package does not, calling it without raises `MissingExtraError`.
"""

from sigmaquant.export.onnx.exporter import export_onnx
from sigmaquant.export.onnx.runtime import OnnxRunner, OnnxWatch

__all__ = ["OnnxRunner", "OnnxWatch", "export_onnx"]
