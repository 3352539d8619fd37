"""C99 for microcontrollers: bit-packed weights in flash, integer arithmetic, memory planned at export."""

from sigmaquant.export.c.export import export_c
from sigmaquant.export.c.plans import export_c_plans
from sigmaquant.export.c.report import CLayer, CPlans, CReport
from sigmaquant.export.c.runner import CRunner

__all__ = ["CLayer", "CPlans", "CReport", "CRunner", "export_c", "export_c_plans"]
