"""Data in the forms users have them, as batches that depend on the seed alone."""

from sigmaquant.data.augment import CropAndFlip, Normalize
from sigmaquant.data.batch import Batch, Inputs
from sigmaquant.data.cifar10 import Cifar10, cifar10_arrays, cifar10_classes, cifar10_data
from sigmaquant.data.convert import as_source, split
from sigmaquant.data.indexed import DatasetSource, TensorSource
from sigmaquant.data.sources import DataSource
from sigmaquant.data.streams import StreamSource

__all__ = [
    "Batch",
    "Cifar10",
    "CropAndFlip",
    "DataSource",
    "DatasetSource",
    "Inputs",
    "Normalize",
    "StreamSource",
    "TensorSource",
    "as_source",
    "cifar10_arrays",
    "cifar10_classes",
    "cifar10_data",
    "split",
]
