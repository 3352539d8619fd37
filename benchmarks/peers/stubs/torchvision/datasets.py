"""Names without a function, see `torchvision`."""

from torchvision.absent import __getattr__

__all__ = ["__getattr__"]
