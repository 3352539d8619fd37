"""Several plans of one network that share their weights, see docs/nested-plans.md."""

from sigmaquant.nested.run import run_plans

__all__ = ["run_plans"]
