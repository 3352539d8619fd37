"""Stands in for torchvision, of which two peers import names that this comparison never calls.

torchvision's published wheels need the CUDA build of PyTorch; next to the CPU build, importing it ends in 'operator
torchvision::nms does not exist'. This module has the names alone: whoever calls one gets an error.
"""

from torchvision import datasets, ops, transforms

__all__ = ["datasets", "ops", "transforms"]
__version__ = "0.28.0"
