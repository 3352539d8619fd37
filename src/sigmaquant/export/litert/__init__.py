"""LiteRT (.tflite) files."""

from sigmaquant.export.litert.export import LitertLayer, LitertReport, export_litert
from sigmaquant.export.litert.form import litert_form
from sigmaquant.export.litert.runner import LitertRunner

__all__ = ["LitertLayer", "LitertReport", "LitertRunner", "export_litert", "litert_form"]
