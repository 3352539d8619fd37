"""Files for TensorFlow Lite Micro (.tflite), with weights of 2 to 7 bits."""

from sigmaquant.export.tflm.export import TflmLayer, TflmReport, export_tflm
from sigmaquant.export.tflm.form import tflm_form
from sigmaquant.export.tflm.runner import TflmRunner
from sigmaquant.export.tflm.watch import TflmWatch

__all__ = ["TflmLayer", "TflmReport", "TflmRunner", "TflmWatch", "export_tflm", "tflm_form"]
