"""From a trained quantized network to integers, and their execution."""

from sigmaquant.lowering.executor import IntegerExecutor
from sigmaquant.lowering.lower import lower
from sigmaquant.lowering.model import IntegerModel

__all__ = ["IntegerExecutor", "IntegerModel", "lower"]
