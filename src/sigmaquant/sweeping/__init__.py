"""Several budgets at once, and the frontier between cost and quality."""

from sigmaquant.sweeping.frontier import Point, front, knee
from sigmaquant.sweeping.run import Sweep, sweep, sweep_job

__all__ = ["Point", "Sweep", "front", "knee", "sweep", "sweep_job"]
