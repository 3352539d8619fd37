"""What the search ranks layers by: σ, the divergence of quantized weights, and sensitivities of the output."""

from sigmaquant.statistics.activations import activation_sensitivities
from sigmaquant.statistics.batches import Batch
from sigmaquant.statistics.divergence import Sensitivity, divergences, weight_divergence
from sigmaquant.statistics.drawing import Drawn, draw_until_stable
from sigmaquant.statistics.fisher import FisherSensitivities, fisher_sensitivities
from sigmaquant.statistics.output_sensitivity import output_sensitivity
from sigmaquant.statistics.quantized import QuantizedWeights
from sigmaquant.statistics.registry import (
    ESTIMATED,
    SENSITIVITIES,
    SensitivityFunction,
    register_sensitivity,
    sensitivity,
)
from sigmaquant.statistics.sigma import SigmaVariant, layer_sigmas

__all__ = [
    "ESTIMATED",
    "SENSITIVITIES",
    "Batch",
    "Drawn",
    "FisherSensitivities",
    "QuantizedWeights",
    "Sensitivity",
    "SensitivityFunction",
    "SigmaVariant",
    "activation_sensitivities",
    "divergences",
    "draw_until_stable",
    "fisher_sensitivities",
    "layer_sigmas",
    "output_sensitivity",
    "register_sensitivity",
    "sensitivity",
    "weight_divergence",
]
