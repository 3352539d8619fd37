"""All operators that are read: importing this module registers them."""

from sigmaquant.frontends.onnx import elementwise, layers, recurrent, shapes

__all__ = ["elementwise", "layers", "recurrent", "shapes"]
