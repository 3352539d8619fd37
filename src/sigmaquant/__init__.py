"""SigmaQuant fits a trained neural network into an edge device: a bitwidth for every layer, within a budget."""

from sigmaquant._version import __version__
from sigmaquant.api import quantize
from sigmaquant.budget import Budget, Cost
from sigmaquant.errors import SigmaQuantError
from sigmaquant.frontends.models import load_model
from sigmaquant.graph import trace
from sigmaquant.hardware.profile import HardwareProfile, load_profile
from sigmaquant.loading import evaluate_run, load_quantized
from sigmaquant.plan import BitwidthPlan
from sigmaquant.results import QuantizationResult
from sigmaquant.search.settings import Settings
from sigmaquant.sweeping import Sweep, sweep
from sigmaquant.tasks import Task

__all__ = [
    "BitwidthPlan",
    "Budget",
    "Cost",
    "HardwareProfile",
    "QuantizationResult",
    "Settings",
    "SigmaQuantError",
    "Sweep",
    "Task",
    "__version__",
    "evaluate_run",
    "load_model",
    "load_profile",
    "load_quantized",
    "quantize",
    "sweep",
    "trace",
]
