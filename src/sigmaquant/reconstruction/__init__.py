"""Reconstruction: rounding, scales and biases learned block by block from the float network, without labels."""

from sigmaquant.reconstruction.reconstruction import Reconstruction, in_batches
from sigmaquant.reconstruction.schedule import Schedule

__all__ = ["Reconstruction", "Schedule", "in_batches"]
