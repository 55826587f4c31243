"""Data sets of images by name, their splits, the batches they yield, and batched augmentation.

A loader returns ``Splits`` of ``ImageData``, or of ``StreamedImages`` for data sets larger than
memory; both yield a ``Batch``. All randomness comes from a generator or a seed that the caller passes
in; torch's global generator is never used.
"""

from dotkd.data.augment import Augmentation, RandomResizedCrop, crop_flip
from dotkd.data.folders import ImageFiles, load_folder, load_imagenet, load_tiny_imagenet
from dotkd.data.hub import load_cifar, load_cifar10, load_cifar100, load_hub
from dotkd.data.images import Batch, DataFacts, ImageData, Images, Splits
from dotkd.data.sources import (
    DataOption,
    add_label_noise,
    data_facts,
    data_options,
    data_sets,
    load_data,
    load_digits,
)
from dotkd.data.streamed import StreamedImages

DATA_SETS: tuple[str, ...] = data_sets()

__all__ = [
    "DATA_SETS",
    "Augmentation",
    "Batch",
    "DataFacts",
    "DataOption",
    "ImageData",
    "ImageFiles",
    "Images",
    "RandomResizedCrop",
    "Splits",
    "StreamedImages",
    "add_label_noise",
    "crop_flip",
    "data_facts",
    "data_options",
    "load_cifar",
    "load_cifar10",
    "load_cifar100",
    "load_data",
    "load_digits",
    "load_folder",
    "load_hub",
    "load_imagenet",
    "load_tiny_imagenet",
]
