"""LiteRT (.tflite) files."""

from sigmaquant.export.litert.export import LitertLayer, LitertReport, export_litert
from sigmaquant.export.litert.form import litert_form
from sigmaquant.export.litert.runner import LitertRunner
from sigmaquant.export.litert.watch import LitertWatch

__all__ = ["LitertLayer", "LitertReport", "LitertRunner", "LitertWatch", "export_litert", "litert_form"]
