"""What the search ranks layers by: σ, the divergence of quantized weights, and sensitivities of the output."""

from sigmaquant.statistics.batches import Batch
from sigmaquant.statistics.divergence import Sensitivity, divergences, weight_divergence
from sigmaquant.statistics.fisher import FisherSensitivities, fisher_sensitivities
from sigmaquant.statistics.outputs import output_sensitivity
from sigmaquant.statistics.registry import SENSITIVITIES, SensitivityFunction, sensitivity
from sigmaquant.statistics.sigma import SigmaVariant, layer_sigmas

__all__ = [
    "SENSITIVITIES",
    "Batch",
    "FisherSensitivities",
    "Sensitivity",
    "SensitivityFunction",
    "SigmaVariant",
    "divergences",
    "fisher_sensitivities",
    "layer_sigmas",
    "output_sensitivity",
    "sensitivity",
    "weight_divergence",
]
