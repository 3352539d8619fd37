"""Quantizer arithmetic, quantized modules, and how a graph becomes a quantized network."""

from sigmaquant.quant.batch_norm import SamplingError, batch_norms, reestimate_batch_norm_
from sigmaquant.quant.network import (
    QuantizedNetwork,
    calibrate_,
    float_weights,
    prepare,
    restore_plan_,
    set_plan_,
)
from sigmaquant.quant.padding import counted_positions
from sigmaquant.quant.rounding import compensate_rounding_, input_moments, settle_weights_

__all__ = [
    "QuantizedNetwork",
    "SamplingError",
    "batch_norms",
    "calibrate_",
    "compensate_rounding_",
    "counted_positions",
    "float_weights",
    "input_moments",
    "prepare",
    "reestimate_batch_norm_",
    "restore_plan_",
    "set_plan_",
    "settle_weights_",
]
