"""`translate`, with the emitters of all families of operators registered."""

from sigmaquant.export.onnx import (
    arithmetic,
    attention,
    endings,
    layer_nodes,
    moves,
    norms,
    pooling,
    recurrent,
    resizing,
)
from sigmaquant.export.onnx.translation import translate

__all__ = [
    "arithmetic",
    "attention",
    "endings",
    "layer_nodes",
    "moves",
    "norms",
    "pooling",
    "recurrent",
    "resizing",
    "translate",
]
