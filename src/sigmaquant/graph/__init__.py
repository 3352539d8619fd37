"""A model as a graph of calls of its own modules, with every weight accounted for."""

from sigmaquant.graph.specs import ActivationSpec, FloatParameter, LayerSpec, QuantGraph
from sigmaquant.graph.trace import trace

__all__ = ["ActivationSpec", "FloatParameter", "LayerSpec", "QuantGraph", "trace"]
