"""C99 for microcontrollers: bit-packed weights in flash, integer arithmetic, memory planned at export."""

from sigmaquant.export.c.plans import export_c_plans
from sigmaquant.export.c.report import CLayer, CPlans, CReport
from sigmaquant.export.c.runner import CRunner
from sigmaquant.export.c.writing import export_c

__all__ = ["CLayer", "CPlans", "CReport", "CRunner", "export_c", "export_c_plans"]
