"""Files for TensorFlow Lite Micro (.tflite), with weights of 2 to 7 bits."""

from sigmaquant.export.tflm.form import tflm_form
from sigmaquant.export.tflm.intermediate_activations import TflmWatch
from sigmaquant.export.tflm.runner import TflmRunner
from sigmaquant.export.tflm.writing import TflmLayer, TflmReport, export_tflm

__all__ = ["TflmLayer", "TflmReport", "TflmRunner", "TflmWatch", "export_tflm", "tflm_form"]
