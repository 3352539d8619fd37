"""LiteRT (.tflite) files."""

from sigmaquant.export.litert.form import litert_form
from sigmaquant.export.litert.intermediate_activations import LitertWatch
from sigmaquant.export.litert.runner import LitertRunner
from sigmaquant.export.litert.writing import LitertLayer, LitertReport, export_litert

__all__ = ["LitertLayer", "LitertReport", "LitertRunner", "LitertWatch", "export_litert", "litert_form"]
