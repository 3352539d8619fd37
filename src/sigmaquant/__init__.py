"""SigmaQuant fits a trained neural network into an edge device: a bitwidth for every layer, within a budget."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sigmaquant._version import __version__

if TYPE_CHECKING:
    from sigmaquant.api import quantize
    from sigmaquant.budget import Budget, Cost
    from sigmaquant.errors import SigmaQuantError
    from sigmaquant.frontends.models import load_model
    from sigmaquant.graph import trace
    from sigmaquant.hardware.profile import HardwareProfile, load_profile
    from sigmaquant.plan import BitwidthPlan
    from sigmaquant.search.settings import Settings
    from sigmaquant.sweeping import Sweep, sweep
    from sigmaquant.tasks import Task
    from sigmaquant.workflow.loading import evaluate_run, load_quantized
    from sigmaquant.workflow.results import QuantizationResult

_HOMES = {
    "BitwidthPlan": "plan",
    "Budget": "budget",
    "Cost": "budget",
    "HardwareProfile": "hardware.profile",
    "QuantizationResult": "workflow.results",
    "Settings": "search.settings",
    "SigmaQuantError": "errors",
    "Sweep": "sweeping",
    "Task": "tasks",
    "evaluate_run": "workflow.loading",
    "load_model": "frontends.models",
    "load_profile": "hardware.profile",
    "load_quantized": "workflow.loading",
    "quantize": "api",
    "sweep": "sweeping",
    "trace": "graph",
}
"""Where each name is from; a module is imported when one of its names is first asked for."""

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


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
