"""All kinds of layers that are read: importing this module registers them."""

from sigmaquant.frontends.keras import activations, layers, recurrent

__all__ = ["activations", "layers", "recurrent"]
