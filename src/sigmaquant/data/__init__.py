"""Data in the forms users have them, as batches that depend on the seed alone."""

from sigmaquant.data.audio_folder import audiofolder_source
from sigmaquant.data.augment import CropAndFlip, Normalize
from sigmaquant.data.batch import Batch, Inputs
from sigmaquant.data.cifar10 import Cifar10, cifar10_arrays, cifar10_classes, cifar10_data
from sigmaquant.data.cifar100 import cifar100_arrays
from sigmaquant.data.convert import as_source, split
from sigmaquant.data.image_folder import ImageOptions, imagefolder_source
from sigmaquant.data.indexed import DatasetSource, TensorSource
from sigmaquant.data.npz import npz_arrays
from sigmaquant.data.sources import DataSource
from sigmaquant.data.streams import StreamSource
from sigmaquant.data.structure import Keys, Structure

__all__ = [
    "Batch",
    "Cifar10",
    "CropAndFlip",
    "DataSource",
    "DatasetSource",
    "ImageOptions",
    "Inputs",
    "Keys",
    "Normalize",
    "StreamSource",
    "Structure",
    "TensorSource",
    "as_source",
    "audiofolder_source",
    "cifar10_arrays",
    "cifar10_classes",
    "cifar10_data",
    "cifar100_arrays",
    "imagefolder_source",
    "npz_arrays",
    "split",
]
