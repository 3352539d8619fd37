"""The schema's classes of the package that verifies the files."""

from __future__ import annotations

import importlib
from typing import Any

from sigmaquant.errors import MissingExtraError


def micro_schema() -> Any:
    """The module with the classes of the file's schema.

    Raises:
        MissingExtraError: the extra ``tflm`` is not installed.
    """
    try:
        return importlib.import_module("tflite_micro.tensorflow.lite.micro.python.schema_py_generated")
    except ImportError as error:
        raise MissingExtraError("TensorFlow Lite Micro", "tflm") from error
